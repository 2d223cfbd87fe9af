"""`costtrace plan` on ledgers whose truth is known: the simulator wrote their journals, the real agent the rest."""

import csv
import io
import json
import sqlite3
from decimal import Decimal
from fractions import Fraction

import pytest
from costtrace_lab.engines import rack_month
from costtrace_lab.plan.figures import Block, Run, spread
from costtrace_lab.plan.serve import Job, Machine, deal, serve_aggregated, serve_disaggregated
from costtrace_lab.plan.times import scaled
from costtrace_lab.simulator import (
    Arrival,
    Roofline,
    SchedulerConfig,
    Simulator,
    read_model,
    read_workload,
    write_journal,
)
from costtrace_lab.simulator.journals import Setting
from costtrace_lab.simulator.kernel_tables import KernelTables
from honest_ledger import write as write_honest
from public_data import DATA, needs

from costtrace.agent.loop import Agent
from costtrace.attribution.steps.cost_model import Coefficients
from costtrace.attribution.steps.device_peaks import DevicePeak
from costtrace.cli.app import run
from costtrace.config.settings import Settings

H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
MODEL = read_model("qwen3-8b")
BOOK = """
version: test
currency: USD
devices:
  - {match: "*H100*", kind: gpu, per_gpu_hour: 3.60, includes_energy: true, from: 2020-01-01, source: test}
"""
COUNT = 360
LIMITS = SchedulerConfig(max_sequences=256)


def workload():
    return [
        Arrival(i * 0.03 + 0.4 * (i % 7 == 0), 37 * i % 900 + 1, 13 * i % 90 + 3, f"t{i % 3}") for i in range(COUNT)
    ]


def make_ledger(home, times, limits=LIMITS, arrivals=None):
    home.mkdir()
    (home / "prices.yaml").write_text(BOOK)
    setting = Setting(MODEL, H100, times.source, 1_780_000_000_000_000_000)
    write_journal(home, Simulator(arrivals or workload(), times, limits, model="m"), setting, "sim-1")
    Agent(Settings(home=home, prices=home / "prices.yaml")).run_once()
    return home


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_ledger(tmp_path_factory.mktemp("plan") / "home", Roofline(MODEL, H100))


def plan(capsys, home, *words, code=0):
    assert run(["plan", "--home", str(home), *map(str, words)]) == code
    return capsys.readouterr()


def lines(capsys, home, *words):
    return json.loads(plan(capsys, home, *words, "--format", "json").out)


def close(value, other):
    """The same but for the rounding of the ledger's amounts to nano-units, which the mean price is made of."""
    return abs(Decimal(value) / Decimal(other) - 1) < Decimal("1e-6")


def test_todays_configuration_is_measured_and_modelled_on_separate_rows(home, capsys):
    planned = lines(capsys, home)
    today, again = planned["plan"]
    assert [(row["how"], row["modelled"]) for row in (today, again)] == [
        ("measured", False),
        ("modelled, corrected", True),
    ]
    time = planned["calibration"][0]
    assert time["what"] == "device time of the requests, s"
    # The fit is of the truth's own family, so the replay comes close; and what is left of the error is taken out.
    assert abs(Decimal(time["ratio"]) - 1) < Decimal("0.05")
    assert Decimal(again["cost_per_million_tokens_without_idle"]) == Decimal(
        today["cost_per_million_tokens_without_idle"]
    )
    assert Decimal(again["without_idle_low"]) < Decimal(today["cost_per_million_tokens_without_idle"])
    assert Decimal(again["without_idle_high"]) > Decimal(today["cost_per_million_tokens_without_idle"])


def test_the_measured_line_is_what_report_says(home, capsys):
    (today, _) = lines(capsys, home, "--basis", "total")["plan"]
    assert run(["report", "--home", str(home), "--format", "json"]) == 0
    summary = {row["kind"]: row for row in json.loads(capsys.readouterr().out)["summary"]}
    for kind, name in (("all requests", "without"), ("everything", "with")):
        due = Decimal(summary[kind]["cost_per_million_total_tokens"])
        assert close(today[f"cost_per_million_tokens_{name}_idle"], due), kind


def test_another_limit_comes_to_what_it_really_costs(home, tmp_path, capsys):
    other = make_ledger(tmp_path / "other", Roofline(MODEL, H100), SchedulerConfig(max_sequences=4))
    truth, _ = lines(capsys, other)["plan"]
    today, _, planned = lines(capsys, home, "--max-sequences", 4)["plan"]
    key = "cost_per_million_tokens_without_idle"
    assert Decimal(truth[key]) > Decimal(today[key]) * Decimal("1.5")
    assert Decimal(planned["without_idle_low"]) < Decimal(truth[key]) < Decimal(planned["without_idle_high"])
    assert abs(Decimal(planned[key]) / Decimal(truth[key]) - 1) < Decimal("0.05")
    assert Decimal(planned["tokens_per_s_per_user"]) > Decimal(today["tokens_per_s_per_user"])


@needs("aiconfigurator")
@needs("traces/azure_llm_2023_conv.csv")
@pytest.mark.parametrize(("trace", "sequences"), [("invented", 8), ("invented", 2), ("azure", 32), ("azure", 8)])
def test_a_fit_of_measured_kernels_predicts_what_another_limit_really_costs(tmp_path, capsys, trace, sequences):
    pytest.importorskip("pyarrow", reason="kernel tables as Parquet need pyarrow (the extra 'simulator')")
    # The truth is of no family that the fit knows: times of an H200's kernels, as aiconfigurator measured them.
    tables = KernelTables(DATA / "aiconfigurator", MODEL, max_tokens=2_048, max_sequences=256)
    azure = DATA / "traces" / "azure_llm_2023_conv.csv"
    arrivals = read_workload(azure, requests=1_500, speed=4) if trace == "azure" else None
    home = make_ledger(tmp_path / "home", tables, arrivals=arrivals)
    other = make_ledger(tmp_path / "other", tables, SchedulerConfig(max_sequences=sequences), arrivals)
    truth = lines(capsys, other)["plan"][0]
    planned = lines(capsys, home, "--max-sequences", sequences)
    assert abs(Decimal(planned["calibration"][0]["ratio"]) - 1) < Decimal("0.05")
    key = "cost_per_million_tokens_without_idle"
    assert abs(Decimal(planned["plan"][2][key]) / Decimal(truth[key]) - 1) < Decimal("0.02")
    words = ("--tables", DATA / "aiconfigurator", "--shape", "qwen3-8b")
    other = lines(capsys, home, "--device", "h200", *words, "--tier", "mine=2")
    # A fit's error of today says nothing about the error of kernel tables.
    row = other["plan"][2]
    assert (row["how"], row["without_idle_low"], row["with_idle_high"]) == ("modelled", None, None)
    sources = {row["what"]: row["value"] for row in other["assumptions"]}
    assert sources["step times in the scenario"].startswith("kernel tables of")
    by_tables = lines(capsys, home, *words)
    assert Decimal(by_tables["calibration"][0]["ratio"]) == 1


def test_another_device_comes_to_what_it_really_costs(home, tmp_path, capsys):
    other = make_ledger(tmp_path / "other", Roofline(MODEL, H200))
    truth, _ = lines(capsys, other)["plan"]
    tables = lines(capsys, home, "--device", H200, "--tier", "mine=3.60")
    today, _, planned = tables["plan"]
    key = "cost_per_million_tokens_without_idle"
    assert Decimal(truth[key]) < Decimal(today[key])
    assert abs(Decimal(planned[key]) / Decimal(truth[key]) - 1) < Decimal("0.05")
    # The same engines are paid for as long: it saves nothing until they are fewer, or fuller.
    assert close(planned["cost_per_million_tokens_with_idle"], today["cost_per_million_tokens_with_idle"])
    given = lines(capsys, home, "--device", "mine", "--tflops", "989.5", "--tb-per-s", "4.8", "--tier", "mine=3.60")
    assert given["plan"][2][key] == planned[key]


def test_a_price_changes_every_cost_by_its_ratio_and_no_time(home, capsys):
    _, again, other = lines(capsys, home, "--tier", "mine=1.80")["plan"]
    for key in ("cost_per_million_tokens_without_idle", "cost_per_million_tokens_with_idle"):
        assert close(Decimal(other[key]) * 2, again[key])
    assert other["mean_batch"] == again["mean_batch"]


def test_fuller_engines_are_fewer_and_a_token_costs_less(home, capsys):
    _, _, half, most = lines(capsys, home, "--utilisation", "0.5,0.9", "--max-sequences", "16")["plan"]
    for row, part in ((half, "0.5"), (most, "0.9")):
        assert Decimal(row["utilisation"]) == Decimal(part)
        assert abs(Decimal(row["busy"].split()[1]) - Decimal(part)) < Decimal("0.02")
    assert Decimal(most["engines"]) < Decimal(half["engines"])
    assert Decimal(most["cost_per_million_tokens_with_idle"]) < Decimal(half["cost_per_million_tokens_with_idle"])


def test_a_split_serves_every_token_on_engines_of_two_kinds(home, capsys):
    _, again, split = lines(capsys, home, "--split", "1:1")["plan"]
    assert split["busy"].startswith("prefill 0.")
    assert ", decode 0." in split["busy"]
    assert Decimal(split["engines"]) == 2
    # No prompt delays a decode step.
    assert Decimal(split["tokens_per_s_per_user"]) > Decimal(again["tokens_per_s_per_user"])
    assert Decimal(split["cost_per_million_tokens_with_idle"]) > Decimal(again["cost_per_million_tokens_with_idle"])


def test_too_few_engines_are_named_so(home, capsys):
    row = lines(capsys, home, "--device", "slow", "--tflops", "20", "--tb-per-s", "0.1", "--tier", "x=1")["plan"][2]
    assert row["overloaded"]
    assert Decimal(row["utilisation"]) == 1
    assert row["cost_per_million_tokens_with_idle"] == row["cost_per_million_tokens_without_idle"]
    assert (
        "(too few)"
        in plan(capsys, home, "--device", "slow", "--tflops", "20", "--tb-per-s", "0.1", "--tier", "x=1").out
    )


def test_every_title_and_every_spreadsheet_row_says_modelled(home, capsys):
    text = plan(capsys, home, "--tier", "mine=1").out
    assert text.count("MODELLED on a SIMULATED ledger") == 2
    rows = list(csv.DictReader(io.StringIO(plan(capsys, home, "--tier", "mine=1", "--format", "csv").out)))
    assert [(row["modelled"], row["token_basis"], row["simulated"]) for row in rows] == [
        ("false", "output", "true"),
        ("true", "output", "true"),
        ("true", "output", "true"),
    ]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_plot_is_drawn_the_same_each_time(home, tmp_path, capsys, suffix):
    pytest.importorskip("matplotlib", reason="plots need matplotlib (the extra 'plots')")
    # The first picture of a new environment makes matplotlib look for fonts: it does not count.
    first, *paths = [tmp_path / f"{name}.{suffix}" for name in ("first", "a", "b")]
    for path in (first, *paths):
        plan(capsys, home, "--tier", "mine=1", "--plot", path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if suffix == "svg":
        text = paths[0].read_text()
        assert "MODELLED on a SIMULATED ledger" in text
        assert "USD per million output tokens" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device", "H200 NVL"), "another device has another price"),
        (("--device", "abacus", "--tier", "x=1"), "give both its dense"),
        (("--device", "abacus", "--tflops", "3", "--tier", "x=1"), "give both its dense"),
        (("--tflops", "-3", "--tier", "x=1"), "greater than 0"),
        (("--tier", "neocloudy"), "no published tier"),
        (("--utilisation", "1.2"), "between 0 and 1"),
        (("--max-sequences", "4,many"), "whole number"),
        (("--max-sequences", "4096"), "does not hold 4096 decodes"),
        (("--split", "2"), "whole number"),
        (("--split", "1:1", "--engines", "3"), "leave --engines out"),
        (("--model", "other"), "There are: qwen3-8b on Simulated"),
        (("--plot", "out.bmp"), "ends with"),
        (("--max-sequences", ",".join("123456789"), "--utilisation", "0.1,0.2"), "18 scenarios"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_what_to_do(home, capsys, words, message):
    assert message in plan(capsys, home, *words, code=2).err


def test_a_ledger_without_prices_or_a_step_model_says_what_is_missing(home, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "ledger.sqlite").write_bytes((home / "ledger.sqlite").read_bytes())
    with sqlite3.connect(copy / "ledger.sqlite") as ledger:
        ledger.execute("DELETE FROM engine_fit")
    assert "--shape" in plan(capsys, copy, code=2).err
    kind = lines(capsys, copy, "--shape", "qwen3-8b")["assumptions"]
    assert next(row for row in kind if row["what"] == "step times today")["from"] == "analytic"
    with sqlite3.connect(copy / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE usage SET cost_nano = NULL WHERE usage_id = 1")
    assert "give a price with --tier" in plan(capsys, copy, "--shape", "qwen3-8b", code=2).err
    ledger.close()


def test_records_of_many_requests_are_no_traffic(tmp_path, capsys):
    rack_month.write(tmp_path, rack_month.Plan(days=1))
    assert "it cannot be one request" in plan(capsys, tmp_path, code=2).err


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Engines of several models, devices, sizes and prices, some of them unpriced: none has a step model."""
    home = tmp_path_factory.mktemp("honest")
    write_honest(home)
    return home


def test_a_plan_is_of_one_fleet_and_names_what_is_not_in_it(honest, capsys):
    words = ("--fleet", "NVIDIA L40S", "--model", "m-small", "--shape", "qwen3-8b")
    planned = lines(capsys, honest, *words)
    assert {row["currency"] for row in planned["plan"]} == {"EUR"}
    (note,) = [note for note in planned["notes"] if note.startswith("Not in it")]
    assert "m-large on NVIDIA H100" in note
    assert "m-large on NVIDIA L40S" in note
    assert "m-small" not in note
    assert "they cannot be compared" in plan(capsys, honest, *words, "--tier", "neocloud=1", code=2).err


def test_a_fleet_of_several_sizes_or_without_a_price_is_refused(honest, capsys):
    assert "1, 2 devices each" in plan(capsys, honest, "--fleet", "NVIDIA H100", code=2).err
    unpriced = ("--fleet", "NVIDIA B200", "--shape", "qwen3-8b")
    assert "give a price with --tier" in plan(capsys, honest, *unpriced, code=2).err
    row = lines(capsys, honest, *unpriced, "--tier", "mine=2")["plan"][0]
    assert (row["currency"], Decimal(row["per_gpu_hour"])) == ("USD", 2)


def test_every_token_is_counted_once_however_the_engines_are_arranged():
    jobs = [Job(arrival, arrival.prompt_tokens, arrival.output_tokens, arrival.at_s) for arrival in workload()]
    machine = Machine(Roofline(MODEL, H100), LIMITS, 2)
    runs = [
        serve_aggregated([jobs], machine),
        serve_aggregated(deal(jobs, 3), machine),
        serve_disaggregated(jobs, machine, 1, 2),
    ]
    due = (sum(job.input_tokens for job in jobs), sum(job.output_tokens for job in jobs))
    assert {(run.tokens("input"), run.tokens("output")) for run in runs} == {due}
    assert all(run.gpu_ns % 2 == 0 for run in runs)


def test_a_decode_engine_computes_no_prompt_again_and_measured_hits_are_not_computed():
    def like(**changes):
        return [job._replace(arrival=job.arrival._replace(**changes)) for job in jobs]

    jobs = [Job(Arrival(place, 20_000, 40), 20_000, 40, place) for place in range(20)]
    machine = Machine(Roofline(MODEL, H100), LIMITS, 1)
    split = serve_disaggregated(jobs, machine, 1, 1)
    prompts, answers = (
        serve_aggregated([like(output_tokens=1)], machine),
        serve_aggregated([like(cached_tokens=20_000)], machine),
    )
    assert split.gpu_ns == pytest.approx(prompts.gpu_ns + answers.gpu_ns, rel=0.02)
    assert answers.gpu_ns < 0.8 * prompts.gpu_ns


def test_a_device_is_scaled_by_compute_and_by_memory_each_for_itself():
    c = Coefficients(1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    old, new = DevicePeak("old", 1e15, 4e12, ""), DevicePeak("new", 2e15, 1e12, "")
    assert scaled(c, old, new) == Coefficients(1.0, 1.0, 16.0, 32.0, 8.0, 32.0, 32.0)


def test_the_interval_is_nothing_where_all_blocks_are_alike_and_unknown_where_they_are_few():
    same = Run(tuple(Block(5, 1, 7) for _ in range(12)), None, None, 1.0)
    assert spread([same, same, same], "output") == 0
    uneven = same._replace(blocks=tuple(Block(5 + place % 2, 1, 7) for place in range(12)))
    assert 0.02 < spread([uneven], "output") < 0.1
    assert spread([same._replace(blocks=same.blocks[:3])], "output") is None
    assert Fraction(uneven.gpu_ns, uneven.tokens("total")) == Fraction(66, 96)
