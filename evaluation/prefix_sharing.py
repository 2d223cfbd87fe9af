"""Who pays for shared prefixes: how much the tree moves, and what its windows leave out. SIMULATED.

    python evaluation/prefix_sharing.py TRACE [--requests 5000] [--speed 1.0] [--kv-tokens 500000]

TRACE has hashes of its prompts' blocks (Mooncake's). One run of the simulator, attributed again with windows of several
lengths: who misses pays, and the policy `tree`. The longest window holds all of the run: the fixed-tree game of all
requests, which shorter windows approach. The rows of each add up to the meter with ``==``, or this stops.
"""

import argparse
import tempfile
from pathlib import Path

from costtrace_lab.simulator import SchedulerConfig, Simulator, read_model, write_journal
from costtrace_lab.simulator.journals import Setting
from costtrace_lab.simulator.step_times import Roofline
from costtrace_lab.simulator.workload import read_workload

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.core.units import NS_PER_S
from costtrace.journal.reader import JournalReader

WINDOWS_S = (60, 300, 1_800, 86_400)
WALL_NS = 1_767_225_600 * NS_PER_S
"""Midnight: the longest window holds all of a run."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--model", default="qwen3-8b")
    parser.add_argument("--device", default="NVIDIA H200")
    parser.add_argument("--kv-tokens", type=int, default=SchedulerConfig().kv_tokens, help="that the cache holds")
    args = parser.parse_args()
    events = simulated(args)
    plain, paid = attributed(events, Policy(), WINDOWS_S[0])
    prefill_ns = sum(record.prefill_ns for record in plain.values())
    cached = sum(record.cached_tokens for record in plain.values())
    tokens = sum(record.input_tokens for record in plain.values())
    print(f"SIMULATED: {len(plain):,} requests of {args.trace.name}, {cached / tokens:.0%} of prompt tokens cached")
    print(
        "| window | prefill time moved | requests relieved | requests charged | on another request than by one window |"
    )
    print("| --- | --- | --- | --- | --- |")
    by_window = {}
    for window_s in WINDOWS_S:
        by_window[window_s], total = attributed(events, Policy(prefix_sharing="tree"), window_s)
        assert total == paid, "the tree made or lost time"
    whole = by_window[WINDOWS_S[-1]]
    for window_s, records in by_window.items():
        moved = [record.prefix_ns for record in records.values()]
        apart = sum(abs(record.prefix_ns - whole[key].prefix_ns) for key, record in records.items()) / 2
        print(
            f"| {window_s:,} s | {sum(ns for ns in moved if ns > 0) / prefill_ns:.1%} | "
            f"{sum(ns < 0 for ns in moved):,} | {sum(ns > 0 for ns in moved):,} | {apart / prefill_ns:.1%} |"
        )


def simulated(args):
    """The events of the trace's run."""
    model = read_model(args.model)
    workload = read_workload(args.trace, requests=args.requests, speed=args.speed)
    times = Roofline(model, args.device)
    with tempfile.TemporaryDirectory() as home:
        simulator = Simulator(
            workload, times, SchedulerConfig(kv_tokens=args.kv_tokens), model=model.name, prefix_paths=True
        )
        path = write_journal(Path(home), simulator, Setting(model, args.device, times.source, WALL_NS), "sim")
        reader, events = JournalReader(path), []
        while batch := reader.read(100_000).events:
            events += batch
        return events


def attributed(events, policy, window_s):
    """Records by request, and the requests' device time altogether; postings are held against meter rows."""
    pipeline = Pipeline(policy, window_s * NS_PER_S)
    pipeline.add("sim", events[0])
    for event in events:
        pipeline.take("sim", event)
    pipeline.sweep(1 << 62)
    rows = pipeline.take_rows()
    posted, metered = {}, {}
    for posting in rows.postings:
        if posting.kind == "request":
            posted[posting.window_ns] = posted.get(posting.window_ns, 0) + posting.gpu_ns
    for meter in rows.meter:
        metered[meter.window_ns] = metered.get(meter.window_ns, 0) + meter.request_ns
    assert posted == {window: ns for window, ns in metered.items() if ns}, "postings do not add up to the meter"
    return {record.request_key: record for record in rows.records}, sum(posted.values())


if __name__ == "__main__":
    main()
