"""A random engine's life as the events of its journal, at once and in invented time. Marked ``simulated``."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import cast

import msgspec

from costtrace.core.events import (
    JOURNAL_SCHEMA,
    AnyEvent,
    DeviceRef,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Event,
    Heartbeat,
    ModelShape,
    Overhead,
    SegmentHeader,
    Step,
)
from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace_lab.engines.random_engine import Action, Dispatch, Done, Dummy, Note, Profile, RandomEngine, Wait

SHAPE = ModelShape(16 * 10**9, 8 * 10**9, 32, 131_072, 4_096, 32, 128)
"""An 8-billion-parameter model in 16 bits: what the step model's prior is made from."""
HEARTBEAT_NS = 500 * NS_PER_MS
DISPATCH_NS = 1_000
"""To compose a batch takes time: no two are dispatched at one instant."""
WALL_OFFSET_NS = 1_800_000_000 * NS_PER_S
BOOT_ID = "00000000-0000-4000-8000-000000000000"


def header(engine_id: str, monotonic_ns: int, wall_offset_ns: int = WALL_OFFSET_NS) -> SegmentHeader:
    """The head of a journal that begins at *monotonic_ns*."""
    wall_ns = monotonic_ns + wall_offset_ns
    return SegmentHeader(JOURNAL_SCHEMA, engine_id, 1, 0, "simulated", BOOT_ID, 1, monotonic_ns, wall_ns)


def started(
    devices: Sequence[str], started_ns: int, *, shape: ModelShape = SHAPE, model: str = "sim", host: str = "simulated"
) -> EngineStarted:
    """A simulated engine on *devices* of *host*; one that is called ``UUID@HOST`` is on that host."""
    places = [device.partition("@") for device in devices]
    refs = tuple(DeviceRef(uuid, "Simulated GPU", "gpu", other or host) for uuid, _, other in places)
    return EngineStarted(started_ns, "simulator", "1", model, refs, shape=shape, simulated=True)


class Life(msgspec.Struct):
    """All events of one engine, and the scheduler that made them."""

    engine_id: str
    events: list[AnyEvent]
    engine: RandomEngine

    def upto(self, count: int) -> list[AnyEvent]:
        """Return the events that there are when the engine is killed after *count* of them."""
        return self.events[:count]


def random_life(
    seed: int,
    *,
    rounds: int = 200,
    devices: Sequence[str] = ("GPU-0",),
    started_ns: int = NS_PER_S,
    announced_ns: int = 3 * NS_PER_S,
    profile: Profile = Profile(),  # noqa: B008 - immutable
    says_goodbye: bool = True,
) -> Life:
    """Make a life: start-up from *started_ns*, a journal from *announced_ns* (monotonic), then *rounds* of serving."""
    engine = RandomEngine(seed, profile)
    engine_id = f"simulator-{seed}"
    ready_ns = announced_ns + NS_PER_S // 2
    head: list[AnyEvent] = [header(engine_id, announced_ns), started(devices, started_ns)]
    player = _Player(announced_ns, ready_ns)
    events = [*head, *player.play(engine.rounds(rounds), says_goodbye=says_goodbye)]
    return Life(engine_id, events, engine)


class _Player:
    """Gives times to actions, with heartbeats between them."""

    def __init__(self, announced_ns: int, ready_ns: int) -> None:
        self.now_ns = ready_ns
        self._beat_ns = announced_ns
        self._in_flight: deque[int] = deque()
        self._done_index = -1

    def play(self, actions: Iterable[Action], *, says_goodbye: bool) -> list[AnyEvent]:
        events: list[AnyEvent] = [EngineReady(self.now_ns)]
        for action in actions:
            self._play(action, events)
            if self.now_ns - self._beat_ns >= HEARTBEAT_NS:
                self._beat(events)
        self._beat(events)
        if says_goodbye:
            events.append(EngineStopped(self.now_ns))
        return events

    def _play(self, action: Action, events: list[AnyEvent]) -> None:
        match action:
            case Wait(ns):
                self.now_ns += ns
            case Dummy(ns):
                events.append(Overhead(self.now_ns, self.now_ns + ns, "dummy batch"))
                self.now_ns += ns
            case Note(event):
                events.append(timed(event, self.now_ns))
            case Dispatch(_):
                self.now_ns += DISPATCH_NS
                self._in_flight.append(self.now_ns)
            case Done(batch):
                dispatched_ns = self._in_flight.popleft()
                events.append(Step(batch.index, dispatched_ns, self.now_ns, batch.leaves, batch.enters, batch.items))
                self._done_index = batch.index

    def _beat(self, events: list[AnyEvent]) -> None:
        self._beat_ns = self.now_ns
        since_ns = self._in_flight[0] if self._in_flight else 0
        events.append(Heartbeat(self.now_ns, self.now_ns + WALL_OFFSET_NS, since_ns, self._done_index))


def timed(event: Event, at_ns: int) -> AnyEvent:
    """Put the time onto an event of a `Note`."""
    return cast("AnyEvent", msgspec.structs.replace(event, at_ns=at_ns))
