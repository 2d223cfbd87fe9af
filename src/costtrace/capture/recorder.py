"""The hot path: the only costtrace code that runs on an engine's own thread.

A step costs two appends by reference, whatever the batch size: one when it is dispatched, one when it is done. No
lock, no I/O, no logging, no copying. What does not fit is counted, and its time becomes `unobserved`: never lost
silently, never on a tenant's bill.

`drain` belongs to the writer thread (`journal_thread.Pump`), which turns records into events.
"""

import threading
from collections import deque
from time import monotonic_ns
from typing import Any, Final, NamedTuple

CAPACITY = 16_384
"""Records that may wait for the writer thread; further ones are counted and dropped. 50 ms of work is a handful."""

STEP: Final = 0
"""``(STEP, index, dispatched_ns, done_ns, batch)``: a finished step and the engine's own object of its batch."""
NOTE: Final = 1
"""``(NOTE, at_ns, what, ...)``: anything else, in order; the plugin's translator interprets it."""

Record = tuple[Any, ...]


class Dropped(NamedTuple):
    """What the ring could not hold."""

    steps: int
    notes: int
    since_ns: int
    """When the first of them was dropped."""


class Recorder:
    """Collects steps and notes of one engine. `dispatched`, `done` and `note` are called by one engine thread."""

    __slots__ = (
        "_capacity",
        "_dropped_notes",
        "_dropped_since_ns",
        "_dropped_steps",
        "_pending",
        "_ring",
        "_taken",
        "done_index",
        "index",
        "wake",
    )

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.index = -1
        """Index of the newest dispatched step."""
        self.done_index = -1
        """Index of the newest finished step."""
        self.wake = threading.Event()
        """Set when something must be written at once (a request has ended)."""
        self._capacity = capacity
        self._ring: deque[Record] = deque()
        self._pending: deque[tuple[int, int, Any]] = deque()
        self._dropped_steps = 0
        self._dropped_notes = 0
        self._dropped_since_ns = 0
        # The engine's thread writes the three above (time first), the writer's thread this: what it has taken of them.
        self._taken = Dropped(0, 0, 0)

    def dispatched(self, batch: object) -> None:
        """Record that the engine has composed *batch* and hands it to its devices."""
        self.index += 1
        self._pending.append((self.index, monotonic_ns(), batch))

    def done(self, batch: object) -> None:
        """Record that the results of *batch* are here. Batches complete in the order of their dispatch."""
        self.done_at(batch, 0, monotonic_ns())

    def done_at(self, batch: object, scheduled_ns: int, done_ns: int) -> None:
        """As `done`, with times measured elsewhere (on the device). *scheduled_ns* 0: the time of its dispatch.

        *scheduled_ns* must not be before the dispatch, by which `in_flight_since_ns` goes.
        """
        if not self._pending or (self._pending[0][2] is not batch and not self._skip_to(batch)):
            return  # its dispatch was not recorded
        index, dispatched_ns, _ = self._pending.popleft()
        if len(self._ring) < self._capacity:
            self._ring.append((STEP, index, scheduled_ns or dispatched_ns, done_ns, batch))
        else:
            if self._dropped_since_ns == self._taken.since_ns:
                self._dropped_since_ns = done_ns
            self._dropped_steps += 1
        self.done_index = index

    def note(self, *what: object, urgent: bool = False) -> None:
        """Record anything but a step, in order with the steps. *urgent*: have it written at once."""
        if len(self._ring) < self._capacity:
            self._ring.append((NOTE, monotonic_ns(), *what))
        else:
            if self._dropped_since_ns == self._taken.since_ns:
                self._dropped_since_ns = monotonic_ns()
            self._dropped_notes += 1
        if urgent and not self.wake.is_set():
            self.wake.set()

    def drain(self) -> list[Record]:
        """Take the records so far. For the writer thread."""
        ring = self._ring
        return [ring.popleft() for _ in range(len(ring))]

    def take_dropped(self) -> Dropped | None:
        """What was dropped since the last call, if anything. For the writer thread."""
        before, now = self._taken, Dropped(self._dropped_steps, self._dropped_notes, self._dropped_since_ns)
        if now[:2] == before[:2]:
            return None
        self._taken = now
        return now._replace(steps=now.steps - before.steps, notes=now.notes - before.notes)

    def in_flight_since_ns(self) -> int:
        """Dispatch of the oldest step that is not done; 0 where none is in flight."""
        try:
            return self._pending[0][1]
        except IndexError:
            return 0

    def _skip_to(self, batch: object) -> bool:
        """Drop the batches before *batch*, given up by the engine (an error, a flush). False: *batch* is not there."""
        if not any(pending is batch for _, _, pending in self._pending):
            return False
        while self._pending[0][2] is not batch:
            self._pending.popleft()
        return True
