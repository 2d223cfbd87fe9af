"""The instrument that judges the shares is itself checked: against brute force, and against the simulator."""

from itertools import permutations
from types import SimpleNamespace

import pytest

np = pytest.importorskip("numpy", reason="the evaluation needs numpy (a development dependency)")

import estimates  # noqa: E402 - after the check for numpy
import game  # noqa: E402 - as above
import rules  # noqa: E402 - as above
import scenarios  # noqa: E402 - as above
from costtrace_lab.simulator import (  # noqa: E402 - as above
    Arrival,
    Load,
    Roofline,
    SchedulerConfig,
    Simulator,
    journal_events,
    read_model,
    write_journal,
)
from costtrace_lab.simulator.journals import Setting  # noqa: E402 - as above
from costtrace_lab.simulator.kernel_tables import KernelTables  # noqa: E402 - as above
from public_data import DATA, needs  # noqa: E402 - as above

from costtrace.core.events import Step  # noqa: E402 - as above

MODEL = read_model("qwen3-8b")
TIMES = Roofline(MODEL, "NVIDIA H200")
GAME = game.game_of(TIMES)


def mixed():
    """Three decodes, and two prompts that are beyond the knee together."""
    chunks = [GAME.chunk(300, 0), GAME.chunk(200, 500)]
    columns = ([1, 2, 3, 4, 5], [1, 1, 1, 300, 200], [1, 1, 1, 0, 0], [100, 2_000, 9_000, 0, 0], [0, 0, 0, *chunks])
    return game.Players(*(np.array(column, dtype=float if n == 4 else np.int64) for n, column in enumerate(columns)))


def exact(players, measured):
    """Shapley by all orders."""

    def cost(who):
        sums = [np.array(column[list(who)].sum()) for column in players[1:]]
        return float(game.seconds(measured, np.array(len(who)), *sums)) if who else 0.0

    size = len(players.slots)
    values, orders = np.zeros(size), list(permutations(range(size)))
    for order in orders:
        for place, player in enumerate(order):
            values[player] += cost(order[: place + 1]) - cost(order[:place])
    return values / len(orders)


def test_shapley_values_are_those_of_brute_force_where_only_the_decodes_contexts_are_sampled():
    players = mixed()
    values, variance = game.shapley_of_step(players, GAME, 2, np.random.default_rng(1))
    assert values == pytest.approx(exact(players, GAME), rel=1e-9)  # linear in the contexts
    assert np.all(np.sqrt(variance) < 1e-9 * values)


def test_sampled_shapley_values_are_those_of_brute_force_within_their_standard_error(monkeypatch):
    monkeypatch.setattr(game, "SUBSETS", 0)
    players = mixed()
    values, variance = game.shapley_of_step(players, GAME, 4_000, np.random.default_rng(1))
    truth = exact(players, GAME)
    assert values.sum() == pytest.approx(truth.sum(), rel=1e-12)
    assert np.all(np.sqrt(variance) > 0)
    assert np.all(np.abs(values - truth) < 4 * np.sqrt(variance) + 1e-12)
    assert np.all(np.sqrt(variance) < 0.02 * truth)


def test_two_pairs_of_orders_are_enough_for_a_memory_bound_step():
    players = game.Players(*(column[:3] for column in mixed()))
    values, variance = game.shapley_of_step(players, GAME, 2, np.random.default_rng(1))
    truth = exact(players, GAME)
    assert values == pytest.approx(truth, rel=2e-3)
    assert np.all(np.sqrt(variance) < 2e-3 * truth)


def journal(drafts=0):
    arrivals = [Arrival(n * 0.02, 30 + 97 * n % 700, 2 + 5 * n % 30, f"t{n % 2}") for n in range(40)]
    simulator = Simulator(arrivals, TIMES, SchedulerConfig(token_budget=512, max_sequences=100, drafts=drafts))
    return list(journal_events(simulator, Setting(MODEL, "NVIDIA H200", TIMES.source, 10**18), "sim")), len(arrivals)


@pytest.mark.parametrize("drafts", [0, 2])
def test_the_game_says_of_everybody_what_the_journal_recorded(drafts):
    events, slots = journal(drafts)
    truth = game.shapley(events, GAME, slots, pairs=2)
    assert truth.worst_gap < 1e-6
    assert truth.steps == sum(isinstance(e, Step) for e in events)
    busy = sum(e.done_ns - e.scheduled_ns for e in events if isinstance(e, Step))
    assert truth.seconds.sum() == pytest.approx(busy * 1e-9, rel=1e-9)


def test_the_fitted_model_is_nearer_to_shapley_than_any_price_where_the_truth_is_of_its_family():
    events, slots = journal()
    truth = game.shapley(events, GAME, slots, pairs=8)
    records, _ = scenarios.attribute(events, "auto")
    requests = rules.requests_of(records, slots)
    mine = np.zeros(slots + 1)
    for record in records:
        mine[int(record.request_key.removeprefix("sim-"))] = record.gpu_ns * 1e-9
    ours = rules.score("auto", mine, truth.seconds, requests)
    for name, seconds, _ in rules.price_rules(requests, truth.seconds.sum()):
        assert seconds.sum() == pytest.approx(truth.seconds.sum())
        assert rules.score(name, seconds, truth.seconds, requests).mean_error > ours.mean_error
    perfect = rules.score("truth", truth.seconds, truth.seconds, requests)
    assert (perfect.mean_error, perfect.misplaced, perfect.worst_tenant) == (0, 0, 0)


@needs("aiconfigurator")
@pytest.mark.parametrize("padded", [False, True])
def test_coalitions_cost_what_the_simulator_says_of_them(padded):
    pytest.importorskip("pyarrow", reason="Parquet tables need pyarrow (the extra 'simulator')")
    times = KernelTables(DATA / "aiconfigurator", MODEL, max_tokens=1_024, max_sequences=64, padded=padded)
    measured = game.game_of(times)
    for decodes, context, chunks in ((1, 1, []), (7, 9_000, [(100, 50)]), (0, 0, [(512, 0), (3, 900)]), (60, 60, [])):
        load = Load(decodes, decodes, context, chunks)
        attention = sum(measured.chunk(*chunk) for chunk in chunks)
        arrays = (np.array(v) for v in (load.sequences, load.tokens, decodes, context, attention))
        assert float(game.seconds(measured, *arrays)) == pytest.approx(times.seconds(load, 0.0), rel=1e-12)


def test_leaving_tenants_out_of_a_simulated_engine_compares_each_charge_with_marginal_and_alone(tmp_path):
    import leave_one_out as loo

    done = list(loo.runs(2))
    assert len(done) == 14
    planned = loo.schedule(8.0)
    arrivals = [
        Arrival(number * 60 + at_s / 50, 20 * sentences, output, f"r{number:03d}-{tenant}")
        for number, tenants in enumerate(done)
        for at_s, tenant, sentences, output in planned
        if tenant in tenants
    ]
    simulator = Simulator(arrivals, TIMES, SchedulerConfig())
    write_journal(tmp_path, simulator, Setting(MODEL, "NVIDIA H200", TIMES.source, 10**18), "sim")
    seconds, fit = loo.attribute(tmp_path, "auto")
    report = loo.evaluate(done, seconds)
    for row in report["tenants"].values():
        marginal, charged, alone = (row[f"{name}_s"]["mean"] for name in ("marginal", "charged", "alone"))
        assert 0 < marginal < alone
        assert 0 < charged < alone
    assert sum(row["charged_s"]["mean"] for row in report["tenants"].values()) == pytest.approx(
        report["together_s"]["mean"]
    )
    shown = loo.text({"auto": report}, fit, SimpleNamespace(repeats=2, seconds=8.0))
    assert all(f"| {tenant} |" in shown for tenant in report["tenants"])


def test_an_estimate_is_compared_with_the_final_figure_and_made_of_what_ended_before_it():
    def ended(prefill_ns, decode_ns, cached=0):
        tokens = {"input_tokens": 10, "cached_tokens": cached, "output_tokens": 5}
        return SimpleNamespace(
            model="m", prefill_ns=prefill_ns, decode_ns=decode_ns, gpu_ns=prefill_ns + decode_ns, **tokens
        )

    totals = estimates.compared([ended(100, 50), ended(300, 50), ended(7, 8), ended(1, 2, cached=5)], 2)
    assert totals == [(250, 15), ((407 * 5 + 15) // 30 + 36, 3)]
