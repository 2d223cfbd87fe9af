"""How wrong is a request's energy? costtrace and what others do, on one run, against a truth that is known (SIMULATED).

    .venv/bin/python evaluation/energy.py [--trace azure_llm_2023_conv.csv] [--seeds 7 8 9] [--quick]

A simulated server (energy_workload.py) has its power played by the NVML double, which the product's own sensor reads
through the real nvidia-ml-py, about ten times a second. The readings and the server's journal go through the
product's own way from events to usage records. The same double is read by the other rules: the counter's difference
from the begin of each step to its end (as Zeus windows are used), the newest one-second average of power times the
step's length, read once a second (as Kepler does), and the whole of the energy by output token. Where a rule only
knows energy by step, the step is shared among its requests by the truth's own parts, in its favour. What costtrace
shares, it shares by its own rule.

Errors are given over all requests, and over those that arrived when the sensor and the models had been learned from for
20 s; with several seeds as the mean over seeds and, in brackets, the least and the most of them.

Before a figure is shown: the truth's joules have to be the double's, and the joules on costtrace's rows with those of
no engine the sensor's counter, to the microjoule.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from costtrace_lab.engines.schedules import BOOT_ID
from costtrace_nvml_sim.runner import Prepared, prepare
from costtrace_nvml_sim.scenario import parse_scenario
from costtrace_nvml_sim.truth import Truth
from energy_workload import Served, serve

from costtrace.attribution.energy.counter_windows import DeviceMeter, piece_of
from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.core.events import Reading, SegmentHeader
from costtrace.core.units import NS_PER_S

BASE_NS = 1_000 * NS_PER_S
"""The monotonic time at the double's t0."""
DEVICE = "GPU-00000000-0000-4000-8000-000000000001"
LOADS = {"light": (0.3, 400.0), "medium": (3.0, 60.0), "heavy": (12.0, 40.0)}
"""Requests a second, and for how many seconds."""
LEARNED_S = 20.0
"""By then the sensor's period, its lag and the models have been found (docs/method/paper.md section 10)."""
SENSORS: dict[str, dict[str, Any]] = {
    "ideal counter": {"counter": {"mode": "ideal", "lag_ms": 60}, "sensor": {"lag_ms": 60}},
    "25/100 ms counter": {"counter": {"mode": "part_time"}, "sensor": {"lag_ms": 60}},
    "1 s power only": {
        "counter": {"mode": "missing"},
        "sensor": {"lag_ms": 60, "instant_field": False, "power_usage": "average"},
    },
}
"""All update every 100 ms. Whether a real counter is of the first or the second kind nobody has published."""
READER = """
import json, sys
import msgspec
from costtrace.core.clock import Anchor
from costtrace_nvml_sim.clock import VirtualClock
from costtrace.sensors.nvml.sensor import NvmlSensor

params = json.load(sys.stdin)
clock = VirtualClock(params["clock"])
sensor = NvmlSensor(clocks=lambda: Anchor(params["base"] + clock.now_ns, params["unix"] + clock.now_ns), files=tuple)
sensor.open()
found = []
for at in params["times"]:
    clock.set(at)
    sensor.upkeep()
    found += sensor.read()
sys.stdout.buffer.write(msgspec.json.encode(found))
"""


class Case(NamedTuple):
    """One load on one sensor."""

    served: Served
    truth: Truth
    readings: list[Reading]


class Score(NamedTuple):
    """A rule's error in requests' energy, in percent, and that of their sum."""

    median: float
    p95: float
    mean: float
    total: float
    late_median: float
    """Of the requests that arrived after `LEARNED_S`."""
    late_p95: float


def play(served: Served, sensor: dict[str, Any], directory: Path) -> Case:
    """Let the double draw what the server drew, and the product's sensor read it."""
    curve = directory / "power.csv"
    with curve.open("w") as file:
        file.write("t_s,power_w\n")
        file.writelines(f"{s.from_ns / NS_PER_S:.9f},{s.power_mw / 1_000}\n" for s in served.spans)
    device = {"preset": "H100", "uuid": DEVICE, "power": {"kind": "csv", "path": "power.csv"}, **sensor}
    prepared = prepare(parse_scenario({"clock": "virtual", "devices": [device]}), directory)
    truth = Truth(prepared.compiled)
    drawn_uj = sum(s.power_mw * (s.until_ns - s.from_ns) for s in served.spans) // 1_000_000
    assert abs(truth.energy_uj(0, 0, served.until_ns) - drawn_uj) <= 1, "the double draws what the server drew"
    return Case(served, truth, read(prepared, served.until_ns))


def read(prepared: Prepared, until_ns: int) -> list[Reading]:
    """Read ten times a second at slightly irregular intervals, as the agent does, in a process of its own."""
    rng, times, at = random.Random(1), [], 0
    while (at := at + round(NS_PER_S / 10 * rng.uniform(0.8, 1.2))) < until_ns:
        times.append(at)
    compiled = prepared.compiled
    given = {"clock": str(prepared.clock_path), "base": BASE_NS, "unix": compiled.t0_unix_ns, "times": times}
    done = subprocess.run(
        [sys.executable, "-c", READER],
        input=json.dumps(given).encode(),
        env=prepared.environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=list[Reading])


def costtrace(case: Case) -> dict[str, float]:
    """Energy by request, through the product; checks that rows add up to the counter."""
    pipeline = Pipeline(Policy(), 60 * NS_PER_S)
    merged = sorted(
        [(_time_of(event), 0, event) for event in case.served.events] + [(r.at_ns, 1, r) for r in case.readings],
        key=lambda row: row[:2],
    )
    engine_id = case.served.events[0].engine_id  # type: ignore[union-attr]  # the header comes first
    for count, (at_ns, _, event) in enumerate(merged):
        if isinstance(event, Reading):
            pipeline.reading(BOOT_ID, event)
        else:
            if isinstance(event, SegmentHeader):
                pipeline.add(engine_id, event)
            pipeline.take(engine_id, event)
        if count % 200 == 0:
            pipeline.sweep(at_ns - 1)
    pipeline.end(engine_id)
    pipeline.sweep(1 << 60)
    pipeline.sweep(1 << 60)
    rows = pipeline.take_rows()
    (meter,) = pipeline.meters.values()
    known = [r.energy_uj for r in case.readings if r.energy_uj is not None]
    # A lag found with the last readings may place one before another: the next value covers it, and here none comes.
    assert meter.last_uj in known[-5:], "it was read to the end"
    assert meter.attributed_uj + meter.outside_uj == meter.last_uj - known[0], "the rows add up to the counter"
    assert sum(p.energy_uj or 0 for p in rows.postings) == meter.attributed_uj, "and so do the postings"
    return {record.request_id: float(record.energy_uj or 0) for record in rows.records}


def _time_of(event: Any) -> int:
    for name in ("at_ns", "done_ns", "started_ns", "monotonic_ns"):
        if (at_ns := getattr(event, name, None)) is not None:
            return int(at_ns)
    raise TypeError(event)


def by_step(case: Case, energy_uj: Callable[[int, int], float]) -> dict[str, float]:
    """Energy by request under a rule that knows each step's, shared by the truth's own parts."""
    by_request: dict[str, float] = {}
    for span in case.served.spans:
        if span.shares:
            uj = energy_uj(span.from_ns, span.until_ns)
            for slot, share in span.shares:
                by_request[f"request-{slot}"] = by_request.get(f"request-{slot}", 0.0) + uj * share
    return by_request


def windows(case: Case) -> dict[str, float]:
    """costtrace's distribution of the counter over the steps, with the same parts within a step as the other rules."""
    meter = DeviceMeter()
    waiting: deque[tuple[int, int]] = deque()
    given: dict[int, float] = {}
    spans = iter(case.served.spans)
    reached_ns = 0
    for reading in case.readings:
        while reached_ns < reading.at_ns - BASE_NS and (span := next(spans, None)) is not None:
            begin, end = BASE_NS + span.from_ns, BASE_NS + span.until_ns
            waiting.append((span.from_ns, meter.add(piece_of(begin, end, end - begin, span.load))))
            reached_ns = span.until_ns
        meter.read(reading)
        while waiting and (result := meter.take(waiting[0][1])) is not None:
            given[waiting.popleft()[0]] = result.uj
    meter.give_up(1 << 62)
    given |= {begin: result.uj for begin, number in waiting if (result := meter.take(number)) is not None}
    return by_step(case, lambda begin, _: given.get(begin, 0.0))


def counter_difference(case: Case) -> dict[str, float]:
    """The counter at a step's end less that at its begin."""
    shown: dict[int, int] = {}

    def counter_mj(at_ns: int) -> int:
        at_ns = max(0, case.truth.counter_update_time_ns(0, at_ns))
        if at_ns not in shown:
            shown[at_ns] = case.truth.counter_mj(0, at_ns) or 0
        return shown[at_ns]

    return by_step(case, lambda begin, end: 1_000.0 * (counter_mj(end) - counter_mj(begin)))


def power_times_time(case: Case) -> dict[str, float]:
    """The newest one-second average, read once a second, times the step's length."""
    times = list(range(0, case.served.until_ns, NS_PER_S))
    power_mw = [case.truth.average_mw(0, at_ns) for at_ns in times]
    return by_step(case, lambda begin, end: power_mw[bisect_right(times, end) - 1] * (end - begin) / 1e6)


def per_output_token(case: Case) -> dict[str, float]:
    """All energy of the run, idle included, by output token: what a benchmark's joules per token give."""
    total = case.truth.energy_uj(0, 0, case.served.until_ns)
    tokens = sum(request.output for request in case.served.requests)
    return {request.request_id: total * request.output / tokens for request in case.served.requests}


def score(case: Case, energy_uj: dict[str, float]) -> Score:
    """Compare with the truth."""
    requests = case.served.requests
    errors = {r: 100 * abs(energy_uj.get(r.request_id, 0.0) - r.energy_uj) / r.energy_uj for r in requests}
    late = [error for request, error in errors.items() if request.arrived_s >= LEARNED_S] or [float("nan")]
    true_uj = sum(r.energy_uj for r in requests)
    return Score(
        statistics.median(errors.values()),
        _p95(list(errors.values())),
        statistics.fmean(errors.values()),
        100 * (sum(energy_uj.values()) - true_uj) / true_uj,
        statistics.median(late),
        _p95(late),
    )


def _p95(errors: list[float]) -> float:
    return sorted(errors)[int(0.95 * (len(errors) - 1))]


RULES: dict[str, Callable[[Case], dict[str, float]]] = {
    "costtrace, its own shares": costtrace,
    "costtrace, true shares": windows,
    "counter difference per step": counter_difference,
    "1 s power x time": power_times_time,
    "J per output token": per_output_token,
}


def evaluate(
    seeds: list[int], loads: dict[str, tuple[float, float]], trace: Path | None
) -> dict[tuple[str, str], dict[str, list[Score]]]:
    """All rules on every load and sensor: a score for each seed."""
    results = {}
    for load, (rate, seconds) in loads.items():
        runs = [serve(seed, rate, seconds, base_ns=BASE_NS, device=DEVICE, trace=trace) for seed in seeds]
        for served in runs:
            busy = sum(s.until_ns - s.from_ns for s in served.spans if s.shares) / served.until_ns
            steps = sum(bool(s.shares) for s in served.spans)
            print(f"{load}: {len(served.requests)} requests, {steps} steps, busy {busy:.0%}")
        for sensor, settings in SENSORS.items():
            scores: dict[str, list[Score]] = {}
            for served in runs:
                with tempfile.TemporaryDirectory() as directory:
                    case = play(served, settings, Path(directory))
                for rule, estimate in RULES.items():
                    if rule != "counter difference per step" or settings["counter"]["mode"] != "missing":
                        scores.setdefault(rule, []).append(score(case, estimate(case)))
            show(f"{load}, {sensor}", scores)
            results[load, sensor] = scores
    return results


def show(title: str, scores: dict[str, list[Score]]) -> None:
    """A table of the rules' errors."""
    print(f"{title}\n    {'':28} {'median':>18} {'p95':>18} {'median, learned':>18} {'p95, learned':>18} {'sum':>18}")
    for rule, those in scores.items():
        columns = [_spread([getattr(each, name) for each in those]) for name in _SHOWN]
        print(f"    {rule:28} " + " ".join(f"{column:>18}" for column in columns))


_SHOWN = ("median", "p95", "late_median", "late_p95", "total")


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f}-{max(values):.1f})"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--trace", type=Path, help="lengths of requests: a CSV of the Azure LLM inference trace 2023")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time")
    given = parser.parse_args()
    if shutil.which("gcc") is None:
        sys.exit("gcc is needed to build the NVML double: install it (Debian: apt-get install gcc)")
    print(
        f"SIMULATED: no figure below is of a real GPU. Seeds {given.seeds}, lengths from {given.trace or 'lognormals'}."
    )
    loads = {name: (rate, s / 10 if given.quick else s) for name, (rate, s) in LOADS.items()}
    evaluate(given.seeds, loads, given.trace)
    print("In every case the rows of costtrace added up to the sensor's counter to the microjoule.")


if __name__ == "__main__":
    main()
