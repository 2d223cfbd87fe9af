"""Tier T2: the executor's own statistics of an iteration, tapped on their way and never drained.

They need `enable_iter_perf_stats` and `enable_iter_req_stats`. A record says who was scheduled and, on newer versions,
how long the GPU took (`gpuForwardTimeMS`). When it is wrong: the record comes after the iteration, so the step is laid
before the moment of the record; what else the GPU did is idle time; overlap shifts positions by one batch. A record
without a GPU time prices nothing: its time is shown as idle, never as somebody's.
"""

import time
from collections.abc import Iterable
from typing import Any

from costtrace.capture.recorder import Recorder
from costtrace_tensorrt_llm.rank_side.batches import ADDED, FREED, Batch, Facts, facts, is_nobody, number, read
from costtrace_tensorrt_llm.server_side.contexts import Contexts

NS_PER_MS = 1_000_000


class StatsMeter:
    """Meters one executor by its statistics. Called by the executor's thread."""

    def __init__(self, recorder: Recorder, contexts: Contexts) -> None:
        self._recorder = recorder
        self._contexts = contexts
        self._positions: dict[int, tuple[int, int]] = {}
        """Of each open request: prompt tokens computed, tokens generated."""
        self.unpriced = 0
        """Records without what is needed."""

    def record(self, request_stats: Any, gpu_ms: Any, active: Iterable[Any] = ()) -> None:
        """Take one iteration's statistics. *active*: the executor's requests, asked who is new."""
        now_ns = time.monotonic_ns()
        if not request_stats or not isinstance(gpu_ms, int | float) or gpu_ms <= 0:
            self.unpriced += 1
            return
        rows = {name: told for told in request_stats if (name := number(told, "id")) >= 0}
        for name in [name for name in self._positions if name not in rows]:
            self._end(name, -1)  # gone on a path that leaves no last record
        self._meet([name for name, told in rows.items() if read(told, "scheduled", False)], active)
        generation: list[int] = []
        drafts: list[int] = []
        context: list[tuple[int, int, int]] = []
        for name, told in rows.items():
            if name not in self._positions or not read(told, "scheduled", False):
                continue
            prompt, output = self._positions[name]
            done = _done(told)
            if done[0] > prompt:
                context.append((name, done[0] - prompt, prompt))
            else:
                generation.append(name)
                drafts.append(max(0, done[1] - output - 1))
            self._positions[name] = done
        if generation or context:
            batch = Batch("", generation, drafts if any(drafts) else [], drafts if any(drafts) else [], context)
            self._recorder.dispatched(batch)
            # It was dispatched before this: the step is laid back, as far as the last one and a heartbeat leave room.
            self._recorder.done_at(batch, max(1, now_ns - round(gpu_ms * NS_PER_MS)), now_ns)
        for name, told in rows.items():
            if name in self._positions and "GENERATION_COMPLETE" in str(read(told, "stage", "")):
                self._end(name, _done(told)[1])

    def _meet(self, names: Iterable[int], active: Iterable[Any]) -> None:
        """Note those that are new."""
        new = [name for name in names if name not in self._positions]
        if not new:
            return
        requests = {number(request, "py_request_id", "request_id"): request for request in active}
        for name in new:
            request = requests.get(name)
            if request is not None and is_nobody(request):
                continue
            found = facts(request, name) if request is not None else Facts(name, -1, 0, 1, -1, "", -1, -1)
            self._positions[name] = (0, 0)
            self._recorder.note(ADDED, found, self._contexts.of(name, found.parent, found.client_id))

    def _end(self, name: int, output: int) -> None:
        del self._positions[name]
        self._recorder.note(FREED, name, self._recorder.index, "stop", output, -1, urgent=True)


def _done(told: Any) -> tuple[int, int]:
    """Prompt tokens computed and tokens generated, as a record tells it."""
    return max(0, number(told, "context_prefill_position")), max(0, number(told, "num_generated_tokens"))
