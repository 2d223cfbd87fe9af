"""What an agent keeps between two starts, and a transaction that fails: the ledger is as if nothing had happened."""

import sqlite3

import pytest
from costtrace_lab.engines import Profile, RandomEngine
from costtrace_lab.engines.engine import JournalEngine
from crash_processes import BOOK
from ledger_tables import check_settled, rows

from costtrace.agent.intake import Intake
from costtrace.agent.loop import Agent
from costtrace.config.settings import Settings
from costtrace.core.events import Step
from costtrace.journal.reader import JournalReader
from costtrace.ledger.store import Ledger


@pytest.fixture
def make_agent(tmp_path):
    """Agents of homes with the same journal of one engine, and a price for its device."""
    engine = JournalEngine(tmp_path, RandomEngine(1, Profile(arrivals=1.0)), speed=0, capacity=1 << 20, engine_id="e")
    engine.run(rounds=300)
    prices = tmp_path / "prices.yaml"
    prices.write_text(BOOK)

    def make(name):
        home = tmp_path / name
        home.mkdir(exist_ok=True)
        if not (home / "journal").exists():
            (home / "journal").symlink_to(tmp_path / "journal")
        return Agent(Settings(home=home, window_s=1, prices=prices))

    return make


@pytest.fixture
def expected(make_agent):
    agent = make_agent("undisturbed")
    agent.run_once()
    check_settled(agent.home)
    return rows(agent.home)


def test_an_agent_goes_on_where_the_one_before_it_stopped(make_agent, expected, monkeypatch):
    agent = make_agent("resumed")
    steps = [event for event in JournalReader(agent.home / "journal" / "e").read().events if isinstance(event, Step)]
    with monkeypatch.context() as patch:
        patch.setattr(Intake, "_limit_ns", lambda _: steps[len(steps) // 2].done_ns)
        agent._turn()
        agent._commit(force=True)
        agent._close()
    agent = make_agent("resumed")
    assert agent.pipeline.engines["e"].ended
    assert 0 < sum(rows(agent.home).values()) < sum(expected.values())
    agent.run_once()
    check_settled(agent.home)
    assert rows(agent.home) == expected


def test_a_transaction_that_fails_is_repeated_and_loses_nothing(make_agent, expected, monkeypatch):
    put_state, failures = Ledger.put_state, []

    def put_state_or_fail(ledger, name, value):
        if name == "booking" and len(failures) < 2:
            failures.append(name)
            raise sqlite3.OperationalError("database or disk is full")
        put_state(ledger, name, value)

    monkeypatch.setattr(Ledger, "put_state", put_state_or_fail)
    agent = make_agent("failing")
    agent._turn()
    agent._commit(force=True)
    assert agent._failing
    agent.run_once()
    assert len(failures) == 2
    check_settled(agent.home)
    assert rows(agent.home) == expected
