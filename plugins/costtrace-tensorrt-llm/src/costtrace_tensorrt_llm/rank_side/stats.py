"""Tier T2, an estimate: batches as the executor's own statistics tell them, read on their way and never drained.

It needs `enable_iter_perf_stats` and `enable_iter_req_stats`. A record names who was scheduled and, on newer versions,
how long the GPU took (`gpuForwardTimeMS`). That duration is upstream's measurement; when the step ran is estimated.
When it is wrong: the record comes after the iteration, so the step is placed right before it; where records overlap,
the overlap is cut and becomes idle time; under the overlap scheduler, positions are off by one batch. A record without
a GPU time prices nothing: its time is idle.
"""

import time
from collections.abc import Iterable
from typing import Any

from costtrace.capture.recorder import Recorder
from costtrace.core.units import NS_PER_MS
from costtrace_tensorrt_llm.rank_side.batches import ADDED, FREED, Batch, Facts, facts, why_nobody
from costtrace_tensorrt_llm.server_side.contexts import Contexts
from costtrace_tensorrt_llm.upstream import number, read


class StatsMeter:
    """Meters one executor by its statistics. Called on the executor's thread."""

    def __init__(self, recorder: Recorder, contexts: Contexts) -> None:
        self._recorder = recorder
        self._contexts = contexts
        self._positions: dict[int, tuple[int, int]] = {}
        """Of each open request: prompt tokens computed, tokens generated."""
        self.unpriced = 0
        """Records that lack a GPU time or its requests."""

    def record(self, request_stats: Any, gpu_ms: Any, active: Iterable[Any] = ()) -> None:
        """Take one iteration's statistics. *active*: the executor's requests; new ones are looked up there."""
        now_ns = time.monotonic_ns()
        if not request_stats or not isinstance(gpu_ms, int | float) or gpu_ms <= 0:
            self.unpriced += 1
            return
        rows = {name: row for row in request_stats if (name := number(row, "id")) >= 0}
        for name in [name for name in self._positions if name not in rows]:
            self._end(name, -1)  # it left on a path that leaves no last record
        self._note_new([name for name, row in rows.items() if read(row, "scheduled", False)], active)
        batch = self._batch_of(rows)
        if batch.generation or batch.context:
            self._recorder.dispatched(batch)
            # It ran before this record: place it back, as far as the last step and a heartbeat leave room.
            self._recorder.done_at(batch, max(1, now_ns - round(gpu_ms * NS_PER_MS)), now_ns)
        for name, row in rows.items():
            if name in self._positions and "GENERATION_COMPLETE" in str(read(row, "stage", "")):
                self._end(name, _progress(row)[1])

    def _batch_of(self, rows: dict[int, Any]) -> Batch:
        generation: list[int] = []
        drafts: list[int] = []
        context: list[tuple[int, int, int]] = []
        for name, row in rows.items():
            if name not in self._positions or not read(row, "scheduled", False):
                continue
            prompt, output = self._positions[name]
            self._positions[name] = computed, generated = _progress(row)
            if computed > prompt:
                context.append((name, computed - prompt, prompt))
            else:
                generation.append(name)
                drafts.append(max(0, generated - output - 1))
        drafts = drafts if any(drafts) else []
        return Batch("", generation, drafts, drafts, context)

    def _note_new(self, names: Iterable[int], active: Iterable[Any]) -> None:
        new = [name for name in names if name not in self._positions]
        if not new:
            return
        requests = {number(request, "py_request_id", "request_id"): request for request in active}
        for name in new:
            request = requests.get(name)
            if request is not None and why_nobody(request):
                continue
            known = Facts(name, -1, 0, 1, -1, "", -1, -1) if request is None else facts(request, name)
            self._positions[name] = (0, 0)
            self._recorder.note(ADDED, known, self._contexts.of(name, known.parent, known.client_id))

    def _end(self, name: int, output: int) -> None:
        del self._positions[name]
        self._recorder.note(FREED, name, self._recorder.index, "stop", output, -1, urgent=True)


def _progress(row: Any) -> tuple[int, int]:
    """Prompt tokens computed and tokens generated, by a request's statistics."""
    return max(0, number(row, "context_prefill_position")), max(0, number(row, "num_generated_tokens"))
