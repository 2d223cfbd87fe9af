"""A simulation as a journal: the ordinary writer, with a simulated clock. Everything in it says ``simulated``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import costtrace
from costtrace.core.cohort import CohortEncoder
from costtrace.core.events import (
    JOURNAL_SCHEMA,
    AnyEvent,
    DeviceRef,
    EngineStarted,
    Event,
    SegmentHeader,
    SequenceAdded,
    SequenceFinished,
    Snapshot,
    Step,
)
from costtrace.core.units import NS_PER_S
from costtrace.journal import frames
from costtrace.journal.writer import JournalWriter
from costtrace_lab.simulator.models import Model
from costtrace_lab.simulator.scheduler import Simulator

HOST = "simulated"
BOOT_ID = "51301a7e-d000-4000-8000-000000000000"
"""Of no real boot: simulated times are never compared with real ones."""
START_NS = 10 * NS_PER_S
CAP_BYTES = 1 << 40
FRAME_EVENTS = 2_000


class Setting(NamedTuple):
    """What a simulated engine says of itself."""

    model: Model
    device: str
    """Of which the step times are; the journal's device is called ``Simulated <device>``."""
    source: str
    """Where the step times are from."""
    wall_ns: int
    """Wall time at which it begins: the prices of then hold."""

    def header(self, engine_id: str, number: int = 1, first_sequence: int = 0) -> SegmentHeader:
        """The head of a segment."""
        anchor = (START_NS, self.wall_ns)
        return SegmentHeader(
            JOURNAL_SCHEMA, engine_id, number, first_sequence, HOST, BOOT_ID, 0, *anchor, costtrace.__version__
        )

    def started(self) -> EngineStarted:
        """The engine's first words."""
        uuid = "GPU-simulated-" + "".join(c if c.isalnum() else "-" for c in self.device.lower())
        device = DeviceRef(uuid, f"Simulated {self.device}", "gpu", HOST)
        settings = {"step_times": self.source}
        shape = self.model.shape()
        return EngineStarted(
            START_NS, "simulator", "1", self.model.name, (device,), shape=shape, settings=settings, simulated=True
        )


def journal_events(simulator: Simulator, setting: Setting, engine_id: str) -> Iterator[AnyEvent]:
    """The events as a reader would yield them, without a file."""
    yield setting.header(engine_id)
    yield setting.started()
    yield from simulator.events(START_NS, setting.wall_ns - START_NS)


def write_journal(
    home: Path,
    simulator: Simulator,
    setting: Setting,
    engine_id: str,
    progress: Callable[[int], None] = lambda done: None,  # noqa: ARG005 - its name says what a caller gets
) -> Path:
    """Run a simulation into the journal *engine_id* below *home*; returns its directory. Raises: JournalError.

    *progress* is called from time to time with how many requests are done.
    """
    state = _OpenState()
    writer = _Writer(home, engine_id, setting, state)
    try:
        writer.append([setting.started()])
        batch: list[AnyEvent] = []
        for event in simulator.events(START_NS, setting.wall_ns - START_NS):
            batch.append(event)
            state.take(event)
            if len(batch) >= FRAME_EVENTS:
                writer.append(batch)
                batch = []
                progress(simulator.done)
        writer.append(batch)
    finally:
        writer.close()
    return writer.directory


class _Writer(JournalWriter):
    """The journal's writer with a simulated clock."""

    def __init__(self, home: Path, engine_id: str, setting: Setting, state: "_OpenState") -> None:
        super().__init__(home, engine_id, state.snapshot, cap_bytes=CAP_BYTES, fsync=False)
        self._setting = setting
        self._state = state

    def _header(self, number: int, first_sequence: int) -> bytes:
        head: list[Event] = [self._setting.header(self.engine_id, number, first_sequence)]
        if number > 1:
            head += [*self._begin, self._state.snapshot(self._sequence)]
        return frames.pack(-1, head)


class _OpenState:
    """What is open after the events so far: what a segment's snapshot says."""

    def __init__(self) -> None:
        self._open: dict[int, SequenceAdded] = {}
        self._cohort: CohortEncoder[int] = CohortEncoder()
        self._at_ns = START_NS

    def take(self, event: AnyEvent) -> None:
        match event:
            case SequenceAdded():
                self._open[event.slot] = event
            case SequenceFinished():
                self._open.pop(event.slot, None)
            case Step():
                self._cohort.follow(event)
                self._at_ns = event.done_ns
            case _:
                pass

    def snapshot(self, sequence: int) -> Snapshot:
        # Members that have finished are in no step any more, though the step that says so has not come yet.
        cohort = self._cohort.cohort(self._open.__contains__)
        return Snapshot(sequence, self._at_ns, self._cohort.turn, tuple(self._open.values()), cohort)
