"""`costtrace explain` and `costtrace model`: what a person reads of one request, and of how steps are shared."""

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC

import pytest
from click.testing import CliRunner
from costtrace_lab.engines import Profile, RandomEngine
from costtrace_lab.engines.engine import JournalEngine
from plain_request import KEY, PLAIN

from costtrace.agent.loop import Agent
from costtrace.cli.app import cli
from costtrace.cli.doctor import engines
from costtrace.config.settings import Settings
from costtrace.core.rows import FitRow
from costtrace.core.units import NS_PER_MS
from costtrace.ledger.answers import Fit, Habit, Period, Request
from costtrace.ledger.queries import fits, requests
from costtrace.ledger.reader import Filter as Only
from costtrace.ledger.reader import SqliteStore
from costtrace.ledger.store import LEDGER_NAME, Ledger
from costtrace.reports.evidence.model import basis
from costtrace.reports.output.render import render
from costtrace.reports.requests.explain import as_text, explain
from costtrace.reports.requests.tables import detail_table, list_table
from costtrace.reports.requests.why import usual
from costtrace.telemetry.health import Health

PEERS = usual([Habit(*KEY, 1_000, 100, 50, 40, 8_000, NS_PER_MS, 600, 400, 0, 300) for _ in range(5)], [KEY])
ROW = FitRow(
    engine_id="", method="roofline", device="NVIDIA H100 SXM", device_known=True, shape_known=True, fitted=True,
    knee_tokens=295, launch_as=6 * 10**14, token_as=2 * 10**13, weights_as=5 * 10**15, context_as=4 * 10**10,
    attention_as=10**9, sequence_as=5 * 10**12, encoder_as=0, expert_ppm=0, roofline_error_ppm=31_000,
    affine_error_ppm=60_000, tokens_error_ppm=500_000, equal_error_ppm=600_000, coverage_ppm=990_000,
    observations=5_000, outliers=3, changes=0, moves=0,
)  # fmt: skip
FIT = Fit("m", "NVIDIA H100 80GB HBM3", 2, False, 0, ROW)


def explained(fit=FIT, **fields):
    return explain(Request(**{**PLAIN, "head_ns": 250, "method": "roofline", **fields}), PEERS, fit)


@pytest.mark.parametrize(
    ("moved_ns", "words"),
    [
        (2_000_000, "2.0 ms of that is its part of prompts that others computed and it found."),
        (-2_000_000, "others found what it computed, and took over 2.0 ms of it."),
    ],
)
def test_a_shared_prefix_is_told_from_both_sides(moved_ns, words):
    assert words in as_text(explained(prefix_ns=moved_ns), "#")
    assert "Prefix:" not in as_text(explained(prefix_ns=0), "#")
    assert "Prefix:" not in as_text(explained(prefix_ns=None), "#")


def test_the_energy_of_a_part_of_its_time_is_shown_as_a_part():
    assert "energy 0.001 J + ?," in as_text(explained(energy_uj=1_000, energy_unknown_ns=1), "#")
    assert "energy 0.001 J," in as_text(explained(energy_uj=1_000, energy_unknown_ns=0), "#")
    assert "energy unknown," in as_text(explained(energy_uj=None, energy_unknown_ns=1), "#")
    partly = Request(**{**PLAIN, "energy_uj": 1_000, "energy_unknown_ns": 1})
    assert "0.001 J + ?" in render([list_table([partly], None, "", UTC)], "table")
    assert "0.001 J + ?" in render([detail_table(partly, UTC)], "table")


@pytest.mark.parametrize(
    "words",
    [
        "energy unknown",
        "1.0 x the median GPU time",
        "Queue: it waited 1.0 ms, which costs nothing.",
        "Prefill: 100 prompt tokens, 0 us (50.0 %).",
        "8.0 sequences shared each of its 40 steps on average (usually 8.0).",
        "50 tokens of its prompts were in the prefix cache",
        "Head fees: 0 us (25.0 %)",
        "Wasted: nothing.",
        "Shared by: roofline, whose predictions of a step's time are 3.1 % off on average (fitted).",
        "the median of 5 requests",
    ],
)
def test_each_thing_that_made_the_cost_is_said(words):
    assert words in as_text(explained(), "#")


def test_joules_of_a_simulated_device_are_labelled():
    assert "energy 2.000 J SIMULATED, cost" in as_text(
        explained(energy_uj=2_000_000, energy_unknown_ns=0, simulated=1), "#"
    )
    assert "energy 2.000 J, cost" in as_text(explained(energy_uj=2_000_000, energy_unknown_ns=0, simulated=0), "#")


def test_what_the_cache_saved_is_what_the_model_says_of_its_tokens_on_all_devices():
    # 50 tokens of 20 us, and 50 x 50 / 2 units of attention of 1 ns, on two devices.
    assert explained().saved_ns == 2 * (50 * 20_000 + 1_250)
    assert explained(fit=None).saved_ns is None
    assert "is not known" in as_text(explained(fit=None), "#")


def test_bars_are_to_scale_and_the_longest_is_the_largest_of_both():
    lines = as_text(explained(gpu_ns=2_000_000, prefill_ns=1_000_000, decode_ns=1_000_000), "#").splitlines()
    bars = {line.split()[0]: line.count("#") for line in lines if "#" in line}
    assert bars["GPU"] == 2 * bars["prefill"] == 2 * bars["decode"]
    assert bars["GPU"] == max(bars.values())


def test_an_unknown_head_fee_is_not_a_zero():
    text = as_text(explained(head_ns=None), "#")
    assert "Head fees" not in text
    assert any(line.split() == ["head", "fees", "unknown"] for line in text.splitlines())


def test_names_cannot_steer_the_terminal():
    assert "\x1b" not in as_text(explained(request_id="\x1b]0;owned\x07", tenant="\u202eacme"), "#")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "fitted"),
        ({"fitted": False}, "prior, NVIDIA H100 SXM"),
        ({"fitted": False, "device": "generic GPU", "device_known": False}, "not this device's figures"),
        ({"fitted": False, "shape_known": False}, "nothing is known of the model"),
    ],
)
def test_where_the_coefficients_are_from_is_said(row, words):
    fields = {name: getattr(ROW, name) for name in ROW.__struct_fields__} | row
    assert words in basis(FIT._replace(row=FitRow(**fields)))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A ledger that an agent made."""
    home = tmp_path_factory.mktemp("explained")
    JournalEngine(home, RandomEngine(1, Profile(arrivals=1.0)), speed=0, capacity=1 << 20, engine_id="e").run(
        rounds=400
    )
    Agent(Settings(home=home)).run_once()
    return home


class Shown:
    """An emission that keeps its figures."""

    def __init__(self):
        self.health = Health()

    def start(self): ...

    def publish(self, committed, is_open=None): ...

    def device(self, reading): ...

    def drained(self):
        return True

    def stop(self, timeout_s=5.0):
        return True


def test_the_worst_engines_error_and_coverage_are_metrics(tmp_path):
    engine = RandomEngine(2, Profile(arrivals=1.0))
    JournalEngine(tmp_path, engine, speed=0, capacity=1 << 20, engine_id="e").run(rounds=200)
    shown = Shown()
    Agent(Settings(home=tmp_path), shown).run_once()
    assert 0 < shown.health.get("model.error") <= 1
    assert 0 < shown.health.get("model.coverage") <= 1


def run(home, *words):
    done = CliRunner().invoke(cli, [*words, "--home", str(home)], catch_exceptions=False, standalone_mode=False)
    return done.stdout


def test_a_request_of_a_real_ledger_is_explained_against_its_peers(home):
    ledger = Ledger(home / LEDGER_NAME, read_only=True)
    costliest = requests(SqliteStore(ledger), Period(0, 1 << 62), Only(), "gpu", 1)[0]
    (fit,) = fits(SqliteStore(ledger), "e", 5)
    ledger.close()
    assert fit.row.fitted
    assert fit.row.observations > 300
    assert 0 <= costliest.head_ns <= costliest.gpu_ns
    text = run(home, "explain", costliest.request_id)
    assert text.startswith(f"Request {costliest.request_id}: {costliest.tenant}, {costliest.model}, on engine e\n")
    assert "GPU time" in text
    (row,) = json.loads(run(home, "explain", costliest.record_id, "--format", "json"))["explanations"]
    assert row["gpu_ns"] == costliest.gpu_ns
    assert row["median_gpu_time_ns"] > 0


def test_the_models_of_a_ledger_are_shown_exactly(home):
    (row,) = json.loads(run(home, "model", "--format", "json"))["step_models"]
    assert (row["engine_id"], row["basis"], row["device_known"]) == ("e", "fitted", False)
    assert isinstance(row["launch_as"], int)
    assert 0 <= row["coverage_ppm"] <= 1_000_000
    assert "Step models" in run(home, "model")
    assert "no engine" in run(home, "model", "--engine", "nobody")


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ("fitted = 1, roofline_error_ppm = 31000, method = 'roofline'", "ok", "roofline, fitted, error 3.1 %"),
        ("fitted = 1, roofline_error_ppm = 400000, method = 'roofline'", "warn", "error 40.0 %"),
        ("fitted = 0", "warn", "not this device's figures"),
        ("fitted = 0, shape_known = 0", "warn", "nothing is known of the model"),
        ("fitted = 0, device_known = 1, shape_known = 1, device = 'NVIDIA H100 SXM'", "ok", "prior, NVIDIA H100 SXM"),
    ],
)
def test_the_doctor_says_by_what_steps_are_shared_and_where_it_is_rough(home, tmp_path, change, level, words):
    shutil.copy(home / LEDGER_NAME, tmp_path / LEDGER_NAME)
    with closing(sqlite3.connect(tmp_path / LEDGER_NAME, isolation_level=None)) as connection:
        connection.execute(f"UPDATE engine_fit SET {change}")
    (finding,) = engines.models(tmp_path)
    assert (finding.subject, finding.level) == ("model", level)
    assert words in finding.message
