"""What is run: a workload through the simulator into a journal, and everything that is asked of that journal."""

import random
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import game
import numpy as np
import rules
from costtrace_lab.simulator import (
    Disturbances,
    Disturbed,
    Roofline,
    SchedulerConfig,
    Simulator,
    read_model,
    write_journal,
)
from costtrace_lab.simulator.journals import Setting
from costtrace_lab.simulator.kernel_tables import KernelTables
from costtrace_lab.simulator.servegen import ServeGenOptions
from costtrace_lab.simulator.workload import read_workload

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.journal.reader import JournalReader

METHODS = ("auto", "affine", "tokens", "equal")
WALL_NS = 1_780_000_000 * 10**9
WINDOW_NS = 60 * 10**9


class Scenario(NamedTuple):
    """One run."""

    name: str
    trace: Path
    tables: Path | None
    """None: the analytic model."""
    device: str
    model: str
    requests: int | None
    speed: float
    tenants: int = 0
    """Invent so many where the trace has none."""
    padded: bool = False
    disturbances: Disturbances | None = None
    throttled: bool = False
    """Clocks fall halfway."""
    pairs: int = 8
    seconds: float = 600.0
    """ServeGen: of each client's window."""
    methods: tuple[str, ...] = METHODS


def invent_tenants(workload, count, seed=1):
    """Zipf-sized tenants; every second one prefers long prompts, the others chat. They are not in the trace."""
    rng = random.Random(seed)
    middle = sorted(a.prompt_tokens for a in workload)[len(workload) // 2]
    names = [f"{'documents' if n % 2 else 'chat'}-{n + 1}" for n in range(count)]

    def weights(long):
        return [(4 if (n % 2 == 1) == long else 1) / (n + 1) for n in range(count)]

    both = {long: weights(long) for long in (False, True)}
    return [a._replace(tenant=rng.choices(names, both[a.prompt_tokens > middle])[0]) for a in workload]


def times_of(scenario, model):
    if scenario.tables is None:
        return Roofline(model, scenario.device or "NVIDIA H200")
    config = SchedulerConfig()
    return KernelTables(
        scenario.tables,
        model,
        device=scenario.device,
        max_tokens=config.token_budget,
        max_sequences=config.max_sequences,
        padded=scenario.padded,
    )


def run(scenario: Scenario) -> dict[str, Any]:
    """Simulate, attribute by every method through the real journal, and score all rules."""
    began = time.monotonic()
    model = read_model(scenario.model)
    workload = read_workload(
        scenario.trace,
        requests=scenario.requests,
        speed=scenario.speed,
        servegen_options=ServeGenOptions(seconds=scenario.seconds),
    )
    if scenario.tenants:
        workload = invent_tenants(workload, scenario.tenants)
    times = times_of(scenario, model)
    what = scenario.disturbances or Disturbances()
    if scenario.throttled:
        half = workload[-1].at_s / 2
        what = Disturbances(noise=what.noise, pause_chance=what.pause_chance, throttle_after_s=half)
    disturbed = Disturbed(times, what)
    with tempfile.TemporaryDirectory() as home:
        simulator = Simulator(workload, disturbed, SchedulerConfig(), model=model.name)
        setting = Setting(model, getattr(times, "device", "") or "NVIDIA H200", times.source, WALL_NS)
        events = read(write_journal(Path(home), simulator, setting, "sim"))
    slots = len(workload)
    measured = game.game_of(times)
    truth = game.shapley(events, measured, slots, pairs=scenario.pairs, pauses=disturbed.pauses)
    scores, fit, requests, by_tenant = [], {}, None, {}
    for method in scenario.methods:
        records, fit_row = attribute(events, method)
        requests = rules.requests_of(records, slots)
        mine = np.zeros(slots + 1)
        for record in records:
            mine[int(record.request_key.removeprefix("sim-"))] = record.gpu_ns * 1e-9
        prefill = sum(record.prefill_ns for record in records) / sum(record.gpu_ns for record in records)
        scores.append(rules.score(f"costtrace: {method}", mine, truth.seconds, requests, prefill))
        if method == "auto":
            fit = {"method": fit_row.method, "error": fit_row.roofline_error_ppm / 1e6, "changes": fit_row.changes}
            by_tenant = tenants(mine, truth, requests)
    for name, seconds, share in rules.price_rules(requests, truth.seconds.sum()):
        scores.append(rules.score(name, seconds, truth.seconds, requests, share))
    errors = np.sqrt(truth.variance[1:]) / truth.seconds[1:]
    return {
        "name": scenario.name,
        "trace": scenario.trace.name,
        "times": times.source,
        "truth_family": measured.family,
        "requests": slots,
        "steps": truth.steps,
        "mean_batch": truth.mean_batch,
        "busy_s": float(truth.seconds.sum()),
        "orders_per_step": 2 * scenario.pairs,
        "shapley_standard_error_mean": float(errors.mean()),
        "shapley_standard_error_worst_tenant": max(tenant["standard_error"] for tenant in by_tenant.values()),
        "game_against_recorded_step": truth.worst_gap,
        "fit": fit,
        "tenants": by_tenant,
        "scores": [score._asdict() for score in scores],
        "took_s": time.monotonic() - began,
    }


def tenants(mine, truth, requests):
    """By tenant: seconds by costtrace and by Shapley, and the standard error of the latter as a part of it."""
    rows = {}
    for tenant in sorted(set(requests.tenant[1:])):
        its = requests.tenant == tenant
        whole = float(truth.seconds[its].sum())
        # The errors of one step's players are not independent (they sum to 0): this is on the safe side.
        error = float(np.sqrt(truth.variance[its].sum())) / whole
        row = {"requests": int(its.sum()), "shapley_s": whole, "costtrace_s": float(mine[its].sum())}
        rows[tenant] = {**row, "standard_error": error}
    return rows


def read(directory):
    reader = JournalReader(directory)
    all_events = []
    while events := reader.read().events:
        all_events += events
    reader.close()
    return all_events


def attribute(events, method):
    pipeline = Pipeline(Policy(method=method), WINDOW_NS)
    pipeline.add("sim", events[0])
    for event in events:
        pipeline.take("sim", event)
    pipeline.sweep(1 << 62)
    rows = pipeline.take_rows()
    served = sum(row.request_ns for row in rows.meter)
    assert served == sum(record.gpu_ns for record in rows.records), "the records do not add up to the meter"
    return rows.records, pipeline.all_fit_rows()[0]
