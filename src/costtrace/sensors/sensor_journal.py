"""The agent's side of the sensors: it writes their readings into a journal, and notices when the sensor thread hangs.

By the journal energy can be replayed like everything else: the same readings give the same rows. The agent's loop
writes it, so that it can record that the sensor thread is stuck while it is.
"""

import logging
import re
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from costtrace.core import clock
from costtrace.core.errors import JournalError
from costtrace.core.events import SENSORS, DeviceSeen, Event, Heartbeat, Reading, Snapshot
from costtrace.core.units import NS_PER_S
from costtrace.journal.writer import JournalWriter, new_engine_id
from costtrace.sensors.sampler import Cost, Sampler
from costtrace.sensors.sensor import Notice

log = logging.getLogger("costtrace.sensors")

BEAT_NS = NS_PER_S
_STUCK = (
    "a call into the driver has not returned for 10 s: energy is unknown until it does. Serving and GPU time are not "
    "affected. See the kernel's log for Xid messages."
)


class Latest(NamedTuple):
    """A device and its newest reading that has a value."""

    device: DeviceSeen
    reading: Reading


class SensorJournal:
    """Owns the sampler and the sensors' journal. Called by the agent's loop; no call waits for a driver."""

    def __init__(self, home: Path, sampler: Sampler, *, cap_bytes: int, version: str = "") -> None:
        self._home = home
        self._sampler = sampler
        self._cap_bytes = cap_bytes
        self._version = version
        self._writer: JournalWriter | None = None
        self._seen: dict[str, DeviceSeen] = {}
        self._latest: dict[str, Latest] = {}
        self._changed: set[str] = set()
        self._beat_ns = 0
        self._stall_written_ns = 0
        self._notices: list[Notice] = []

    def start(self) -> None:
        """Begin to sample. Raises nothing: if no journal can be written a notice says that energy is unknown."""
        host = re.sub(r"[^A-Za-z0-9._-]", "_", clock.host_name())
        try:
            self._writer = JournalWriter(
                self._home,
                new_engine_id(f"{SENSORS}-{host}"),
                # There is no state to restore: a reader that lost readings goes on with the next one.
                lambda sequence: Snapshot(sequence, time.monotonic_ns(), 0, (), ()),
                cap_bytes=self._cap_bytes,
                version=self._version,
            )
        except JournalError as error:
            self._notices.append(("sensor", f"energy is unknown: {error}"))
            return
        self._sampler.start()

    def turn(self, busy: Collection[str]) -> None:
        """Write what has been read since the last turn. *busy*: UUIDs of devices that a live engine has."""
        writer = self._writer
        if writer is None:
            return
        self._sampler.busy(busy)
        now_ns = time.monotonic_ns()
        devices = {device.uuid: device for device in self._sampler.sensor.devices()}
        events: list[Event] = [*self._changed_devices(devices, now_ns)]
        for reading in [*self._sampler.take(), *self._stalled(devices, now_ns)]:
            events.append(reading)
            if reading.device in devices and (reading.energy_uj is not None or reading.power_mw is not None):
                self._latest[reading.device] = Latest(devices[reading.device], reading)
                self._changed.add(reading.device)
        if now_ns - self._beat_ns >= BEAT_NS:
            self._beat_ns = now_ns
            events.append(Heartbeat(now_ns, clock.anchor().wall(now_ns)))
        writer.append(events)

    def take_latest(self) -> list[Latest]:
        """The newest reading of each device that has been read since the last call."""
        changed, self._changed = self._changed, set()
        return [self._latest[uuid] for uuid in changed]

    def take_notices(self) -> list[Notice]:
        """Notices since the last call."""
        notices, self._notices = self._notices, []
        return [*notices, *self._sampler.sensor.take_notices()]

    @property
    def devices(self) -> Sequence[DeviceSeen]:
        """The devices, as last written into the journal."""
        return list(self._seen.values())

    @property
    def cost(self) -> Cost:
        """What reading has cost so far."""
        return self._sampler.cost

    @property
    def stalled_ns(self) -> int:
        """How long the sensor thread has been stuck; 0: it is not."""
        return self._sampler.stalled_ns(time.monotonic_ns())

    def stop(self) -> None:
        """Stop, with every reading written."""
        if self._writer is None:
            return
        if not self._sampler.stop():
            log.warning("the sensor thread is stuck in the driver: it is left behind")
        self.turn(())
        self._writer.close()
        self._writer = None

    def _changed_devices(self, devices: Mapping[str, DeviceSeen], now_ns: int) -> list[DeviceSeen]:
        """Devices that are new, or have changed in something that energy depends on (so not `details`)."""
        changed = []
        for uuid, device in devices.items():
            known = self._seen.get(uuid)
            if known is None or structs.replace(device, at_ns=known.at_ns, details=known.details) != known:
                self._seen[uuid] = structs.replace(device, at_ns=now_ns)
                changed.append(self._seen[uuid])
        return changed

    def _stalled(self, devices: Mapping[str, DeviceSeen], now_ns: int) -> list[Reading]:
        """While the thread is stuck: once a second, a reading of each device with the fault ``stalled``."""
        stuck_ns = self._sampler.stalled_ns(now_ns)
        if not stuck_ns or now_ns - self._stall_written_ns < BEAT_NS:
            return []
        if now_ns - self._stall_written_ns > stuck_ns:  # the first time in this stall
            self._notices.append(("sensor", _STUCK))
        self._stall_written_ns = now_ns
        return [
            Reading(
                *(device.uuid, now_ns, None, None, device.source, device.scope, "stalled"),
                gain=device.gain,
                share=device.share,
                simulated=device.simulated,
            )
            for device in devices.values()
        ]
