"""How fast an agent turns journals into a ledger, on one core. No thresholds.

    python benchmarks/bench_agent.py [--requests 20000] [--rounds 5]

The journal is a simulated engine's, written by the real recorder and writer (`costtrace_lab.engines.engine`). Before
anything is timed, the answer is checked: every request is in the ledger once, and the ledger adds up with ``==``. Each
figure is the median, least and most of some rounds. Emission is not in it: `bench_emission.py`.
"""

import argparse
import contextlib
import gc
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import balance
import ledger_tables
from costtrace_lab.engines import Profile, RandomEngine
from costtrace_lab.engines.engine import JournalEngine
from costtrace_lab.engines.schedules import header, started

from costtrace.agent.checkpoint import _encode
from costtrace.agent.loop import Agent
from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.config.settings import Settings
from costtrace.core.events import Heartbeat, SegmentHeader, SequenceAdded, Step
from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace.journal.reader import JournalReader

RUNNING = (1, 16, 64, 256, 1_024, 4_096)
STEPS = 2_000
PROFILE = Profile(arrivals=1.0, max_running=256, token_budget=8_192, pause=0.0, dummy=0.0)
BOOK = """
version: bench
currency: USD
devices:
  - {match: "*", kind: gpu, per_gpu_hour: 3.21, includes_energy: true, from: 2020-01-01, source: bench}
"""


def spread(values, unit, digits=0):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:12,.{digits}f}  [{low:,.{digits}f} .. {high:,.{digits}f}] {unit}"


def processor():
    """What /proc/cpuinfo calls it; elsewhere what Python knows."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def timed(work):
    gc.collect()
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def make_journal(home, requests):
    """About *requests* requests, at the speed at which they can be made up."""
    engine = JournalEngine(home, RandomEngine(1, PROFILE), speed=0, capacity=1 << 30, engine_id="bench")
    engine.run(rounds=requests)
    return engine.engine_id


def read_events(home, engine_id):
    reader = JournalReader(home / "journal" / engine_id)
    all_events = []
    while events := reader.read().events:
        all_events += events
    reader.close()
    return all_events


def attribute(events):
    pipeline = Pipeline(Policy(), 60 * NS_PER_S)
    for event in events:
        if isinstance(event, SegmentHeader):
            pipeline.add(event.engine_id, event)
        pipeline.take("bench", event)
    pipeline.sweep(1 << 62)
    return pipeline.take_rows()


def book(source, prices, window_s=60):
    """Seconds that an agent takes for the journals of *source*, into a new ledger."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        (home / "journal").symlink_to(source / "journal")
        agent = Agent(Settings(home=home, window_s=window_s, prices=prices))
        return timed(agent.run_once)[0]


def check(source, prices, requests):
    """Check the result before anything is timed."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        shutil.copytree(source / "journal", home / "journal")
        Agent(Settings(home=home, prices=prices)).run_once()
        ledger_tables.check_settled(home)
        assert len(balance.table(home, "usage")) == requests
    print(f"checked: {requests} requests are in the ledger once, and it adds up")


def steady(running):
    """Microseconds per decode step with *running* sequences, none of which comes or goes; what the state costs."""
    pipeline = Pipeline(Policy(), 60 * NS_PER_S)
    pipeline.add("bench", header("bench", NS_PER_S))
    pipeline.take("bench", header("bench", NS_PER_S))
    pipeline.take("bench", started(("GPU-0",), NS_PER_S))
    for slot in range(running):
        key = f"req-{slot}"
        pipeline.take("bench", SequenceAdded(slot, NS_PER_S, key, key, key, key, 100, "m", "ant", "header"))
    begin = [Step(0, NS_PER_S, NS_PER_S + 1, (), tuple((slot, 100) for slot in range(running)))]
    steps = [Step(n, NS_PER_S + n * 10 * NS_PER_MS, NS_PER_S + n * 10 * NS_PER_MS + 9_000_000) for n in range(1, STEPS)]
    for event in [*begin, Heartbeat(2 * NS_PER_S, 3 * NS_PER_S)]:
        pipeline.take("bench", event)
    pipeline.sweep(1 << 62)

    def follow():
        for step in steps:
            pipeline.take("bench", step)
        pipeline.sweep(1 << 62)

    seconds, _ = timed(follow)
    engine = pipeline.engines["bench"]
    save_s, state = timed(lambda: _encode(engine))
    close_s, _ = timed(engine.attribution._close_window)
    return seconds / len(steps) * 1e6, save_s * 1e3, len(state), close_s * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load {os.getloadavg()[0]:.1f} at the start; all figures on one core\n")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        prices = Path(folder) / "prices.yaml"
        prices.write_text(BOOK)
        engine_id = make_journal(source, given.requests)
        events = read_events(source, engine_id)
        requests = len({e.request_key for e in events if isinstance(e, SequenceAdded)})
        size = sum(path.stat().st_size for path in (source / "journal").rglob("*.ctj"))
        check(source, prices, requests)
        steps = sum(isinstance(e, Step) for e in events)
        per_event = size / len(events)
        print(f"journal: {requests:,} requests, {steps:,} steps, {len(events):,} events of {per_event:.1f} bytes\n")
        rounds = range(given.rounds)
        readings = [len(events) / timed(lambda: read_events(source, engine_id))[0] for _ in rounds]
        print("read a journal                    ", spread(readings, "events/s"))
        attributions = [timed(lambda: attribute(events))[0] for _ in rounds]
        print("attribute, in memory              ", spread([len(events) / s for s in attributions], "events/s"))
        print("                                  ", spread([requests / s for s in attributions], "finished requests/s"))
        for name, used, window_s in (
            ("journal to ledger, no prices      ", None, 60),
            ("journal to ledger, priced         ", prices, 60),
            ("journal to ledger, windows of 1 s ", prices, 1),
        ):
            booked = [requests / book(source, used, window_s) for _ in rounds]
            print(name, spread(booked, "finished requests/s"))
    print("\nrunning   us/step (attribution)            ms to encode the state   its kB   ms to close a window")
    for running in RUNNING:
        results = [steady(running) for _ in rounds]
        step_us, save_ms, size, close_ms = (list(column) for column in zip(*results, strict=True))
        print(
            f"{running:7,}   {spread(step_us, '', 2)}   {statistics.median(save_ms):10.2f}   "
            f"{statistics.median(size) / 1e3:14,.0f}   {statistics.median(close_ms):10.2f}"
        )


if __name__ == "__main__":
    main()
