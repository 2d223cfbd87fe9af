"""All engines of one node: events in, rows out. The whole way from journal to ledger rows, as a pure function.

`agent` feeds it from journals and keeps its state beside their positions; `replay` feeds it from files. Same events,
same rows.
"""

from collections.abc import Mapping

import msgspec

from costtrace.attribution.energy.counter_windows import DeviceMeter
from costtrace.attribution.energy.device_match import meter_of
from costtrace.attribution.energy.remote_meters import RemoteMeters
from costtrace.attribution.energy.waiting import EnergyQueue
from costtrace.attribution.engine import EngineAttribution, Policy
from costtrace.attribution.time.segments import EngineTimeline
from costtrace.attribution.time.shared_devices import DeviceGroup, GroupMember
from costtrace.core.events import (
    AnyEvent,
    DeviceRef,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    Lost,
    Reading,
    SegmentHeader,
    Sensed,
)
from costtrace.core.rows import EngineRow, FitRow, PendingRow, Rows
from costtrace.core.units import NS_PER_S
from costtrace.core.wall_time import wall_offset

SENSOR_PATIENCE_NS = 60 * NS_PER_S
"""How long attribution waits for a device's next reading before it goes on without its energy."""


class EngineState(msgspec.Struct):
    """One engine on its way through the node."""

    engine_id: str
    header: SegmentHeader
    timeline: EngineTimeline
    attribution: EngineAttribution
    group: int = -1
    """Its `DeviceGroup`; -1 before its devices are known."""
    stage: EnergyQueue = msgspec.field(default_factory=lambda: EnergyQueue(()))
    started: EngineStarted | None = None
    ended: bool = False
    wall_offset_ns: int = 0
    """Wall time less monotonic time by its newest heartbeat that was read (what is attributed may be older)."""

    def attributed(self) -> bool:
        """Everything of it has become rows."""
        return self.ended and (self.group < 0 or bool(self.attribution.ended_ns))


class Pipeline(msgspec.Struct):
    """Engines and the groups in which they share devices."""

    policy: Policy
    window_length_ns: int
    engines: dict[str, EngineState] = {}
    groups: dict[int, DeviceGroup] = {}
    group_of_device: dict[str, int] = {}
    """By boot and device: the group that gives the device out. Remembered beyond its engines' ends."""
    next_group: int = 0
    meters: dict[str, DeviceMeter] = {}
    """Energy of the devices that have a sensor, by boot and device."""
    sensed: dict[str, dict[str, Sensed]] = {}
    """By boot and UUID: the devices that its sensors have found. Each agent's sensors say it anew."""
    remote: RemoteMeters = msgspec.field(default_factory=RemoteMeters)
    """What other nodes' sensors say of devices there."""
    remote_wait_ns: int = 0
    """How long attribution waits for the readings of a device on another node. 0: nobody brings any."""
    remote_clock_ns: int = 0
    """By how much their wall clocks may differ from this one's, as declared."""
    wall_offsets: dict[str, int] = {}
    """By boot: wall time less monotonic time, as its engines' journals say."""
    lost_steps: int = 0
    lost_events: int = 0
    """Of all engines, since the node was made; what damage took is not counted (nobody knows it)."""
    notices: list[tuple[str, str]] = []
    """(subject, message) for the operator, since they were last taken."""

    def add(self, engine_id: str, header: SegmentHeader) -> None:
        """A journal has been found (or has said again whose it is)."""
        if engine_id in self.engines:
            return
        offset = header.wall_ns - header.monotonic_ns
        attribution = EngineAttribution(engine_id, self.policy, offset)
        self.engines[engine_id] = EngineState(engine_id, header, EngineTimeline(), attribution, wall_offset_ns=offset)
        self.wall_offsets.setdefault(header.boot_id, offset)

    def take(self, engine_id: str, event: AnyEvent) -> None:
        """Take an event of one engine, in the order of its journal."""
        engine = self.engines[engine_id]
        if engine.ended or (engine.started is not None and isinstance(event, EngineStarted)):
            return  # after its end there can only be damage, and a second beginning repeats the first
        if isinstance(event, Heartbeat):
            self._check_clock(engine, event)
        if isinstance(event, Lost):
            self._lost(engine, event)
        items = engine.timeline.feed(event)
        if isinstance(event, EngineStarted):
            engine.started = event
            self._join(engine, event)
        if engine.group >= 0:
            member = self.groups[engine.group].members[engine_id]
            member.queue.extend(items)
            member.known_ns = engine.timeline.until_ns
            if isinstance(event, EngineStopped):
                member.ended = engine.ended = True

    def end(self, engine_id: str) -> None:
        """The writer is gone and its journal is read: what has not said goodbye was interrupted."""
        engine = self.engines[engine_id]
        if engine.ended:
            return
        engine.ended = True
        if engine.group >= 0:
            member = self.groups[engine.group].members[engine_id]
            member.queue.extend(engine.timeline.interrupted())
            member.known_ns = engine.timeline.until_ns
            member.ended = True

    def sweep(self, limit_ns: int, boot_id: str | None = None) -> int:
        """Attribute all that is known up to *limit_ns* (of one boot, or of all). Returns how many things that was."""
        self._recognise()
        for group in {e.group for e in self.engines.values() if boot_id in (None, e.header.boot_id)} - {-1}:
            for engine_id, item in self.groups[group].sweep(limit_ns):
                self.engines[engine_id].stage.put(item, self.meters)
        for key, meter in self.meters.items():
            if boot_id is None or key.startswith(f"{boot_id}/"):
                self._read_meter(key, meter, limit_ns)
        count = 0
        for engine in self.engines.values():
            for staged in engine.stage.take(self.meters):
                engine.attribution.feed(staged, self.meters, engine.stage.devices)
                count += 1
        return count

    def reading(self, boot_id: str, reading: Reading) -> None:
        """Take a sensor's reading of a device, in the order of its journal."""
        self._queue(f"{boot_id}/{reading.device}", reading, "")

    def found(self, boot_id: str, device: Sensed) -> None:
        """A sensor has found a device, or something of it has changed."""
        self.sensed.setdefault(boot_id, {})[device.uuid] = device

    def remote_reading(self, boot_id: str, journal: str, reading: Reading) -> None:
        """Take a reading of another node's sensor; *boot_id* is this node's."""
        if reading.device in self.sensed.get(boot_id, {}):
            return  # this node's own sensors see it
        for placed in self.remote.place(journal, reading, self.wall_offsets.get(boot_id)):
            self._queue(f"{boot_id}/{reading.device}", placed, self.remote.hosts[reading.device])

    def _queue(self, key: str, reading: Reading, host: str) -> None:
        meter = self.meters.setdefault(key, DeviceMeter())
        meter.host, meter.clock_ns = host, self.remote_clock_ns if host else 0
        meter.queue.append(reading)

    def pending_rows(self) -> list[PendingRow]:
        """Time of engines that is on no row yet, because the energy of a device on another node is waited for."""
        rows: dict[tuple[str, int, str], PendingRow] = {}
        for engine in self.engines.values():
            devices = () if engine.started is None else engine.started.devices
            hosts = [self.meters[key].host if key in self.meters else "" for key in engine.stage.devices]
            if not any(hosts):
                continue
            for window_ns, place, device_ns in engine.stage.waiting(self.meters):
                if hosts[place]:
                    key = (engine.engine_id, window_ns, devices[place].uuid)
                    total_ns = device_ns + (rows[key].device_ns if key in rows else 0)
                    rows[key] = PendingRow(window_ns, engine.engine_id, devices[place].uuid, hosts[place], total_ns)
        return list(rows.values())

    def _recognise(self) -> None:
        """Find the meters of devices that an engine names otherwise than the sensors do (by index, in part)."""
        for engine in self.engines.values():
            boot_id, started = engine.header.boot_id, engine.started
            if engine.ended or started is None:
                continue
            keys = list(engine.stage.devices)
            for place, device in enumerate(started.devices):
                if keys[place] in self.meters or keys[place] != f"{boot_id}/{device.uuid}":
                    continue
                elsewhere = is_elsewhere(engine, device)
                sensed = self.remote.devices.get(device.host, {}) if elsewhere else self.sensed.get(boot_id, {})
                # What CUDA shows the engine here says nothing of another node: an index there counts one GPU or none.
                found = meter_of(device, list(sensed.values()), {} if elsewhere else started.settings)
                key = f"{boot_id}/{found.uuid}"
                # One whose meter is another group's stays unknown: shared under two names it would be billed twice.
                if found.uuid and self.group_of_device.setdefault(key, engine.group) == engine.group:
                    keys[place] = key
            engine.stage.devices = tuple(keys)

    def _read_meter(self, key: str, meter: DeviceMeter, limit_ns: int) -> None:
        """Let a meter have the readings up to which all of its device's time has been given out."""
        known_ns = self._known_ns(key, limit_ns)
        taken = 0
        for reading in meter.queue:
            if reading.at_ns > known_ns:
                break
            meter.read(reading)
            taken += 1
        del meter.queue[:taken]
        patience_ns = max(self.remote_wait_ns, SENSOR_PATIENCE_NS) if meter.host else SENSOR_PATIENCE_NS
        if known_ns - meter.heard_ns() > patience_ns:
            # Nobody reads this device any more: what came after its last reading has no energy.
            meter.give_up(known_ns - patience_ns)

    def _known_ns(self, key: str, limit_ns: int) -> int:
        """Until when it is known who had a device."""
        group = self.group_of_device.get(key)
        if group is None or not self.groups[group].members:
            return limit_ns
        sharing = self.groups[group]
        waiting = [min(m.started_ns, m.announced_ns) for m in sharing.members.values() if not m.joined]
        # Of a piece that is being swept nothing has been given out yet.
        begun = [member.piece_start_ns for member in sharing.members.values() if member.piece_ns]
        return min([limit_ns, *begun, *([sharing.swept_ns] if len(waiting) < len(sharing.members) else waiting)])

    def take_rows(self) -> Rows:
        """Rows since the last call, of all engines."""
        rows = Rows([], [], [])
        for engine in self.engines.values():
            out = engine.attribution.take_rows()
            rows.postings.extend(out.postings)
            rows.meter.extend(out.meter)
            rows.records.extend(out.records)
        return rows

    def all_engine_rows(self) -> list[EngineRow]:
        """The engines that have said what they are."""
        return [row for engine in self.engines.values() if (row := engine_row(engine, self.meters)) is not None]

    def all_fit_rows(self) -> list[FitRow]:
        """What the step models of the engines have learned."""
        return [row for engine in self.engines.values() if (row := engine.attribution.fit_row()) is not None]

    def forget(self, engine_id: str) -> None:
        """Drop an engine that has been attributed to its end."""
        del self.engines[engine_id]

    def take_notices(self) -> list[tuple[str, str]]:
        """What an operator has to know, since the last call."""
        notices, self.notices = self.notices, []
        return notices

    def _lost(self, engine: EngineState, lost: Lost) -> None:
        self.lost_steps += max(0, lost.steps)
        self.lost_events += max(0, lost.events)
        self._notice(
            "lost",
            f"engine {engine.engine_id} lost records ({lost.reason}): the time concerned is `unobserved`, and on "
            "nobody's bill. `costtrace doctor` names the remedy.",
        )

    def _check_clock(self, engine: EngineState, beat: Heartbeat) -> None:
        # Windows take the new time when attribution comes to this heartbeat: not before, however far was read ahead.
        offset = wall_offset(engine.wall_offset_ns, beat)
        off, engine.wall_offset_ns = offset - engine.wall_offset_ns, offset
        if not off:
            return
        self.wall_offsets[engine.header.boot_id] = offset
        self._notice(
            "clock",
            f"the wall clock of {engine.header.host} was set by {off / NS_PER_S:+.1f} s. Durations, shares and sums do "
            "not depend on it; windows from here on carry the new time. Check NTP on that host.",
        )

    def _notice(self, subject: str, message: str) -> None:
        self.notices.append((subject, message))

    def _join(self, engine: EngineState, started: EngineStarted) -> None:
        """Put an engine into the group of its devices, making one or linking several."""
        keys = [f"{engine.header.boot_id}/{device.uuid}" for device in started.devices]
        found = sorted({self.group_of_device[key] for key in keys if key in self.group_of_device})
        if found:
            group = found[0]
            for other in found[1:]:
                self._merge(group, other)
        else:
            group = self.next_group
            self.next_group += 1
            self.groups[group] = DeviceGroup(self.window_length_ns)
        for key, device in zip(keys, started.devices, strict=True):
            self.group_of_device[key] = group
            if self.remote_wait_ns and is_elsewhere(engine, device) and device.uuid.startswith(("GPU-", "MIG-")):
                # Its readings come from another node, later: until then its energy is pending, not unknown.
                self.meters.setdefault(key, DeviceMeter(host=device.host, clock_ns=self.remote_clock_ns))
        engine.group = group
        engine.stage.devices = tuple(keys)
        sharing = self.groups[group]
        devices = tuple(device.uuid for device in started.devices)
        sharing.join(
            GroupMember(
                engine.engine_id,
                devices,
                engine.timeline.started_ns,
                engine.timeline.announced_ns,
                engine.attribution.wall_offset_ns,
            )
        )

    def _merge(self, into: int, other: int) -> None:
        """Two groups that a new engine's devices connect."""
        gone = self.groups.pop(other)
        for engine in self.engines.values():  # also those that have ended and are not forgotten yet
            if engine.group == other:
                engine.group = into
        self.groups[into].absorb(gone)
        self.group_of_device = {key: into if group == other else group for key, group in self.group_of_device.items()}


def is_elsewhere(engine: EngineState, device: DeviceRef) -> bool:
    """Whether a device of an engine is on another node than the engine's journal."""
    return bool(device.host) and device.host != engine.header.host


def engine_row(engine: EngineState, meters: Mapping[str, DeviceMeter]) -> EngineRow | None:
    """An engine as the ledger shows it; None before it has said what it is."""
    started = engine.started
    if started is None:
        return None
    first = started.devices[0] if started.devices else None
    offset = engine.header.wall_ns - engine.header.monotonic_ns
    return EngineRow(
        engine_id=engine.engine_id,
        host=engine.header.host,
        boot_id=engine.header.boot_id,
        engine=started.engine,
        version=started.engine_version,
        model=started.model,
        role=started.role,
        dp_rank=started.dp_rank,
        devices=tuple(device.uuid for device in started.devices),
        device_name=first.name if first else "",
        device_kind=first.kind if first else "",
        settings=started.settings,
        lost_hooks=started.lost_hooks,
        simulated=started.simulated or any(key in meters and meters[key].simulated for key in engine.stage.devices),
        started_wall_ns=started.started_ns + offset,
        started_ns=started.started_ns,
        ended_ns=engine.attribution.ended_ns,
        end_reason=engine.attribution.end_reason,
    )
