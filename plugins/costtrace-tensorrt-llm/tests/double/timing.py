"""What the double of TensorRT-LLM measures of itself: events around each batch, and statistics.

Newest column only, as far as it was read: the events of `enable_iter_perf_stats` are borrowed, handed to
``_process_iter_stats`` and taken back in it. The older columns keep statistics without a GPU time.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from double.cuda import FakeEvent, FakeGpu


class BatchState(msgspec.Struct):
    """Upstream's `BatchState`: a batch on its way through the loop."""

    scheduled_requests: Any
    sample_state: Any
    gpu_forward_start_event: FakeEvent | None = None
    gpu_forward_end_event: FakeEvent | None = None
    gpu_forward_events_from_perf_pool: bool = False


class Lap(msgspec.Struct):
    """One batch's events."""

    scheduled: Any
    start: FakeEvent
    end: FakeEvent


class Timing:
    """Upstream's own record of one executor."""

    def __init__(self, gpu: FakeGpu, *, newest: bool, stats: bool = False) -> None:
        self.gpu = gpu
        self.newest, self.stats = newest, stats
        self.taken_back = 0
        """Events that were given back to the pool, and so belong to another batch now."""
        self.brackets: list[tuple[int, tuple[int, ...]]] = []
        """Of each batch: ns between the events around its forward pass, and who was in it."""
        self.laps: list[Lap] = []
        self._pool: list[tuple[FakeEvent, FakeEvent]] = []

    def forward(self, executor: Any, scheduled: Any, *args: Any) -> Any:
        """The loop's call of ``_forward_step``, with upstream's events around it where it has any."""
        start, end = self._pool.pop() if self._pool else (self.gpu.event(), self.gpu.event())
        start.record()
        outputs = executor._forward_step(scheduled, *args)
        end.record()
        if outputs is None:
            self._pool.append((start, end))
        else:
            self.brackets.append((end.at_ns - start.at_ns, executor.batches[-1]))
            self.laps.append(Lap(scheduled, start, end))
        return outputs

    def iterated(self, executor: Any, finished: Sequence[Any], state: Any) -> None:
        """The end of an iteration of the loop: ``_process_iter_stats``, where statistics are on."""
        scheduled = getattr(state, "scheduled_requests", None)
        lap = next((lap for lap in self.laps if lap.scheduled is scheduled), None)
        if lap is None:
            return
        self.laps.remove(lap)
        if self.stats:
            batch_state = BatchState(scheduled, state)
            if self.newest:
                batch_state.gpu_forward_start_event, batch_state.gpu_forward_end_event = lap.start, lap.end
                batch_state.gpu_forward_events_from_perf_pool = True
            executor._process_iter_stats(list(finished), executor.active_requests, batch_state)
        self._pool.append((lap.start, lap.end))
        self.taken_back += 1

    def statistics(self, executor: Any, finished: Sequence[Any], active: Sequence[Any], state: Any) -> None:
        """As ``_process_iter_stats``: one record, kept by ``_append_iter_stats``."""
        scheduled = {id(request) for request in state.scheduled_requests.all_requests()}
        rows = [
            SimpleNamespace(
                id=request.py_request_id,
                scheduled=id(request) in scheduled,
                context_prefill_position=request.reached,
                num_generated_tokens=request.generated,
                stage="GENERATION_COMPLETE" if request.is_finished else "GENERATION_IN_PROGRESS",
            )
            for request in dict.fromkeys([*active, *finished])
        ]
        if not self.newest:
            executor._append_iter_stats(SimpleNamespace(), rows)
            return
        start, end = state.gpu_forward_start_event, state.gpu_forward_end_event
        gpu_ms = start.elapsed_time(end) if start is not None and end.query() else None
        executor._append_iter_stats(SimpleNamespace(), rows, None, None, None, None, gpu_ms)
