"""Between time and accounts: each engine's granted time waits here until its energy is known.

Work is worked out on the way in (the energy model needs it), energy is joined on the way out. Events pass in order.
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
    """Energy of a grant: what is known of it, by device, and the device time of which none is known."""

    uj: tuple[int, ...]
    energy_unknown_ns: tuple[int, ...]


class Waiting(msgspec.Struct, gc=False):
    """A grant or an event on its way, with what attribution needs to know of it."""

    item: Grant | TimelineItem
    work: StepWork | None = None
    """Of a grant that is a piece of a step."""
    contexts: dict[int, int] | None = None
    """Of a snapshot or an end: KV tokens of the open sequences, for certain."""
    pieces: list[tuple[int, int]] | None = None
    """(index of the device, number of the piece there) that are waited for; None: no device is measured."""
    uj: list[int] | None = None
    energy_unknown_ns: list[int] | None = msgspec.field(default=None, name="gap_ns")
    spends: tuple[int, list[float]] | None = None
    """How the first of its devices spends energy: index, coefficients of its model when that piece was settled."""

    def energy(self, device_ns: tuple[int, ...]) -> Energy:
        """Of a grant of *device_ns* that has left the stage."""
        if self.uj is None or self.energy_unknown_ns is None:
            return Energy((0,) * len(device_ns), device_ns)
        return Energy(tuple(self.uj), tuple(self.energy_unknown_ns))


class EnergyQueue(msgspec.Struct):
    """One engine's queue."""

    devices: tuple[str, ...]
    """Keys of its devices' meters."""
    membership: Membership = msgspec.field(default_factory=Membership)
    work: StepWork | None = None
    """Of the step whose pieces are coming in."""
    queue: list[Waiting] = []

    def put(self, item: Grant | TimelineItem, meters: dict[str, DeviceMeter]) -> None:
        """Take the next grant or event in. *meters*: the devices whose energy is measured."""
        staged = Waiting(item)
        match item:
            case Grant():
                self._put_grant(staged, item, meters)
            case SequenceAdded():
                self.membership.added(item)
            case SequenceFinished():
                self.membership.finished(item)
            case EngineStarted():
                self.membership.set_reach(reach_of(item.shape))
            case Snapshot() | EngineStopped():
                slots = self.membership.states
                staged.contexts = {slot: self.membership.certain_context(slot) for slot in slots}
                if isinstance(item, Snapshot):
                    self.membership.resync(item)
            case _:
                pass
        self.queue.append(staged)

    def take(self, meters: dict[str, DeviceMeter]) -> Iterator[Waiting]:
        """What is complete, in order."""
        taken = 0
        for staged in self.queue:
            if staged.pieces and not self._complete(staged, staged.pieces, meters):
                break
            yield staged
            taken += 1
        del self.queue[:taken]

    def waiting(self, meters: dict[str, DeviceMeter]) -> Iterator[tuple[int, int, int]]:
        """(window, place of the device, device time) of each grant whose energy is not settled on that device."""
        for staged in self.queue:
            grant = staged.item
            if isinstance(grant, Grant):
                for place, _ in staged.pieces or ():
                    if grant.end_ns > meters[self.devices[place]].settled_ns():
                        yield grant.window_ns, place, grant.device_ns[place]

    def _put_grant(self, staged: Waiting, grant: Grant, meters: dict[str, DeviceMeter]) -> None:
        segment = grant.segment
        if segment.step is not None:
            if self.work is None or self.work.index != segment.step.index:
                self.work = self.membership.take(segment.step)
            staged.work = self.work
        if not meters:
            return
        staged.uj, staged.energy_unknown_ns, staged.pieces = [0] * len(grant.device_ns), list(grant.device_ns), []
        for index, (key, device_ns) in enumerate(zip(self.devices, grant.device_ns, strict=True)):
            if key in meters:
                staged.pieces.append((index, meters[key].add(self._piece(grant, device_ns))))

    def _piece(self, grant: Grant, device_ns: int) -> Piece:
        load = NOTHING
        if self.work is not None and grant.segment.step is not None:
            whole = grant.segment.end_ns - grant.segment.start_ns
            share = (grant.end_ns - grant.start_ns) / whole if whole else 1.0
            load = step_load(self.work, device_ns, share)
        return piece_of(grant.start_ns, grant.end_ns, device_ns, load)

    def _complete(self, staged: Waiting, pieces: list[tuple[int, int]], meters: dict[str, DeviceMeter]) -> bool:
        assert staged.uj is not None
        assert staged.energy_unknown_ns is not None
        waiting = []
        for index, number in pieces:
            result = meters[self.devices[index]].take(number)
            if result is None:
                waiting.append((index, number))
            else:
                staged.uj[index], staged.energy_unknown_ns[index], coefficients = result
                if coefficients is not None and (staged.spends is None or index < staged.spends[0]):
                    staged.spends = (index, coefficients)
        staged.pieces = waiting
        return not waiting
