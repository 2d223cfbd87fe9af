"""Where the difference to Shapley comes from: the model, its learning, or the prices' closed form. SIMULATED.

    python evaluation/why.py [--data ../shared/data] [--requests 1500]    (options as run.py)

Four ways to share the same journal, each one step nearer to the truth:

    online      as an agent does: the model is learned from the steps that it shares
    hindsight   the same prices with the coefficients that the fit had at the end, for all steps
    its game    the Shapley value of the game that the fitted model says, with the same coefficients
    truth       the Shapley value of the measured game

online to hindsight is what learning costs, hindsight to its game what the closed form leaves out, and its game to the
truth what the model gets wrong of the steps.
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import game
import numpy as np
import rules
import run as evaluation
import scenarios
from costtrace_lab.simulator import SchedulerConfig, Simulator, read_model, write_journal
from costtrace_lab.simulator.journals import Setting
from costtrace_lab.simulator.servegen import ServeGenOptions
from costtrace_lab.simulator.workload import read_workload

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline


def shares(events, slots, coefficients=None):
    """Seconds by slot, the records, and the coefficients that the fit ended with."""
    pipeline = Pipeline(Policy(method="roofline"), scenarios.WINDOW_NS)
    pipeline.add("sim", events[0])
    pipeline.engines["sim"].attribution.coefficients = coefficients
    for event in events:
        pipeline.take("sim", event)
    pipeline.sweep(1 << 62)
    seconds, records = np.zeros(slots + 1), pipeline.take_rows().records
    for record in records:
        seconds[int(record.request_key.removeprefix("sim-"))] = record.gpu_ns * 1e-9
    return seconds, records, pipeline.engines["sim"].attribution.fit.coefficients("roofline")


def journal(scenario):
    """The events of a scenario's simulation, how many requests, and the game that made its steps."""
    model = read_model(scenario.model)
    workload = read_workload(
        scenario.trace,
        requests=scenario.requests,
        speed=scenario.speed,
        servegen_options=ServeGenOptions(seconds=scenario.seconds),
    )
    if scenario.tenants:
        workload = scenarios.invent_tenants(workload, scenario.tenants)
    times = scenarios.times_of(scenario, model)
    with tempfile.TemporaryDirectory() as home:
        simulator = Simulator(workload, times, SchedulerConfig(), model=model.name)
        setting = Setting(model, getattr(times, "device", "") or "NVIDIA H200", times.source, scenarios.WALL_NS)
        return scenarios.read(write_journal(Path(home), simulator, setting, "sim")), len(workload), game.game_of(times)


def explain(scenario):
    """Print the errors of each way against the next, and against the truth."""
    events, slots, measured = journal(scenario)
    online, records, learned = shares(events, slots)
    hindsight, _, _ = shares(events, slots, learned)
    its = game.shapley(events, game.RooflineGame(SimpleNamespace(coefficients=learned)), slots, pairs=scenario.pairs)
    truth = game.shapley(events, measured, slots, pairs=scenario.pairs)
    requests = rules.requests_of(records, slots)
    sampling = float((np.sqrt(truth.variance[1:]) / truth.seconds[1:]).mean())
    print(f"\n{scenario.name}: {slots:,} requests, {truth.steps:,} steps, mean batch {truth.mean_batch:.1f}")
    print(f"  {'':34}{'request':>9}{'tenant':>9}{'misplaced':>11}")
    ways = {"online": online, "hindsight": hindsight, "its game": its.seconds, "truth": truth.seconds}
    for name, other in (
        ("online", "truth"),
        ("hindsight", "truth"),
        ("its game", "truth"),
        ("online", "hindsight"),
        ("hindsight", "its game"),
    ):
        score = rules.score(name, ways[name], ways[other], requests)
        print(
            f"  {name + ' against ' + other:34}{score.mean_error:9.2%}{score.worst_tenant:9.2%}{score.misplaced:11.2%}"
        )
    print(f"  {'standard error of sampling (truth)':34}{sampling:9.2%}", flush=True)


def main():
    for table, scenario in evaluation.scenarios(evaluation.arguments()):
        if table == "servegen" or scenario.name.startswith("heavy"):
            explain(scenario)


if __name__ == "__main__":
    main()
