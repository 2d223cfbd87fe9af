"""Tier T1-native: batches timed by the CUDA events that TensorRT-LLM itself records.

Newer versions record two events around a batch's forward pass and pass them, with the batch, to `_process_iter_stats`
(`enable_iter_perf_stats`). They are read there, before upstream takes them back; costtrace records none and never
waits. When it is wrong: sampling is outside of the events, so it counts as idle time, or as the next batch's where that
was handed over before; and a batch that has not ended by then has no time: it is unobserved.
"""

from typing import Any

from costtrace.capture.recorder import Recorder
from costtrace.core.units import NS_PER_MS
from costtrace_tensorrt_llm.rank_side.members import IN_FLIGHT, BatchMeter, Flight
from costtrace_tensorrt_llm.server_side.contexts import Contexts

UNTIMED = 16
"""After so many batches in a row without a time, upstream does not time them, or no longer does."""


class NotTimed(Exception):
    """Upstream has not timed the last `UNTIMED` batches."""


class UpstreamMeter(BatchMeter):
    """Meters one executor by upstream's events."""

    def __init__(self, recorder: Recorder, contexts: Contexts) -> None:
        super().__init__(recorder, contexts)
        self._untimed = 0
        """Batches without a time since the last one that had one."""

    def begin(self, executor: Any, scheduled: Any) -> Flight:
        """A batch is about to go to the GPU: write down who is in it. Raises: NotTimed."""
        if self._untimed >= UNTIMED:
            raise NotTimed
        if len(self._flying) >= IN_FLIGHT:
            self._miss("upstream told no time")
        return self._launch(Flight(self._batch_of(executor, scheduled), scheduled))

    def forwarded(self, flight: Flight, *, failed: bool) -> None:
        """Its forward pass has been queued. Upstream does not report one that has failed."""
        if failed and self._flying and self._flying[-1] is flight:
            self._flying.pop()
            self._unpriced(flight, "its forward pass failed")

    def reported(self, state: Any) -> None:
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
        self._untimed = 0
        # It cannot have begun before it was handed over, nor before the end of the batch in front of it.
        start_ns = max(flight.recorded_ns, self._done_ns)
        self._done_ns = start_ns + max(0, round(start.elapsed_time(end) * NS_PER_MS))
        self.recorder.done_at(flight.batch, flight.recorded_ns, self._done_ns)

    def _miss(self, reason: str) -> None:
        """The oldest batch has no time."""
        self._untimed += 1
        self._unpriced(self._flying.popleft(), reason)
