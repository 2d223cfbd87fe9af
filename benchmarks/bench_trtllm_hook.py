"""What the step hooks for TensorRT-LLM cost on the executor's own thread, per iteration. On the double: no thresholds.

    .venv/bin/python benchmarks/bench_trtllm_hook.py

The wrapped `_forward_step`, `_sample_async` and `_handle_responses` over functions that do nothing, minus these alone,
with 1 to 1,024 requests in the batch. The requests are the double's (their id and drafts are plain Python attributes,
as upstream's are), and so are the events: two of them are recorded and asked per iteration, which on a GPU are driver
calls that are not in these figures. CPU time of the thread, so that a busy machine disturbs less.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from costtrace_tensorrt_llm import hooks
from costtrace_tensorrt_llm.contract.hook_list import HOOKS
from costtrace_tensorrt_llm.rank_side import executor
from costtrace_tensorrt_llm.rank_side.gputime import EventPool
from costtrace_tensorrt_llm.rank_side.metering import StepMeter
from costtrace_tensorrt_llm.rank_side.native import UpstreamMeter
from costtrace_tensorrt_llm.rank_side.translate import Translator
from costtrace_tensorrt_llm.server_side.contexts import Contexts

from costtrace.capture.recorder import Recorder
from costtrace.core.events import Step

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "costtrace-tensorrt-llm" / "tests"))

from double.executor import LlmRequest, Plan

ROUNDS = 9
SIZES = (1, 64, 256, 1_024)
NATIVE = "steady, T1-native"
KINDS = ("steady", "one leaves, one comes", "drafts", NATIVE)


class Event:
    """An event that has always happened, so that only our own work is timed."""

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, other) -> float:  # noqa: ARG002 - torch's
        return 1.0


class Bare:
    def _forward_step(self, scheduled_requests, new_tensors_device=None, num_accepted_tokens_device=None):  # noqa: ARG002 - upstream's
        return self

    def _sample_async(self, scheduled_batch, batch_outputs):  # noqa: ARG002 - upstream's
        return self

    def _handle_responses(self, emit_first_iter=True):  # noqa: ARG002, FBT002 - upstream's
        return ()

    def _process_iter_stats(self, finished_requests, active_requests, batch_state):
        pass


class Hooked(Bare):
    _forward_step = Bare._forward_step
    _sample_async = Bare._sample_async
    _handle_responses = Bare._handle_responses
    _process_iter_stats = Bare._process_iter_stats


STEPS = [hook for hook in HOOKS if hook.name in {"forward", "sample", "responses", "iteration"}]
hooks.install(STEPS, SimpleNamespace(PyExecutor=Hooked))


def requests_of(size: int, first: int, drafts: int) -> list[LlmRequest]:
    made = []
    for n in range(size):
        request = LlmRequest(first + n, Plan(0, 1, 100), client=n)
        request.schedule_chunk()
        request.move()
        request.py_draft_tokens = [1] * drafts or None
        made.append(request)
    return made


def iterations(size: int, kind: str, count: int):
    """Batches of *count* iterations: the scheduler makes a new list each time."""
    running, coming = requests_of(size, 8, 3 if kind == "drafts" else 0), iter(requests_of(count, 1_000_000, 0))
    for _ in range(count):
        if kind == "one leaves, one comes":
            running = [*running[1:], next(coming)]
        yield SimpleNamespace(context_requests=[], generation_requests=list(running)), running


def serve(served, batches, *, stats: bool) -> float:
    """*stats*: the loop ends with upstream's statistics, which T1-native reads."""
    event = Event()
    states = [
        SimpleNamespace(scheduled_requests=batch, gpu_forward_start_event=event, gpu_forward_end_event=event)
        for batch, _ in batches
    ]
    gc.collect()
    start = time.thread_time()
    for (batch, running), state in zip(batches, states, strict=True):
        served.active_requests = running
        served._sample_async(batch, served._forward_step(batch))
        served._handle_responses()
        if stats:
            served._process_iter_stats((), running, state)
    return time.thread_time() - start


def measure(size: int, kind: str) -> dict[str, float]:
    count = max(200, 20_000 // size)
    differences_us = []
    for _ in range(ROUNDS):
        hooked, bare = Hooked(), Bare()
        recorder = Recorder(capacity=4 * count + 4 * size)
        native = kind == NATIVE
        meter = UpstreamMeter(recorder, Contexts()) if native else StepMeter(recorder, EventPool(Event), Contexts())
        hooked.__dict__[executor.MARK] = SimpleNamespace(steps=meter, stats=None)
        ours = serve(hooked, list(iterations(size, kind, count)), stats=native)
        theirs = serve(bare, list(iterations(size, kind, count)), stats=native)
        steps = [e for e in Translator("m").translate(recorder.drain()) if isinstance(e, Step)]
        assert len(steps) >= count - 1, "every step is recorded"
        differences_us.append((ours - theirs) / count * 1e6)
    return {"median": statistics.median(differences_us), "min": min(differences_us), "max": max(differences_us)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    rows = {kind: {size: measure(size, kind) for size in SIZES} for kind in KINDS}
    if given.json:
        print(json.dumps({"machine": machine, "us_per_iteration": rows}))
        return
    print(f"machine: {machine}")
    print("us per iteration on the executor's thread: median (least to most); on the double, without driver calls")
    print(f"{'requests':>24}" + "".join(f"{size:>26,}" for size in SIZES))
    for kind, by_size in rows.items():
        cells = (f"{v['median']:.1f} ({v['min']:.1f} to {v['max']:.1f})" for v in by_size.values())
        print(f"{kind:>24}" + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()
