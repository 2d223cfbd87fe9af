"""What attribution costs an agent's core, by batch size, beside a loop over the requests and beside numpy.

    python benchmarks/bench_attribution.py [--rounds 5] [--day-steps 2_592_000]

Three questions. What does a step cost with 1 to 4,096 running sequences, in the agent's whole way from event to rows
(fit included), and in the counters alone; and what would a loop over every request, or numpy over the batch, take for
the same shares in the same run? Can one core follow 100 engines at 100 steps a second each? How long does it take to
attribute a day of one busy engine's journal again?

The answers are checked first: the counters against the loop. All batches are made up; no figure says anything about a
GPU. numpy is only measured where it is installed.
"""

import argparse
import gc
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from bench_agent import processor
from costtrace_lab.engines.engine import ReplayTranslator
from costtrace_lab.engines.random_engine import Batch
from costtrace_lab.engines.schedules import header, started

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.attribution.shares.virtual_time import HEAD, SHIFT, Cohort, CostCounter
from costtrace.attribution.steps.prices import Prices
from costtrace.capture.recorder import NOTE, STEP
from costtrace.core.events import EngineReady, EngineStopped, Heartbeat, SequenceAdded, SequenceFinished, Step
from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace.journal.reader import JournalReader
from costtrace.journal.writer import JournalWriter

try:
    import numpy as np
except ImportError:
    np = None

RUNNING = (1, 16, 64, 256, 1_024, 4_096)
STEPS = 2_000
PRICES = Prices(5.4e-3, 9e-6, 0.0, 5.2e-8, 0.0, "roofline")
STEP_NS = 9 * NS_PER_MS
TURN_STEPS = 20
"""Steps an engine brings in one turn of the agent (0.2 s at 100 a second)."""
WARM_STEPS = 600
"""Before anything is timed: the model looks at each of an engine's first steps, and at one in eight of steady ones."""


def show(values, digits=2):
    return f"{statistics.median(values):10.{digits}f} [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def timed(work, steps):
    gc.collect()
    began = time.process_time()
    work()
    return (time.process_time() - began) / steps * 1e6


# -- one step, several ways -------------------------------------------------------------------------------------


def by_counters(running, steps):
    clock, cohort = CostCounter(), Cohort()
    for slot in range(running):
        cohort.enter(slot, 100 + slot, None)
        cohort.weight += HEAD
    mark = clock.mark()

    def go():
        for _ in range(steps):
            clock.charge(STEP_NS, cohort, (), PRICES)
            cohort.advance(None)

    return go, lambda: [clock.owed(mark, 0, 100 + slot) / 2**SHIFT for slot in range(running)]


def by_loop(running, steps):
    """Every request at every step, in floats: the plain way."""
    contexts, owed = {slot: 100 + slot for slot in range(running)}, dict.fromkeys(range(running), 0.0)
    head, sequence, token, context = PRICES[:4]

    def go():
        for _ in range(steps):
            weights = {slot: head + sequence + token + context * ctx for slot, ctx in contexts.items()}
            scale = STEP_NS / sum(weights.values())
            for slot, weight in weights.items():
                owed[slot] += weight * scale
                contexts[slot] += 1

    return go, lambda: list(owed.values())


def by_numpy(running, steps):
    contexts, owed = np.arange(100, 100 + running, dtype=np.float64), np.zeros(running)
    head, sequence, token, context = PRICES[:4]

    def go():
        for _ in range(steps):
            weights = head + sequence + token + context * contexts
            weights *= STEP_NS / weights.sum()
            np.add(owed, weights, out=owed)
            np.add(contexts, 1.0, out=contexts)

    return go, owed.tolist


WAYS = {"counters": by_counters, "loop": by_loop} | ({"numpy": by_numpy} if np is not None else {})


def check():
    """All ways say the same."""
    answers = {}
    for name, way in WAYS.items():
        go, owed = way(37, 200)
        go()
        answers[name] = owed()
    for name, answer in answers.items():
        worst = max(abs(a / b - 1) for a, b in zip(answer, answers["loop"], strict=True))
        assert worst < 1e-6, f"{name} is off by {worst}"
    print(f"checked: {', '.join(answers)} say the same of 37 sequences over 200 steps\n")


def engine(pipeline, name, running):
    """An engine with *running* sequences that decode, in *pipeline*."""
    pipeline.add(name, header(name, NS_PER_S))
    for event in (header(name, NS_PER_S), started((f"GPU-{name}",), NS_PER_S), EngineReady(NS_PER_S)):
        pipeline.take(name, event)
    for slot in range(running):
        key = f"req-{slot}"
        pipeline.take(name, SequenceAdded(slot, NS_PER_S, key, key, key, key, 100, "m", f"t{slot % 5}", "header"))
    pipeline.take(name, Step(0, NS_PER_S, NS_PER_S + 1, (), tuple((slot, 100) for slot in range(running)), ()))


def busy(first, count, period_ns=STEP_NS):
    """Steps without a gap, in which nobody comes or goes; their lengths vary a little, for the fit."""
    at = NS_PER_S + 1 + (first - 1) * period_ns
    return [Step(first + n, at + n * period_ns, at + (n + 1) * period_ns) for n in range(count)]


def by_agent(running):
    """The whole way, without reading and booking: microseconds a step."""
    pipeline = Pipeline(Policy(), 60 * NS_PER_S)
    engine(pipeline, "e", running)
    pipeline.take("e", Heartbeat(NS_PER_S + 1, 2 * NS_PER_S))
    pipeline.sweep(1 << 62)
    follow(pipeline, "e", busy(1, WARM_STEPS))
    steps = busy(1 + WARM_STEPS, STEPS)
    return timed(lambda: follow(pipeline, "e", steps), STEPS)


def follow(pipeline, name, steps):
    for place in range(0, len(steps), TURN_STEPS):
        for step in steps[place : place + TURN_STEPS]:
            pipeline.take(name, step)
        pipeline.sweep(1 << 62)


def settle(running):
    """A sequence leaves and another comes, with *running* there: microseconds a change beyond a steady step."""
    pipeline = Pipeline(Policy(), 3_600 * NS_PER_S)
    engine(pipeline, "e", running)
    pipeline.sweep(1 << 62)
    events = []
    at, slot = NS_PER_S + 1, running
    for n in range(STEPS):
        key = f"req-{slot}"
        events.append(SequenceAdded(slot, at, key, key, key, key, 100, "m", "t0", "header"))
        gone = (slot - running,)
        events.append(Step(n + 1, at, at + STEP_NS, gone, ((slot, 100),), ()))
        events.append(SequenceFinished(slot - running + 1, at + STEP_NS, n + 1, "stop", 9))
        at += STEP_NS
        slot += 1

    def go():
        for place in range(0, len(events), 3 * TURN_STEPS):
            for event in events[place : place + 3 * TURN_STEPS]:
                pipeline.take("e", event)
            pipeline.sweep(1 << 62)

    return timed(go, STEPS)


# -- many engines, and a day ------------------------------------------------------------------------------------


def hundred_engines(engines, seconds, running):
    """CPU seconds for a second of *engines* at 100 steps a second each."""
    pipeline = Pipeline(Policy(), 60 * NS_PER_S)
    for n in range(engines):
        engine(pipeline, f"e{n:03}", running)
        follow(pipeline, f"e{n:03}", busy(1, WARM_STEPS, 10 * NS_PER_MS))
    pipeline.take_rows()
    turns = seconds * 100 // TURN_STEPS
    gc.collect()
    began = time.process_time()
    for turn in range(turns):
        steps = busy(1 + WARM_STEPS + turn * TURN_STEPS, TURN_STEPS, 10 * NS_PER_MS)
        for n in range(engines):
            for step in steps:
                pipeline.take(f"e{n:03}", step)
        pipeline.sweep(1 << 62)
        pipeline.take_rows()
    return (time.process_time() - began) / seconds


def write_day(home, steps, running, per_change):
    """A journal of a day without a gap; once in *per_change* steps a sequence ends and another is prefilled."""
    translator = ReplayTranslator()
    begin = time.monotonic_ns()  # as a real one: nothing but start-up lies before the journal
    at, period_ns = begin + 1, 86_400 * NS_PER_S // steps
    writer = JournalWriter(home, "day", lambda sequence: translator.snapshot(sequence, at), cap_bytes=1 << 40)
    writer.append([started(("GPU-0",), begin), EngineReady(begin)])
    there, entering, number, records = [], None, 0, []
    for index in range(steps):
        leaves = enters = items = ()
        if entering is not None:
            enters, entering = ((entering, 800),), None
        if index % per_change == 0 or number < running:
            key = f"req-{number}"
            note = SequenceAdded(number, at, key, key, key, key, 800, "m", f"t{number % 5}", "header")
            records.append((NOTE, at, note))
            if len(there) >= running:
                gone = there.pop(0)
                records.append((NOTE, at, SequenceFinished(gone, at, index - 1, "stop", running * per_change)))
                leaves = (gone,)
            items = ((number, 800, 0),)
            entering = number
            there.append(number)
            number += 1
        # Lengths that vary: the fit has something to do.
        took_ns = period_ns - period_ns * (index * 7919 % 100) // 1_000
        records.append((STEP, index, at, at + took_ns, Batch(index, leaves, enters, items, ())))
        at += took_ns
        if len(records) > 100:
            writer.append([*translator.translate(records), Heartbeat(at, at + 10**18, 0, index)])
            records = []
    writer.append([*translator.translate(records), EngineStopped(at)])
    writer.close()
    return number


def attribute_day(home):
    """Read the journal and make rows of it, as an agent does: rows, and CPU seconds."""
    gc.collect()
    began = time.process_time()
    reader, pipeline = JournalReader(home / "journal" / "day"), Pipeline(Policy(), 60 * NS_PER_S)
    posted = metered = records = 0
    while True:
        batch = reader.read()
        if reader.header is not None and not pipeline.engines:
            pipeline.add("day", reader.header)
            pipeline.take("day", reader.header)
        for event in batch.events:
            pipeline.take("day", event)
        pipeline.sweep(1 << 62)
        rows = pipeline.take_rows()
        posted += sum(posting.gpu_ns for posting in rows.postings)
        metered += sum(m.request_ns + m.idle_ns + m.overhead_ns for m in rows.meter)
        records += len(rows.records)
        if not batch.events:
            break
    reader.close()
    assert posted == metered > 0, "the rows add up to the meter"
    return records, time.process_time() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--day-steps", type=lambda text: int(float(text)), default=86_400 * 30)
    given = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    check()
    rounds = range(given.rounds)
    print(
        f"CPU us a step, median [least..most] of {given.rounds} rounds; join/leave: one ends and one begins each step"
    )
    print(
        "running   "
        + "   ".join(f"{name:>24}" for name in (*WAYS, "agent, steady", "agent, join/leave"))
        + "".join(f"   {name}/counters" for name in WAYS if name != "counters")
    )
    for running in RUNNING:
        steps = max(50, min(STEPS, 400_000 // running))
        times = {name: [timed(way(running, steps)[0], steps) for _ in rounds] for name, way in WAYS.items()}
        times["steady"] = [by_agent(running) for _ in rounds]
        times["settle"] = [settle(running) for _ in rounds]
        least = statistics.median(times["counters"])
        ratios = [statistics.median(times[name]) / least for name in WAYS if name != "counters"]
        columns = [f"{show(values):>24}" for values in times.values()] + [f"{ratio:13.1f}" for ratio in ratios]
        print(f"{running:7,}   " + "   ".join(columns))
    print("\nCPU s for a second of 100 engines at 100 steps a second each (10,000 steps; 1.0 is all of one core)")
    for running in (16, 256):
        print(
            f"{running:7,} running   {show([hundred_engines(100, 4, running) for _ in range(min(3, given.rounds))], 3)}"
        )
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        requests = write_day(home, given.day_steps, 64, 16)
        size = sum(path.stat().st_size for path in (home / "journal").rglob("*.ctj"))
        print(f"\na day's journal: {given.day_steps:,} steps, {requests:,} requests, {size / 1e6:.0f} MB")
        records, seconds = attribute_day(home)
        assert records == requests, "every request is there once"
        each_us = seconds / given.day_steps * 1e6
        print(f"read and attributed again, in balance with ==: {seconds:.0f} CPU s, {each_us:.1f} us a step")


if __name__ == "__main__":
    main()
