"""When the GPU did what: CUDA events, recorded beside the engine's work and never waited for.

An event's time is known only relative to another event. `DeviceClock` chains them onto CLOCK_MONOTONIC: an event cannot
have happened before it was recorded, nor after it was seen done; within these bounds the GPU's own clock counts.
"""

from collections.abc import Callable
from typing import Any

from costtrace.core.units import NS_PER_MS

POOL = 512
"""Events that are kept for reuse: two for each batch in flight, and some to spare."""
Event = Any
"""A `torch.cuda.Event`. Its `record`, `query` and `elapsed_time` (ms) are used, none of which waits."""


class EventPool:
    """Events with timing, for reuse: making one costs a driver call."""

    def __init__(self, make: Callable[[], Event]) -> None:
        self._make = make
        self._free: list[Event] = []

    def take(self) -> Event:
        """An event that nobody uses."""
        return self._free.pop() if self._free else self._make()

    def give(self, event: Event) -> None:
        """Return *event*, which nobody uses any more."""
        if len(self._free) < POOL:
            self._free.append(event)


class DeviceClock:
    """Places pairs of events, in the order of the stream, on CLOCK_MONOTONIC."""

    def __init__(self, pool: EventPool) -> None:
        self._pool = pool
        self._last: Event | None = None
        """The newest end that was placed, kept as the anchor of the next pair."""
        self._last_ns = 0

    def place(self, start: Event, end: Event, recorded_ns: int, seen_ns: int) -> tuple[int, int]:
        """Monotonic ns of *start* and *end*, both done. Takes both events over.

        *recorded_ns*: before *start* was recorded. *seen_ns*: after *end* was seen done.
        """
        if self._last is None:
            start_ns = recorded_ns
        else:
            start_ns = max(recorded_ns, self._last_ns + _ns(self._last, start))
            self._pool.give(self._last)
        end_ns = start_ns + max(0, _ns(start, end))
        if end_ns > seen_ns:  # the GPU's clock is ahead of the host's
            ahead_ns = end_ns - seen_ns
            start_ns, end_ns = max(recorded_ns, start_ns - ahead_ns), seen_ns
        self._pool.give(start)
        self._last, self._last_ns = end, end_ns
        return start_ns, end_ns


def _ns(start: Event, end: Event) -> int:
    elapsed_ms: float = start.elapsed_time(end)
    return round(elapsed_ms * NS_PER_MS)
