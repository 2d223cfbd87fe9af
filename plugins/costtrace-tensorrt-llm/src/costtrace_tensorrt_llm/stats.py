"""Tier T2: the executor's own statistics of an iteration, tapped on their way and never drained.

They need `enable_iter_perf_stats` and `enable_iter_req_stats`. A record says who was scheduled and, on newer versions,
how long the GPU took (`gpuForwardTimeMS`). When it is wrong: the record comes after the iteration, so the step is laid
before the moment of the record; what else the GPU did is idle time; overlap shifts positions by one batch. A record
without a GPU time prices nothing: its time is shown as idle, never as somebody's.
"""

import time
from typing import Any

from costtrace.recorder import Recorder
from costtrace_tensorrt_llm.batches import ADDED, FREED, Batch, Facts, number, read
from costtrace_tensorrt_llm.contexts import Contexts

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

    def record(self, request_stats: Any, gpu_ms: Any) -> None:
        """Take one iteration's statistics."""
        now_ns = time.monotonic_ns()
        if not request_stats or not isinstance(gpu_ms, int | float) or gpu_ms <= 0:
            self.unpriced += 1
            return
        generation: list[int] = []
        drafts: list[int] = []
        context: list[tuple[int, int, int]] = []
        gone = []
        for told in request_stats:
            name = number(told, "id")
            if name < 0:
                continue
            done = (max(0, number(told, "context_prefill_position")), max(0, number(told, "num_generated_tokens")))
            scheduled = read(told, "scheduled", False)
            if scheduled and name not in self._positions:
                self._recorder.note(ADDED, Facts(name, -1, done[0], 1, -1, "", -1, -1), self._contexts.of(name, -1, -1))
            if scheduled:
                prompt, output = self._positions.get(name, (0, 0))
                if done[0] > prompt:
                    context.append((name, done[0] - prompt, prompt))
                else:
                    generation.append(name)
                    drafts.append(max(0, done[1] - output - 1))
                self._positions[name] = done
            if "GENERATION_COMPLETE" in str(read(told, "stage", "")) and name in self._positions:
                gone.append((name, done[1]))
        if generation or context:
            batch = Batch("", generation, drafts if any(drafts) else [], drafts if any(drafts) else [], context)
            self._recorder.dispatched(batch)
            # It was dispatched before this: the step is laid back, as far as the last one and a heartbeat leave room.
            self._recorder.done_at(batch, max(1, now_ns - round(gpu_ms * NS_PER_MS)), now_ns)
        for name, output in gone:
            del self._positions[name]
            self._recorder.note(FREED, name, self._recorder.index, "stop", output, -1, urgent=True)
