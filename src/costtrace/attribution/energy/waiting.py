"""Between time and accounts: each engine's granted time waits here until its energy is known.

What a step did is derived when its grant comes in (the energy model needs it); its energy is added when it goes out.
Events keep their place among the grants.
"""

from collections.abc import Iterator

import msgspec

from costtrace.attribution.energy.counter_windows import DeviceMeter, Piece, piece_of
from costtrace.attribution.energy.model import NOTHING, step_load
from costtrace.attribution.steps.step_work import Membership, StepWork
from costtrace.attribution.time.grants import Grant
from costtrace.attribution.time.segments import TimelineItem
from costtrace.core.attention_reach import reach_of
from costtrace.core.events import EngineStarted, EngineStopped, SequenceAdded, SequenceFinished, Snapshot


class Energy(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Energy of a grant by device, in uJ, and the device time in ns whose energy is not known."""

    uj: tuple[int, ...]
    energy_unknown_ns: tuple[int, ...]


class Waiting(msgspec.Struct, gc=False):
    """A grant or an event in the queue, with what attribution needs beside it."""

    item: Grant | TimelineItem
    work: StepWork | None = None
    """What the step did; for a grant that is a piece of a step."""
    contexts: dict[int, int] | None = None
    """By slot, the least KV tokens that an open sequence has for certain; for a snapshot or an end."""
    pieces: list[tuple[int, int]] | None = None
    """(index of the device, number of the piece there) whose energy is still missing; None: no device is measured."""
    uj: list[int] | None = None
    energy_unknown_ns: list[int] | None = msgspec.field(default=None, name="gap_ns")
    spends: tuple[int, list[float]] | None = None
    """How the first of its devices spends energy: index, coefficients of its model when that piece was settled."""

    def energy(self, device_ns: tuple[int, ...]) -> Energy:
        """Energy of a complete grant of *device_ns*; all of it unknown where no device is measured."""
        if self.uj is None or self.energy_unknown_ns is None:
            return Energy((0,) * len(device_ns), device_ns)
        return Energy(tuple(self.uj), tuple(self.energy_unknown_ns))


class EnergyQueue(msgspec.Struct):
    """One engine's grants and events, in order, until the energy of the first one is known."""

    devices: tuple[str, ...]
    """Keys of its devices' meters."""
    membership: Membership = msgspec.field(default_factory=Membership)
    work: StepWork | None = None
    """What the newest step did, whose pieces are coming in."""
    queue: list[Waiting] = []

    def put(self, item: Grant | TimelineItem, meters: dict[str, DeviceMeter]) -> None:
        """Take in the next grant or event. *meters*: the devices whose energy is measured, by key."""
        entry = Waiting(item)
        match item:
            case Grant():
                self._put_grant(entry, item, meters)
            case SequenceAdded():
                self.membership.added(item)
            case SequenceFinished():
                self.membership.finished(item)
            case EngineStarted():
                self.membership.set_reach(reach_of(item.shape))
            case Snapshot() | EngineStopped():
                slots = self.membership.states
                entry.contexts = {slot: self.membership.certain_context(slot) for slot in slots}
                if isinstance(item, Snapshot):
                    self.membership.resync(item)
            case _:
                pass
        self.queue.append(entry)

    def take(self, meters: dict[str, DeviceMeter]) -> Iterator[Waiting]:
        """Remove and yield what is complete, in order, up to the first grant that is not."""
        taken = 0
        for entry in self.queue:
            if entry.pieces and not self._complete(entry, entry.pieces, meters):
                break
            yield entry
            taken += 1
        del self.queue[:taken]

    def waiting(self, meters: dict[str, DeviceMeter]) -> Iterator[tuple[int, int, int]]:
        """(window, place of the device, device time) of each grant whose energy is not settled on that device."""
        for entry in self.queue:
            grant = entry.item
            if isinstance(grant, Grant):
                for place, _ in entry.pieces or ():
                    if grant.end_ns > meters[self.devices[place]].settled_ns():
                        yield grant.window_ns, place, grant.device_ns[place]

    def _put_grant(self, entry: Waiting, grant: Grant, meters: dict[str, DeviceMeter]) -> None:
        segment = grant.segment
        if segment.step is not None:
            if self.work is None or self.work.index != segment.step.index:
                self.work = self.membership.take(segment.step)
            entry.work = self.work
        if not meters:
            return
        entry.uj, entry.energy_unknown_ns, entry.pieces = [0] * len(grant.device_ns), list(grant.device_ns), []
        for index, (key, device_ns) in enumerate(zip(self.devices, grant.device_ns, strict=True)):
            if key in meters:
                entry.pieces.append((index, meters[key].add(self._piece(grant, device_ns))))

    def _piece(self, grant: Grant, device_ns: int) -> Piece:
        load = NOTHING
        if self.work is not None and grant.segment.step is not None:
            segment_ns = grant.segment.end_ns - grant.segment.start_ns
            share = (grant.end_ns - grant.start_ns) / segment_ns if segment_ns else 1.0
            load = step_load(self.work, device_ns, share)
        return piece_of(grant.start_ns, grant.end_ns, device_ns, load)

    def _complete(self, entry: Waiting, pieces: list[tuple[int, int]], meters: dict[str, DeviceMeter]) -> bool:
        assert entry.uj is not None
        assert entry.energy_unknown_ns is not None
        missing = []
        for index, number in pieces:
            result = meters[self.devices[index]].take(number)
            if result is None:
                missing.append((index, number))
            else:
                entry.uj[index], entry.energy_unknown_ns[index], coefficients = result
                if coefficients is not None and (entry.spends is None or index < entry.spends[0]):
                    entry.spends = (index, coefficients)
        entry.pieces = missing
        return not missing
