"""What recording costs: on the engine's own thread, and on the writer thread beside it. No thresholds.

    build/vllm-0.32.0/venv/bin/python benchmarks/bench_recorder.py build/tiny-model

Real batches of vLLM's real scheduler, no model. In the same run: the scheduler's own time per step, and what vLLM's
``--enable-mfu-metrics`` spends on a step. CPU time of the thread, so that a busy machine disturbs less.
"""

import argparse
import copy
import gc
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "plugins" / "costtrace-vllm" / "tests"))

os.environ.setdefault("COSTTRACE_ENABLED", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import vllm  # noqa: E402
from costtrace_vllm.engine_side import scheduler_hooks  # noqa: E402 - see the paths above
from costtrace_vllm.engine_side.translate import Translator  # noqa: E402
from vllm.v1.metrics.perf import ModelMetrics  # noqa: E402
from vllm_batches import Reader, truth  # noqa: E402
from vllm_scheduler import Drive, make_config, make_scheduler  # noqa: E402

from costtrace.capture.recorder import STEP, Recorder  # noqa: E402
from costtrace.core.device_names import cpu_name  # noqa: E402
from costtrace.journal import frames  # noqa: E402

ROUNDS = 9


def us(seconds: float, times: int) -> float:
    return seconds / times * 1e6


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def engine_thread(batch) -> dict[str, float]:
    """The closures around `schedule` and `update_from_output`, over functions that do nothing, minus these alone."""
    steps, results = 2_000, []
    for _ in range(ROUNDS):
        recorder = Recorder(capacity=steps + 1)

        def schedule():
            return batch

        def update_from_output(scheduler_output, model_runner_output):  # noqa: ARG001 - vLLM's names
            return None

        traced = SimpleNamespace(
            schedule=scheduler_hooks._schedule(schedule, recorder, None),
            update_from_output=scheduler_hooks._update_from_output(update_from_output, recorder, None),
        )
        gc.collect()
        start = time.thread_time()
        for _ in range(steps):
            traced.update_from_output(traced.schedule(), None)
        middle = time.thread_time()
        for _ in range(steps):
            update_from_output(schedule(), None)
        end = time.thread_time()
        assert len(recorder.drain()) == steps, "every step is recorded"
        results.append(us((middle - start) - (end - middle), steps))
    return spread(results)


def record(config, size: int, kind: str, steps: int):
    """Run the real scheduler; returns the records, and seconds per step of schedule() + update_from_output()."""
    drafts = 3 if kind == "drafts" else 0
    scheduler = make_scheduler(copy.deepcopy(config))
    if drafts:
        scheduler.num_spec_tokens = drafts
    recorder = Recorder(capacity=10_000_000)
    scheduler_hooks.record_scheduler(scheduler, recorder)
    drive = Drive(scheduler, drafts=drafts)

    def add(short: bool) -> None:  # noqa: FBT001 - of a benchmark
        prompt = [drive.random.randrange(5, 500) for _ in range(64)]
        drive.add(prompt, drive.random.randint(2, 200) if short else 900)

    for _ in range(size):
        add(short=kind == "join/leave")
    while scheduler.waiting:
        drive.step()
    drive.step()
    lead = len(recorder._ring)
    times = []
    for _ in range(steps):
        for _ in range(size - len(scheduler.running) - len(scheduler.waiting)):
            add(short=True)
        start = time.thread_time()
        batch = scheduler.schedule()
        took = time.thread_time() - start
        drive.flying.append((batch, drive._full(batch)))
        answer_start = time.thread_time()
        drive.answer()
        times.append(took + time.thread_time() - answer_start)
    return recorder.drain(), lead, times


def writer_thread(records, lead: int) -> tuple[dict[str, float], dict[str, float], float]:
    """Translate and pack what was recorded, twelve steps a turn; checked against the batches themselves first."""
    reader = Reader()
    reader.feed(Translator("bench").translate(records))
    wanted = {r[1]: truth(r[4]) for r in records if r[0] == STEP and r[4].num_scheduled_tokens}
    assert reader.steps == wanted, "the steps read back are the batches"
    translate, pack, size = [], [], 0
    steps = sum(r[0] == STEP for r in records[lead:])
    gc.collect()
    gc.freeze()  # as vLLM does at the end of its start; here it keeps the recording itself out of the collector's way
    for _ in range(ROUNDS):
        translator, spent, packed, size = Translator("bench"), 0.0, 0.0, 0
        translator.translate(records[:lead])
        for piece in pieces(records[lead:], 12):
            start = time.thread_time()
            events = translator.translate(piece)
            middle = time.thread_time()
            size += len(frames.pack(0, events))
            end = time.thread_time()
            spent += middle - start
            packed += end - middle
        translate.append(us(spent, steps))
        pack.append(us(packed, steps))
    return spread(translate), spread(pack), size / steps


def pieces(records, steps: int):
    piece, count = [], 0
    for item in records:
        piece.append(item)
        count += item[0] == STEP
        if count == steps:
            yield piece
            piece, count = [], 0
    if piece:
        yield piece


def mfu(config, batch) -> dict[str, float]:
    config = copy.deepcopy(config)
    config.observability_config.enable_mfu_metrics = True
    metrics = ModelMetrics(config)
    if not metrics.is_enabled():
        return spread([float("nan")])
    results = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(50):
            metrics.get_step_perf_stats_per_gpu(batch)
        results.append(us(time.thread_time() - start, 50))
    return spread(results)


def show(values: dict[str, float]) -> str:
    return f"{values['median']:9.2f} ({values['min']:.2f}..{values['max']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("model", help="folder of a model (its weights are not loaded)")
    parser.add_argument("--sizes", default="1,64,256,1024")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    config = make_config(options.model, max_num_seqs=1024, max_num_batched_tokens=8192)
    speculative = make_config(
        options.model,
        max_num_seqs=1024,
        max_num_batched_tokens=8192,
        speculative_config={"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3},
    )
    machine = f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}; Python {platform.python_version()}, vLLM {vllm.__version__}")
    print(f"CPU microseconds a step: median (min..max) of {ROUNDS} rounds")
    rows = []
    for size in map(int, options.sizes.split(",")):
        for kind in ("steady", "join/leave", "drafts"):
            steps = max(24, min(240, 60_000 // size)) if kind != "steady" else 120
            records, lead, times = record(speculative if kind == "drafts" else config, size, kind, steps)
            batch = next(r[4] for r in reversed(records) if r[0] == STEP)
            scheduler = us(sum(times), len(times))
            engine = engine_thread(batch)
            translate, pack, size_bytes = writer_thread(records, lead)
            perf = mfu(config, batch)
            rows.append(
                {
                    "running": size, "kind": kind, "scheduler_us": scheduler, "engine_us": engine,
                    "translate_us": translate, "pack_us": pack, "bytes_per_step": size_bytes, "mfu_us": perf,
                }
            )  # fmt: skip
            print(
                f"{size:5} {kind:10} scheduler {scheduler:9.0f} | engine thread {show(engine)}"
                f" = {engine['median'] / scheduler:.3%} of scheduler, {engine['median'] / perf['median']:.3%} of mfu"
                f" | writer: translate {show(translate)} pack {show(pack)}"
                f" = {(translate['median'] + pack['median']) / scheduler:.2%} | mfu {show(perf)}"
                f" | {size_bytes:.0f} B/step",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "vllm": vllm.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
