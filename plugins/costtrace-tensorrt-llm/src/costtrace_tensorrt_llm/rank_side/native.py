"""Tier T1-native: batches timed by the CUDA events that TensorRT-LLM records itself, where it does.

Newer versions record two events around a batch's forward pass and hand them, with the batch, to `_process_iter_stats`
(`enable_iter_perf_stats`). They are read there, before upstream takes them back; nothing is recorded, kept or waited
for. When it is wrong: sampling is outside of them, so it is idle time, or the next batch's where that was handed over
before; and a batch whose end has not happened by then has no time: it is unobserved.
"""

import time
from collections import deque
from typing import Any

from costtrace.capture.recorder import Recorder
from costtrace_tensorrt_llm.rank_side.batches import Batch
from costtrace_tensorrt_llm.rank_side.gputime import NS_PER_MS
from costtrace_tensorrt_llm.rank_side.members import IN_FLIGHT, Meter
from costtrace_tensorrt_llm.server_side.contexts import Contexts

UNTOLD = 16
"""After so many batches in a row without a time, upstream does not time them (any more)."""


class Untold(Exception):
    """Upstream has not timed the last `UNTOLD` batches."""


class Flight:
    """One batch of which upstream has not told the time yet."""

    __slots__ = ("batch", "recorded_ns", "scheduled")

    def __init__(self, batch: Batch, scheduled: Any, recorded_ns: int) -> None:
        self.batch = batch
        self.scheduled = scheduled
        self.recorded_ns = recorded_ns


class UpstreamMeter(Meter):
    """Meters one executor by upstream's events."""

    def __init__(self, recorder: Recorder, contexts: Contexts) -> None:
        super().__init__(recorder, contexts)
        self._flying: deque[Flight] = deque()
        self._done_ns = 0
        self._untold = 0

    def begin(self, executor: Any, scheduled: Any) -> Flight:
        """A batch is about to be handed to the GPU: write down who is in it. Raises: Untold."""
        if self._untold >= UNTOLD:
            raise Untold
        if len(self._flying) >= IN_FLIGHT:
            self._miss("upstream told no time")
        batch = self._batch_of(executor, scheduled)
        self.recorder.dispatched(batch)
        flight = Flight(batch, scheduled, time.monotonic_ns())
        self._flying.append(flight)
        return flight

    def forwarded(self, flight: Flight, *, failed: bool) -> None:
        """Its forward pass has been queued. Of one that has failed, upstream tells nothing."""
        if failed and self._flying and self._flying[-1] is flight:
            self._flying.pop()
            self._unpriced(flight.recorded_ns, "its forward pass failed")

    def told(self, state: Any) -> None:
        """Upstream is done with a batch: *state* has its events, for the last time."""
        scheduled = getattr(state, "scheduled_requests", None)
        if not any(flight.scheduled is scheduled for flight in self._flying):
            return
        while self._flying[0].scheduled is not scheduled:
            self._miss("upstream told no time")
        start, end = (getattr(state, f"gpu_forward_{edge}_event", None) for edge in ("start", "end"))
        if start is None or end is None:
            self._miss("upstream told no time")
            return
        if not end.query():
            self._miss("it was not done when upstream told of it")
            return
        flight = self._flying.popleft()
        self._untold = 0
        # It cannot have begun before it was handed over, nor before the end of the one in front of it.
        start_ns = max(flight.recorded_ns, self._done_ns)
        self._done_ns = start_ns + max(0, round(start.elapsed_time(end) * NS_PER_MS))
        self.recorder.done_at(flight.batch, flight.recorded_ns, self._done_ns)

    def _miss(self, reason: str) -> None:
        """The oldest batch has no time."""
        self._untold += 1
        self._unpriced(self._flying.popleft().recorded_ns, reason)

    def finish(self) -> None:
        """The executor ends, or another tier goes on."""
        while self._flying:
            self._unpriced(self._flying.popleft().recorded_ns, "the engine ended before it was timed")
