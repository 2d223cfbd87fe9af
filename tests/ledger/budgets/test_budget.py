"""Budgets: what is spent ties to the report, thresholds are exact, and a forecast says how sure it is."""

import json
import re
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import honest_ledger
import pytest
import yaml
from click.testing import CliRunner
from honest_ledger import DAY_NS, PLANS, write
from hypothesis import given
from hypothesis import strategies as st

from costtrace.cli.app import cli
from costtrace.core.errors import ConfigError
from costtrace.core.semconv import BUDGET_METRICS
from costtrace.ledger.budgets.budget import Budget, status_at
from costtrace.ledger.budgets.file import load_budgets

ROOT = Path(__file__).parents[3]
MONTH = (0, 30 * DAY_NS)
FILE = """
currency: USD
budgets:
  - {name: "a\\"cme", tenant: acme, amount: 0.01, rolling_days: 3}
  - {name: all, amount: 1000, period: month, soft_percent: 50}
"""


def at(days, spent, amount=1_000, unknown_ns=0, **fields):
    budget = Budget("b", amount, "USD", **fields)
    return status_at(
        budget, MONTH, int(days * DAY_NS), {day * DAY_NS: nano for day, nano in enumerate(spent)}, unknown_ns, DAY_NS
    )


@pytest.mark.parametrize(
    ("spent", "unknown", "state"),
    [(799, 0, "ok"), (800, 0, "soft"), (999, 9, "soft"), (1_000, 0, "hard"), (5_000, 9, "hard"), (0, 9, "unknown")],
)
def test_thresholds_are_met_to_the_nano_unit_and_unknown_is_not_ok(spent, unknown, state):
    assert at(1, [spent], unknown_ns=unknown).state == state


def test_equal_days_are_forecast_exactly_and_without_doubt():
    status = at(10, [20] * 10)
    assert (status.spent_nano, status.forecast_nano, status.low_nano, status.high_nano) == (200, 600, 600, 600)


def test_a_forecast_needs_three_whole_days_and_a_period_that_ends():
    assert at(2.5, [20, 20, 20]).forecast_nano is None
    assert at(3, [20, 20, 20]).forecast_nano == 600
    assert at(10, [20] * 10, rolling_days=30).forecast_nano is None
    over = at(31, [20] * 30)
    assert over.forecast_nano == over.low_nano == over.high_nano == 600


@given(st.lists(st.integers(0, 10**12), min_size=3, max_size=29))
def test_what_is_spent_is_never_above_the_forecast_and_the_forecast_lies_in_its_interval(spent):
    status = at(len(spent), spent)
    assert status.spent_nano <= status.low_nano <= status.forecast_nano <= status.high_nano


def test_the_interval_holds_the_truth_in_about_nineteen_of_twenty_months():
    import random

    random.seed(7)
    held = 0
    for _ in range(400):
        days = [random.randint(50_000, 150_000) for _ in range(30)]
        status = at(10, days[:10])
        held += status.low_nano <= sum(days) <= status.high_nano
    assert 0.90 < held / 400 < 0.98


@pytest.fixture
def home(tmp_path, monkeypatch):
    import time

    monkeypatch.setattr(honest_ledger, "WALL_NS", time.time_ns() // 10**10 * 10**10 - 20 * 60 * 10**9)
    write(tmp_path, plans=(PLANS[0],))
    (tmp_path / "budgets.yaml").write_text(FILE)
    return tmp_path


def run(home, *words, command="budgets"):
    file = ["--file", str(home / "budgets.yaml")] if command == "budgets" else []
    return CliRunner().invoke(cli, [command, *file, *words, "--home", str(home)], standalone_mode=False)


def test_what_is_spent_is_what_the_report_says(home):
    rows = json.loads(run(home, "--format", "json").stdout)["budgets"]
    lines = json.loads(run(home, "--by", "tenant", "--format", "json", command="report").stdout)["summary"]
    (acme,) = [line for line in lines if line.get("tenant") == "acme"]
    assert rows[0]["spent_nano"] == acme["cost_nano"] > 0
    assert rows[0]["state"] == "hard"
    assert run(home, "--fail-on", "hard").return_value == 1
    assert run(home).return_value == 0


def test_the_textfile_has_the_named_metrics_escaped_and_nothing_unknown(home):
    text = run(home, "--format", "prometheus").stdout
    assert 'costtrace_budget_spent{budget="a\\"cme",tenant="acme",model="",currency="USD"}' in text
    assert 'costtrace_budget_forecast{budget="a\\"cme"' not in text
    named = set(re.findall(r"^(costtrace_\w+)\{", text, re.MULTILINE))
    assert named <= {metric.prometheus for metric in BUDGET_METRICS}


def test_the_alerts_ask_for_metrics_that_there_are():
    rules = yaml.safe_load((ROOT / "examples" / "prometheus" / "budget-alerts.yaml").read_text())
    queried = {
        name
        for group in rules["groups"]
        for rule in group["rules"]
        for name in re.findall(r"costtrace_\w+", rule["expr"])
    }
    assert queried
    assert queried <= {metric.prometheus for metric in BUDGET_METRICS}


def test_a_webhook_gets_what_is_spent_and_a_dead_one_is_an_error_that_hides_its_address(home):
    bodies = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    url = f"http://127.0.0.1:{server.server_port}/secret-path"
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    run(home, "--webhook", url)
    thread.join()
    server.server_close()
    assert [row["budget"] for row in bodies[0]["budgets"]] == ['a"cme']
    failed = run(home, "--webhook", url)
    assert str(failed.exception).endswith("did not accept 1 budgets: URLError [Errno 111] Connection refused")
    assert "secret-path" not in str(failed.exception)


@pytest.mark.parametrize(
    ("currency", "least", "too_little"), [("JPY", "1", "0.99"), ("USD", "0.01", "0.009"), ("KWD", "0.001", "0.0009")]
)
def test_a_budget_is_at_least_the_smallest_unit_of_its_currency(tmp_path, currency, least, too_little):
    path, text = tmp_path / "b.yaml", f"currency: {currency}\nbudgets:\n  - {{name: x, amount: "
    path.write_text(f"{text}{least}}}\n")
    assert load_budgets(path)[0].amount_nano == Decimal(least) * 10**9
    path.write_text(f"{text}{too_little}}}\n")
    with pytest.raises(ConfigError, match=f"between {least} and .*line 3"):
        load_budgets(path)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("{name: x, amount: 0}", "must be between 0.01"),
        ("{amount: 1}", "name is missing"),
        ("{name: x, amount: 1, period: week}", "must be one of day, month, year"),
        ("{name: x, amount: 1, period: day, rolling_days: 3}", "exclude each other"),
        ("{name: x, amount: 1, soft_percent: 120}", "above hard_percent"),
        ("{name: x, amount: 1}\n  - {name: x, amount: 2}", "have a name twice"),
        ("{name: x, amount: 1, tenants: acme}", "The nearest is 'tenant'"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, entry, why):
    (tmp_path / "b.yaml").write_text(f"currency: USD\nbudgets:\n  - {entry}\n")
    with pytest.raises(ConfigError, match=why):
        load_budgets(tmp_path / "b.yaml")
