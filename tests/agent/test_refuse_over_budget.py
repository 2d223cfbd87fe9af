"""The agent names the tenants above a hard budget, for the servers of its node to refuse."""

import errno
import threading
import time
from pathlib import Path

import pytest
from honest_ledger import PLANS, WALL_NS, write

from costtrace.agent import periodic, refuse_over_budget
from costtrace.agent.refuse_over_budget import BudgetRefusals
from costtrace.capture.node_files import refusals
from costtrace.capture.node_files.refusals import Refusal
from costtrace.core.errors import ConfigError
from costtrace.ledger.budgets.file import load_budgets
from costtrace.ledger.budgets.status import budget_status
from costtrace.ledger.reader import open_ledger

BUDGETS = """
currency: USD
budgets:
  - {name: spent, tenant: acme, amount: 0.01, soft_percent: 1, hard_percent: 1}
  - {name: spent too but for one model, tenant: globex, model: m, amount: 0.01, soft_percent: 1, hard_percent: 1}
  - {name: enough, tenant: initech, amount: 1000}
"""


NOW_NS = WALL_NS + 1_200 * 10**9
"""In the ledger's own month, whenever the tests run."""


@pytest.fixture
def home(tmp_path):
    write(tmp_path, plans=(PLANS[0],))
    (tmp_path / "budgets.yaml").write_text(BUDGETS)
    return tmp_path


def test_the_agent_names_the_tenants_above_a_hard_budget_and_when_it_starts_again(home):
    agent = BudgetRefusals(home, home / "budgets.yaml", lambda _: None)
    refused = agent.turn(NOW_NS)
    assert list(refused) == ["acme"]
    assert refusals.read(home, NOW_NS / 10**9) == refused
    assert refused["acme"].budget == "spent"
    ends = time.gmtime(refused["acme"].ends_s)
    assert (ends.tm_mday, ends.tm_hour, ends.tm_min, ends.tm_sec) == (1, 0, 0, 0)
    (home / "budgets.yaml").write_text("budgets: 3")
    with pytest.raises(ConfigError):
        agent.turn(NOW_NS)
    assert refusals.read(home, NOW_NS / 10**9) == refused, "the old file is valid until it is too old"


def test_of_several_budgets_the_one_that_refuses_longest_is_named(home):
    spent = "tenant: acme, amount: 0.01, soft_percent: 1, hard_percent: 1"
    lines = [f"  - {{name: {period}, {spent}, period: {period}}}\n" for period in ("day", "year", "month")]
    agent = BudgetRefusals(home, home / "budgets.yaml", lambda _: None)
    (home / "budgets.yaml").write_text("currency: USD\nbudgets:\n" + "".join(lines))
    assert agent.turn(NOW_NS)["acme"].budget == "year"
    lines.insert(0, f"  - {{name: rolling, {spent}, rolling_days: 7}}\n")
    (home / "budgets.yaml").write_text("currency: USD\nbudgets:\n" + "".join(lines))
    assert agent.turn(NOW_NS)["acme"] == Refusal("rolling", 0), "it has no end"


def test_a_budget_that_cannot_be_judged_is_logged_once_and_the_others_hold(home, caplog, monkeypatch):
    def status_unless_enough(store, budget, now_ns):
        if budget.name == "enough":
            raise ConfigError("budget enough is in EUR, and costs of it are in USD")
        return budget_status(store, budget, now_ns)

    monkeypatch.setattr(refuse_over_budget, "budget_status", status_unless_enough)
    agent = BudgetRefusals(home, home / "budgets.yaml", lambda _: None)
    assert [list(agent.turn(NOW_NS)) for _ in range(2)] == [["acme"]] * 2
    assert caplog.text.count("nobody is refused for budget enough") == 1


def test_a_budget_in_another_currency_than_the_costs_is_the_budgets_mistake(home):
    (home / "budgets.yaml").write_text(BUDGETS.replace("USD", "EUR"))
    with open_ledger(home) as store, pytest.raises(ConfigError, match="in EUR, and costs of it are in USD"):
        budget_status(store, load_budgets(home / "budgets.yaml")[0], NOW_NS)


def test_each_refusal_of_a_server_is_counted_once(home):
    counted = []
    agent = BudgetRefusals(home, home / "budgets.yaml", counted.append)
    status = home / "run" / "frontend-7.json"
    for content in ('{"refused": {"acme": 2}}', '{"refused": {"acme": 2, "globex": 3}}', '{"role": "frontend"}', "{"):
        status.parent.mkdir(exist_ok=True)
        status.write_text(content)
        agent._count_refused()
    assert counted == [2, 3]


def test_an_error_in_a_round_does_not_end_the_thread_and_is_said_once(home, monkeypatch, caplog):
    monkeypatch.setattr(periodic, "LEAST_GAP_S", 0.01)
    agent, rounds, enough = BudgetRefusals(home, home / "budgets.yaml", lambda _: None), [], threading.Event()

    def no_descriptor(_path, pattern):
        rounds.append(pattern)
        if len(rounds) == 3:
            enough.set()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "glob", no_descriptor)
    agent.start()
    assert enough.wait(30)
    agent.stop()
    (said,) = [record for record in caplog.records if "a round failed" in record.getMessage()]
    assert "Too many open files" in said.exc_text
