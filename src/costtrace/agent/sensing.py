"""The sensors as the agent's loop sees them: which devices are busy, what has been read, how it is going."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import costtrace
from costtrace.attribution.energy.device_match import resolve
from costtrace.attribution.pipeline import Pipeline
from costtrace.config.settings import Settings
from costtrace.core import clock
from costtrace.core.units import NS_PER_S
from costtrace.sensors.choose import make_sensor
from costtrace.sensors.sampler import Sampler
from costtrace.sensors.sensor_journal import SensorJournal

if TYPE_CHECKING:  # an agent without emission needs no OpenTelemetry
    from costtrace.telemetry.health import Health
    from costtrace.telemetry.metric_state import DeviceReading


class Shows(Protocol):
    """Who shows what a device's sensor said."""

    @property
    def health(self) -> "Health":
        """Figures of the agent itself."""
        ...

    def device(self, reading: "DeviceReading") -> None:
        """A device has been read."""


class Sensing:
    """The sensor desk at work beside a node. No call of it waits for a driver."""

    def __init__(self, desk: SensorJournal) -> None:
        self._desk = desk
        self._boot_id = clock.boot_id()

    def start(self) -> None:
        """Begin to sample."""
        self._desk.start()

    def turn(self, node: Pipeline, shows: Shows | None, warn: Callable[[str, str], None]) -> None:
        """Journal what has been read, show it, and say what is wrong."""
        self._desk.turn(self._busy(node))
        for subject, message in self._desk.take_notices():
            warn(subject, message)
        latest = self._desk.take_latest()
        if shows is None:
            return
        from costtrace.telemetry.metric_state import DeviceReading  # noqa: PLC0415 - see above

        for device, reading in latest:
            if device.parent:  # what an instance is given is its board's already
                continue
            shown = DeviceReading(device.uuid, device.name, device.kind, reading.energy_uj, reading.power_mw)
            shown = shown._replace(simulated=device.simulated)
            meter = node.meters.get(f"{self._boot_id}/{device.uuid}")
            if meter is not None and meter.attributed_uj:
                shown = shown._replace(
                    idle_w=meter.model.idle_watts(),
                    residual=meter.check.residual(),
                    model_error=meter.model.mape(),
                    lag_s=meter.lag.lag_ns / NS_PER_S,
                )
            shows.device(shown)
        cost = self._desk.cost
        shows.health.set("sensor.calls", cost.calls)
        shows.health.set("sensor.cpu.time", cost.cpu_ns / NS_PER_S)
        shows.health.set("sensor.stalled", self._desk.stalled_ns / NS_PER_S)

    def stop(self) -> None:
        """End, with everything written that was read."""
        self._desk.stop()

    def _busy(self, node: Pipeline) -> set[str]:
        """The devices of the engines that live, by the names that the sensor has for them."""
        engines = [engine.started for engine in node.engines.values() if engine.started and not engine.ended]
        sensed = self._desk.sensed
        return {resolve(device, sensed).uuid for started in engines for device in started.devices} - {""}


def sensing(settings: Settings) -> Sensing | None:
    """Make the sensors that the settings ask for; None where that is none."""
    if settings.sensor == "none":
        return None
    gains = {name: str(gain) for name, gain in settings.sensor_gain.items()}
    sensor = make_sensor(settings.sensor, gains, mig_rule=settings.mig_rule)
    sampler = Sampler(sensor, hz=settings.sensor_hz)
    desk = SensorJournal(settings.home, sampler, cap_bytes=settings.journal_cap_bytes, version=costtrace.__version__)
    return Sensing(desk)
