"""The sensors in the agent's loop: which devices are busy, what has been read, and what that costs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

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
    from costtrace.telemetry import Emission


class Sensing:
    """The sensors' journal beside a pipeline. No call waits for a driver."""

    def __init__(self, journal: SensorJournal) -> None:
        self._journal = journal
        self._boot_id = clock.boot_id()

    def start(self) -> None:
        """Begin to sample."""
        self._journal.start()

    def turn(self, pipeline: Pipeline, emitter: "Emission | None", warn: Callable[[str, str], None]) -> None:
        """Write what has been read into the journal, emit it, and pass on notices to *warn*."""
        self._journal.turn(self._busy(pipeline))
        for subject, message in self._journal.take_notices():
            warn(subject, message)
        latest = self._journal.take_latest()
        if emitter is None:
            return
        from costtrace.telemetry.metric_state import DeviceReading  # noqa: PLC0415 - needs OpenTelemetry

        for device, reading in latest:
            if device.parent:  # a MIG instance's energy is in its board's
                continue
            figures = DeviceReading(device.uuid, device.name, device.kind, reading.energy_uj, reading.power_mw)
            figures = figures._replace(simulated=device.simulated)
            meter = pipeline.meters.get(f"{self._boot_id}/{device.uuid}")
            if meter is not None and meter.attributed_uj:
                figures = figures._replace(
                    idle_w=meter.model.idle_watts(),
                    residual=meter.check.residual(),
                    model_error=meter.model.mape(),
                    lag_s=meter.lag.lag_ns / NS_PER_S,
                )
            emitter.device(figures)
        cost = self._journal.cost
        emitter.health.set("sensor.calls", cost.calls)
        emitter.health.set("sensor.cpu.time", cost.cpu_ns / NS_PER_S)
        emitter.health.set("sensor.stalled", self._journal.stalled_ns / NS_PER_S)

    def stop(self) -> None:
        """Stop, with every reading written."""
        self._journal.stop()

    def _busy(self, pipeline: Pipeline) -> set[str]:
        """UUIDs, as the sensors know them, of the devices that live engines have."""
        live = [engine.started for engine in pipeline.engines.values() if engine.started and not engine.ended]
        seen = self._journal.devices
        return {resolve(device, seen).uuid for started in live for device in started.devices} - {""}


def sensing(settings: Settings) -> Sensing | None:
    """Make the sensors that the settings ask for; None where `sensor` is `none`."""
    if settings.sensor == "none":
        return None
    gains = {name: str(gain) for name, gain in settings.sensor_gain.items()}
    sensor = make_sensor(settings.sensor, gains, mig_rule=settings.mig_rule)
    sampler = Sampler(sensor, hz=settings.sensor_hz)
    journal = SensorJournal(settings.home, sampler, cap_bytes=settings.journal_cap_bytes, version=costtrace.__version__)
    return Sensing(journal)
