"""All engines of one node: events in, rows out. The whole way from journal to ledger rows, as a pure function.

The agent feeds it from journals and keeps its state beside their positions; `costtrace replay` feeds it from files.
The same events give the same rows.
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
from costtrace.core.errors import failing
from costtrace.core.events import (
    AnyEvent,
    DeviceRef,
    DeviceSeen,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    Lost,
    Reading,
    SegmentHeader,
    Step,
)
from costtrace.core.rows import EngineRow, FitRow, PendingRow, Rows
from costtrace.core.units import NS_PER_S
from costtrace.core.wall_time import believable, wall_offset

SENSOR_PATIENCE_NS = 60 * NS_PER_S
"""How long attribution waits for a device's next reading before it goes on without its energy."""


class EngineState(msgspec.Struct):
    """One engine: how far its events have become rows."""

    engine_id: str
    header: SegmentHeader
    timeline: EngineTimeline
    attribution: EngineAttribution
    group: int = -1
    """Its `DeviceGroup`; -1 before its devices are known."""
    energy_queue: EnergyQueue = msgspec.field(default_factory=lambda: EnergyQueue(()), name="stage")
    started: EngineStarted | None = None
    ended: bool = False
    wall_offset_ns: int = 0
    """Wall time less monotonic time, by the newest heartbeat that was read. Attribution may be further back."""

    def attributed(self) -> bool:
        """Whether all of its time has become rows."""
        return self.ended and (self.group < 0 or bool(self.attribution.ended_ns))


class Pipeline(msgspec.Struct):
    """All engines of a node, the groups in which they share devices, and the devices' meters."""

    policy: Policy
    window_length_ns: int
    engines: dict[str, EngineState] = {}
    groups: dict[int, DeviceGroup] = {}
    group_of_device: dict[str, int] = {}
    """By boot and device: the group that gives the device out, also after its engines have ended."""
    next_group: int = 0
    meters: dict[str, DeviceMeter] = {}
    """Energy of the devices that have a sensor, by boot and device."""
    sensed: dict[str, dict[str, DeviceSeen]] = {}
    """By boot and UUID: the devices that its sensors have found. Sensors report them whenever an agent starts."""
    remote: RemoteMeters = msgspec.field(default_factory=RemoteMeters)
    """Devices and readings of other nodes' sensors."""
    remote_wait_ns: int = 0
    """How long attribution waits for readings of a device on another node. 0: they are not read here."""
    remote_clock_ns: int = 0
    """By how much their wall clocks may differ from this one's, as declared."""
    wall_offsets: dict[str, int] = {}
    """By boot: wall time less monotonic time, from its engines' journals."""
    lost_steps: int = 0
    lost_events: int = 0
    """What all engines' recorders dropped, since the pipeline was made. Not what damage took: nobody knows how much."""
    frozen: set[int] = set()
    """Groups of engines that are set aside: their state is not written."""
    notices: list[tuple[str, str]] = []
    """(subject, message) for the operator, since they were last taken."""

    def add(self, engine_id: str, header: SegmentHeader) -> None:
        """Take in an engine by the header of its journal. Later headers of the same engine change nothing."""
        if engine_id in self.engines:
            return
        self._check_wall(header, header.wall_ns)
        header = msgspec.structs.replace(header, wall_ns=believable(header.wall_ns))
        offset = header.wall_ns - header.monotonic_ns
        attribution = EngineAttribution(engine_id, self.policy, offset)
        self.engines[engine_id] = EngineState(engine_id, header, EngineTimeline(), attribution, wall_offset_ns=offset)
        self.wall_offsets.setdefault(header.boot_id, offset)

    def take(self, engine_id: str, event: AnyEvent) -> None:
        """Take an event of an engine that has been added, in the order of its journal."""
        engine = self.engines[engine_id]
        if engine.ended:
            if isinstance(event, Lost):  # only damage can follow
                self._count_lost(engine, event)
            return
        if isinstance(event, Step):  # most are
            items = engine.timeline.feed(event)
        else:
            if engine.started is not None and isinstance(event, EngineStarted):
                return  # a second beginning repeats the first
            items = engine.timeline.feed(event)
            match event:
                case Heartbeat():
                    self._check_clock(engine, event)
                case Lost():
                    self._count_lost(engine, event)
                case EngineStarted():
                    engine.started = event
                    self._join(engine, event)
                case EngineStopped():
                    engine.ended = engine.group >= 0
                case _:
                    pass
        if engine.group >= 0:
            member = self.groups[engine.group].members[engine_id]
            member.queue.extend(items)
            member.known_ns = engine.timeline.until_ns
            member.ended = engine.ended

    def end(self, engine_id: str) -> None:
        """The journal is read and its writer is gone: an engine that has not reported its end was interrupted."""
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
        """Attribute all that is known up to *limit_ns*, of one boot or of all. Returns how many grants and events.

        Raises: EngineFailed.
        """
        self._match_devices()
        for group in {e.group for e in self.engines.values() if boot_id in (None, e.header.boot_id)} - {-1}:
            with failing(self.groups[group].members):
                for engine_id, item in self.groups[group].sweep(limit_ns):
                    self.engines[engine_id].energy_queue.put(item, self.meters)
        for key, meter in self.meters.items():
            if boot_id is None or key.startswith(f"{boot_id}/"):
                with failing(e.engine_id for e in self.engines.values() if key in e.energy_queue.devices):
                    self._read_meter(key, meter, limit_ns)
        count = 0
        for engine in self.engines.values():
            with failing((engine.engine_id,)):
                for entry in engine.energy_queue.take(self.meters):
                    engine.attribution.feed(entry, self.meters, engine.energy_queue.devices)
                    count += 1
        return count

    def reading(self, boot_id: str, reading: Reading) -> None:
        """Take a sensor's reading of a device, in the order of its journal."""
        self._queue(f"{boot_id}/{reading.device}", reading, "")

    def device_seen(self, boot_id: str, device: DeviceSeen) -> None:
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
            hosts = [self.meters[key].host if key in self.meters else "" for key in engine.energy_queue.devices]
            if not any(hosts):
                continue
            for window_ns, place, device_ns in engine.energy_queue.waiting(self.meters):
                if hosts[place]:
                    key = (engine.engine_id, window_ns, devices[place].uuid)
                    total_ns = device_ns + (rows[key].device_ns if key in rows else 0)
                    rows[key] = PendingRow(window_ns, engine.engine_id, devices[place].uuid, hosts[place], total_ns)
        return list(rows.values())

    def _match_devices(self) -> None:
        """Find the meters of devices that an engine names otherwise than the sensors do (by index, or in part)."""
        for engine in self.engines.values():
            boot_id, started = engine.header.boot_id, engine.started
            if engine.ended or started is None:
                continue
            keys = list(engine.energy_queue.devices)
            for place, device in enumerate(started.devices):
                if keys[place] in self.meters or keys[place] != f"{boot_id}/{device.uuid}":
                    continue
                elsewhere = is_elsewhere(engine, device)
                sensed = self.remote.devices.get(device.host, {}) if elsewhere else self.sensed.get(boot_id, {})
                # CUDA_VISIBLE_DEVICES says nothing of another node: an index there counts only if it has one GPU.
                match = meter_of(device, list(sensed.values()), {} if elsewhere else started.settings)
                key = f"{boot_id}/{match.uuid}"
                # Energy stays unknown where the meter is another group's: under two names it would be billed twice.
                if match.uuid and self.group_of_device.setdefault(key, engine.group) == engine.group:
                    keys[place] = key
            engine.energy_queue.devices = tuple(keys)

    def _read_meter(self, key: str, meter: DeviceMeter, limit_ns: int) -> None:
        """Hand a meter the readings up to which all of its device's time has been given out."""
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
            # Nobody reads this device any more: time after its last reading has no known energy.
            meter.give_up(known_ns - patience_ns)

    def _known_ns(self, key: str, limit_ns: int) -> int:
        """Until when it is known who had a device."""
        number = self.group_of_device.get(key)
        if number is None or not self.groups[number].members:
            return limit_ns
        group = self.groups[number]
        not_joined = [min(m.started_ns, m.announced_ns) for m in group.members.values() if not m.joined]
        # Of a piece that is being swept nothing has been given out yet.
        begun = [member.piece_start_ns for member in group.members.values() if member.piece_ns]
        return min([limit_ns, *begun, *([group.swept_ns] if len(not_joined) < len(group.members) else not_joined)])

    def take_rows(self) -> Rows:
        """Rows since the last call, of all engines."""
        rows = Rows([], [], [])
        for engine in self.engines.values():
            new = engine.attribution.take_rows()
            rows.postings.extend(new.postings)
            rows.meter.extend(new.meter)
            rows.records.extend(new.records)
        return rows

    def all_engine_rows(self) -> list[EngineRow]:
        """A row for each engine whose `EngineStarted` has been read."""
        return [row for engine in self.engines.values() if (row := engine_row(engine, self.meters)) is not None]

    def all_fit_rows(self) -> list[FitRow]:
        """A row for each engine's step model: what it has learned."""
        return [row for engine in self.engines.values() if (row := engine.attribution.fit_row()) is not None]

    def is_open(self, request_key: str) -> bool:
        """Whether an engine works on a request with this key."""
        return any(request_key in engine.attribution.parts for engine in self.engines.values())

    def forget(self, engine_id: str) -> None:
        """Drop an engine that has been attributed to its end."""
        del self.engines[engine_id]

    def set_aside(self, engine_id: str) -> None:
        """Go on without an engine whose state in the ledger stays as it is, for an agent that can go on with it.

        Its device group stays too, unless other engines are in it or come into it: then it goes on without the engine.
        """
        self.engines.pop(engine_id, None)
        for number, group in self.groups.items():
            if group.members.pop(engine_id, None) is not None and not group.members:
                self.frozen.add(number)

    def take_notices(self) -> list[tuple[str, str]]:
        """(subject, message) for the operator, since the last call."""
        notices, self.notices = self.notices, []
        return notices

    def _count_lost(self, engine: EngineState, lost: Lost) -> None:
        self.lost_steps += max(0, lost.steps)
        self.lost_events += max(0, lost.events)
        self._notice(
            "lost",
            f"engine {engine.engine_id} lost records ({lost.reason}): the time concerned is `unobserved`, and on "
            "nobody's bill. `costtrace doctor` names the remedy.",
        )

    def _check_clock(self, engine: EngineState, beat: Heartbeat) -> None:
        self._check_wall(engine.header, beat.wall_ns)
        # Windows take the new time when attribution comes to this heartbeat: not before, however far was read ahead.
        offset = wall_offset(engine.wall_offset_ns, beat)
        change_ns, engine.wall_offset_ns = offset - engine.wall_offset_ns, offset
        if not change_ns:
            return
        self.wall_offsets[engine.header.boot_id] = offset
        self._notice(
            "clock",
            f"the wall clock of {engine.header.host} was set by {change_ns / NS_PER_S:+.1f} s. Durations, shares and "
            "sums do not depend on it; windows from here on carry the new time. Check NTP on that host.",
        )

    def _check_wall(self, header: SegmentHeader, wall_ns: int) -> None:
        if believable(wall_ns) != wall_ns:
            self._notice(
                "clock",
                f"the wall clock of {header.host} is before 1970 or after 2200: windows go on by the time that it said "
                "before, or from the nearest of those years. Set it (NTP).",
            )

    def _notice(self, subject: str, message: str) -> None:
        self.notices.append((subject, message))

    def _join(self, engine: EngineState, started: EngineStarted) -> None:
        """Put an engine into the group of its devices, making one or linking several."""
        keys = [f"{engine.header.boot_id}/{device.uuid}" for device in started.devices]
        numbers = sorted({self.group_of_device[key] for key in keys if key in self.group_of_device})
        if numbers:
            number = numbers[0]
            self.frozen.difference_update(numbers)
            for other in numbers[1:]:
                self._merge(number, other)
        else:
            number = self.next_group
            self.next_group += 1
            self.groups[number] = DeviceGroup(self.window_length_ns)
        for key, device in zip(keys, started.devices, strict=True):
            self.group_of_device[key] = number
            if self.remote_wait_ns and is_elsewhere(engine, device) and device.uuid.startswith(("GPU-", "MIG-")):
                # Its readings come from another node, later: until then its energy is pending, not unknown.
                self.meters.setdefault(key, DeviceMeter(host=device.host, clock_ns=self.remote_clock_ns))
        engine.group = number
        engine.energy_queue.devices = tuple(keys)
        devices = tuple(device.uuid for device in started.devices)
        timeline, offset_ns = engine.timeline, engine.attribution.wall_offset_ns
        member = GroupMember(engine.engine_id, devices, timeline.started_ns, timeline.announced_ns, offset_ns)
        self.groups[number].join(member)

    def _merge(self, into: int, other: int) -> None:
        """Make one of two groups that a new engine's devices connect."""
        absorbed = self.groups.pop(other)
        for engine in self.engines.values():  # also those that have ended and are not forgotten yet
            if engine.group == other:
                engine.group = into
        self.groups[into].absorb(absorbed)
        for key, number in self.group_of_device.items():
            if number == other:
                self.group_of_device[key] = into


def is_elsewhere(engine: EngineState, device: DeviceRef) -> bool:
    """Whether a device of an engine is on another node than the engine's journal."""
    return bool(device.host) and device.host != engine.header.host


def engine_row(engine: EngineState, meters: Mapping[str, DeviceMeter]) -> EngineRow | None:
    """An engine's row in the ledger; None before its `EngineStarted` has been read."""
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
        simulated=started.simulated
        or any(key in meters and meters[key].simulated for key in engine.energy_queue.devices),
        started_wall_ns=started.started_ns + offset,
        started_ns=started.started_ns,
        ended_ns=engine.attribution.ended_ns,
        end_reason=engine.attribution.end_reason,
    )
