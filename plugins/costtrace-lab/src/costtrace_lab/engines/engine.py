"""An engine that serves nobody, with a real journal: ``python -m costtrace_lab.engines.engine --home DIR --seed 7``.

A `RandomEngine`'s schedule runs through the real recorder, pump and journal writer, in real time or faster, in a
process of its own that tests kill. It prints ``ready <engine id>`` when it serves and ``done <engine id>`` when it has
said goodbye. What it records is marked ``simulated``.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from costtrace.capture.journal_thread import Pump
from costtrace.capture.recorder import CAPACITY, STEP, Record, Recorder
from costtrace.core import clock
from costtrace.core.clock import Anchor
from costtrace.core.cohort import CohortEncoder
from costtrace.core.events import EngineReady, Event, Overhead, SequenceAdded, SequenceFinished, Snapshot, Step
from costtrace.core.units import NS_PER_S
from costtrace.journal.writer import SEGMENT_BYTES, JournalWriter, new_engine_id
from costtrace_lab.engines.random_engine import Action, Batch, Dispatch, Done, Dummy, Note, Profile, RandomEngine, Wait
from costtrace_lab.engines.schedules import started, timed

CAP_BYTES = 1 << 30


class ReplayTranslator:
    """Turns what a `JournalEngine` recorded into events: the batches are differences already."""

    def __init__(self) -> None:
        self._open: dict[int, SequenceAdded] = {}
        self._cohort: CohortEncoder[int] = CohortEncoder()
        self._next_index = 0

    def translate(self, records: Iterable[Record]) -> list[Event]:
        """Events of *records*, in order."""
        return [self._step(*record[1:]) if record[0] == STEP else self._note(*record[1:]) for record in records]

    def snapshot(self, sequence: int, at_ns: int) -> Snapshot:
        """The state after all events so far."""
        return Snapshot(sequence, at_ns, self._next_index, tuple(self._open.values()), self._cohort.cohort())

    def _step(self, index: int, dispatched_ns: int, done_ns: int, batch: Batch) -> Step:
        step = Step(index, dispatched_ns, done_ns, batch.leaves, batch.enters, batch.items)
        self._cohort.follow(step)
        self._next_index = index + 1
        return step

    def _note(self, at_ns: int, what: Event) -> Event:
        if isinstance(what, Overhead):
            return Overhead(at_ns - what.to_ns, at_ns, what.reason)
        if isinstance(what, SequenceAdded):
            self._open[what.slot] = what
        if isinstance(what, SequenceFinished):
            self._open.pop(what.slot, None)
        return timed(what, at_ns)


class JournalEngine:
    """Plays a schedule into a journal below *home*. *speed* divides all durations; 0: as fast as it goes."""

    def __init__(
        self,
        home: Path,
        engine: RandomEngine,
        *,
        speed: float = 1.0,
        devices: tuple[str, ...] = ("GPU-0",),
        startup_ns: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
        cap_bytes: int = CAP_BYTES,
        capacity: int = CAPACITY,
        engine_id: str = "",
    ) -> None:
        self.engine_id = engine_id or new_engine_id("simulator")
        self.recorder = Recorder(capacity)
        self._engine = engine
        self._speed = speed
        self.pump = Pump(
            self.recorder,
            ReplayTranslator(),
            lambda snapshot: JournalWriter(
                home, self.engine_id, snapshot, cap_bytes=cap_bytes, segment_bytes=segment_bytes
            ),
            first=[started(devices, time.monotonic_ns() - startup_ns, host=clock.host_name())],
        )

    def run(self, *, seconds: float | None = None, rounds: int | None = None, goodbye: bool = True) -> None:
        """Serve for *seconds* or *rounds*, then say goodbye (or only stop, with *goodbye* false)."""
        self.pump.start()
        self.recorder.note(EngineReady(0), urgent=True)
        end_s = time.monotonic() + seconds if seconds is not None else float("inf")
        for action in self._engine.rounds(rounds):
            self._play(action)
            if time.monotonic() >= end_s:
                break
        if goodbye:
            self.pump.stop()

    def _play(self, action: Action) -> None:
        recorder = self.recorder
        match action:
            case Wait(ns):
                self._sleep(ns)
            case Dummy(ns):
                began_ns = time.monotonic_ns()
                self._sleep(ns)
                recorder.note(Overhead(0, time.monotonic_ns() - began_ns, "dummy batch"))
            case Note(event):
                ends = isinstance(event, SequenceFinished)
                recorder.note(event, urgent=ends)
            case Dispatch(batch):
                recorder.dispatched(batch)
            case Done(batch):
                recorder.done(batch)

    def _sleep(self, ns: int) -> None:
        if self._speed:
            time.sleep(ns / self._speed / NS_PER_S)


def set_wall_clock(by_s: float, after_s: float) -> None:
    """Let this process see its wall clock set by *by_s* seconds, *after_s* seconds from now."""
    read = clock.anchor
    due_ns = time.monotonic_ns() + int(after_s * NS_PER_S)

    def anchor() -> Anchor:
        now = read()
        return now._replace(wall_ns=now.wall_ns + int(by_s * NS_PER_S)) if now.monotonic_ns >= due_ns else now

    clock.anchor = anchor


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m costtrace_lab.engines.engine", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="COSTTRACE_HOME")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="how long to serve; default: until a signal")
    parser.add_argument("--speed", type=float, default=1.0, help="divides all durations; 0: as fast as it goes")
    parser.add_argument("--device", action="append", help="UUID of a device, or UUID@HOST; may be repeated")
    parser.add_argument("--depth", type=int, default=1, help="batches in flight; 2: asynchronous scheduling")
    parser.add_argument("--arrivals", type=float, default=Profile().arrivals, help="requests per round")
    parser.add_argument("--segment-bytes", type=int, default=SEGMENT_BYTES)
    parser.add_argument("--cap-bytes", type=int, default=CAP_BYTES)
    parser.add_argument("--wall-step", type=float, default=0.0, help="seconds by which the wall clock is set ...")
    parser.add_argument("--wall-step-after", type=float, default=1.0, help="... after so many seconds")
    given = parser.parse_args(arguments)
    if given.wall_step:
        set_wall_clock(given.wall_step, given.wall_step_after)
    profile = Profile(depth=given.depth, arrivals=given.arrivals)
    engine = JournalEngine(
        given.home,
        RandomEngine(given.seed, profile),
        speed=given.speed,
        devices=tuple(given.device or ("GPU-0",)),
        segment_bytes=given.segment_bytes,
        cap_bytes=given.cap_bytes,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"ready {engine.engine_id}", flush=True)  # noqa: T201 - what a test waits for
    try:
        engine.run(seconds=given.seconds)
    finally:
        engine.pump.stop()
    print(f"done {engine.engine_id}", flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    main()
