"""The writer thread beside an engine: drains the recorder, translates, appends to the journal, keeps an agent alive."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from costtrace.capture.recorder import Record, Recorder
from costtrace.core import clock
from costtrace.core.events import EngineStopped, Event, Heartbeat, Lost, Snapshot
from costtrace.core.guard import guard
from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace.journal.writer import JournalWriter

DRAIN_S = 0.05
HEARTBEAT_NS = 500 * NS_PER_MS
SYNC_NS = 5 * NS_PER_S
CHORES_NS = 2 * NS_PER_S


class Translator(Protocol):
    """Turns what an engine's hooks recorded into events. Its only state is which sequences are in the batch."""

    def translate(self, records: Iterable[Record]) -> list[Event]:
        """Events of *records*, in order."""
        ...

    def snapshot(self, sequence: int, at_ns: int) -> Snapshot:
        """The state after all events so far."""
        ...


class Pump:
    """Owns the writer thread of one engine process. It never takes a lock that the engine's thread takes."""

    def __init__(
        self,
        recorder: Recorder,
        translator: Translator,
        open_writer: Callable[[Callable[[int], Snapshot]], JournalWriter],
        *,
        first: Sequence[Event] = (),
        chores: Callable[[], None] = lambda: None,
    ) -> None:
        self._recorder = recorder
        self._translator = translator
        self._writer = open_writer(lambda sequence: translator.snapshot(sequence, time.monotonic_ns()))
        self._chores = chores
        self._first = list(first)
        self._stopping = False
        self._beat_ns = 0
        self._synced_ns = 0
        self._chores_ns = 0
        self._thread = threading.Thread(target=self._run, name="costtrace-journal", daemon=True)

    @property
    def writer(self) -> JournalWriter:
        """The journal that this pump writes."""
        return self._writer

    def start(self) -> None:
        """Write the first events before this returns, so that a reader can see the engine; the rest in the thread."""
        self._writer.append(self._first)
        self._thread.start()

    def stop(self, reason: str = "shutdown", timeout_s: float = 5.0) -> None:
        """Drain, write `EngineStopped`, close. Safe to call twice."""
        if self._stopping:
            return
        self._stopping = True
        self._recorder.wake.set()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._turn()
            self._writer.append([EngineStopped(time.monotonic_ns(), reason)])
            self._writer.close()

    def _run(self) -> None:
        wake = self._recorder.wake
        while not self._stopping:
            wake.wait(DRAIN_S)
            wake.clear()
            with guard("journal.pump"):
                self._turn()
            with guard("journal.chores"):
                self._do_chores()

    def _turn(self) -> None:
        """One drain: everything recorded so far becomes one frame."""
        # In this order, so that a step dispatched before `now` is either in flight here or among the drained records.
        now = time.monotonic_ns()
        in_flight_since_ns, done_index = self._recorder.in_flight_since_ns(), self._recorder.done_index
        dropped = self._recorder.take_dropped()
        events = self._translator.translate(self._recorder.drain())
        if dropped is not None:
            events.append(Lost(now, dropped.steps, dropped.notes, "recorder full", from_ns=dropped.since_ns, to_ns=now))
        if events or now - self._beat_ns >= HEARTBEAT_NS:
            if now - self._beat_ns >= HEARTBEAT_NS:
                events.append(Heartbeat(now, clock.anchor().wall(now), in_flight_since_ns, done_index))
                self._beat_ns = now
            self._writer.append(events)
        if now - self._synced_ns >= SYNC_NS:
            self._synced_ns = now
            self._writer.sync()

    def _do_chores(self) -> None:
        now = time.monotonic_ns()
        if now - self._chores_ns >= CHORES_NS:
            self._chores_ns = now
            self._chores()
