"""The sensors by their names in the setting `sensor`."""

from collections.abc import Mapping

from costtrace.core import clock
from costtrace.sensors.sensor import Clocks, Sensor, Several


def make_sensor(
    name: str, gains: Mapping[str, str] | None = None, *, mig_rule: str = "slices", clocks: Clocks = clock.anchor
) -> Sensor:
    """Make the sensor called *name*: ``auto``, ``nvml``, ``rapl`` or ``none``. Nothing is opened yet.

    *gains*: declared correction by UUID, or by a pattern of names (``NVIDIA A100*``).
    """
    from costtrace.sensors.nvml.sensor import NvmlSensor  # noqa: PLC0415 - a sensor is loaded only where it is used
    from costtrace.sensors.rapl import RaplSensor  # noqa: PLC0415 - likewise

    if name == "none":
        return Several(())
    if name == "rapl":
        return RaplSensor(gains, clocks=clocks)
    nvml = NvmlSensor(gains, mig_rule=mig_rule, clocks=clocks, wanted=name == "nvml")
    return nvml if name == "nvml" else Several([nvml, RaplSensor(gains, clocks=clocks, wanted=False)])
