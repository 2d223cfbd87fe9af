"""What an agent keeps between two starts, and a transaction that fails: the ledger is as if nothing had happened."""

import sqlite3
import time

import pytest
from balance import table
from costtrace_lab.engines import Profile, RandomEngine
from costtrace_lab.engines.engine import JournalEngine
from crash_processes import BOOK
from ledger_tables import check_settled, rows

from costtrace.agent.intake import Intake
from costtrace.agent.loop import Agent
from costtrace.config.settings import Settings
from costtrace.core import clock
from costtrace.core.errors import AlreadyRunning, LedgerError
from costtrace.core.events import Step
from costtrace.core.wall_time import LATEST_NS, believable
from costtrace.journal.reader import JournalReader
from costtrace.ledger.reader import open_ledger
from costtrace.ledger.store import Ledger
from costtrace.ledger.verify.audit import Audit


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


def test_of_two_agents_without_locks_only_one_books(make_agent, expected, monkeypatch):
    """As on a file system whose locks hold nobody up."""
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    monkeypatch.setattr("costtrace.agent.intake.EVENTS_PER_TURN", 1)
    for first in (0, 1):
        agents = [make_agent(f"twins-{first}"), make_agent(f"twins-{first}")]
        agents[first]._turn()
        agents[first]._commit(force=True)
        with pytest.raises(AlreadyRunning, match="books nothing twice"):
            agents[1 - first].run_once()
        agents[first].run_once()
        check_settled(agents[0].home)
        assert rows(agents[0].home) == expected


@pytest.mark.parametrize("kind", ["booking", "node", "meters"])
def test_a_state_that_cannot_be_read_is_named(make_agent, kind):
    agent = make_agent("damaged")
    agent._turn()
    agent._commit(force=True)
    agent.ledger.put_state(kind, b'{"remainders": 3, "by_device": 3, "wall_offsets": 3, "by')
    agent._close()
    with pytest.raises(LedgerError, match=f"the state `{kind}` in .* cannot be read .*costtrace backup"):
        make_agent("damaged")


def test_once_ends_with_an_error_where_nothing_could_be_written(make_agent, monkeypatch):
    def full(*_):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"
        raise error

    monkeypatch.setattr(Ledger, "put_state", full)
    agent = make_agent("full")
    with pytest.raises(LedgerError, match=r"cannot write the ledger .* is full. Free some space .* Nothing is lost"):
        agent.run_once()
    agent = make_agent("full")
    agent._turn()
    agent.stop()  # as a signal does
    with pytest.raises(LedgerError, match="Nothing is lost"):
        agent.run()


NO_TIME = "is before 1970 or after 2200"


@pytest.mark.parametrize("wall_ns", [-(10**18), -1, 0, 1, 2**63 - 1, 2**63, 2**63 + 10**18])
def test_a_wall_clock_that_cannot_be_right_ends_no_agent(tmp_path, monkeypatch, wall_ns):
    began_ns = time.monotonic_ns()

    def anchor():
        now_ns = time.monotonic_ns()
        return clock.Anchor(now_ns, wall_ns + now_ns - began_ns)

    monkeypatch.setattr(clock, "anchor", anchor)
    engine = JournalEngine(tmp_path, RandomEngine(1, Profile(arrivals=1.0)), speed=0, capacity=1 << 20, engine_id="e")
    engine.run(rounds=150)
    monkeypatch.undo()
    for _ in range(2):
        Agent(Settings(home=tmp_path, window_s=1, sensor="none")).run_once()
    check_settled(tmp_path)
    with open_ledger(tmp_path) as store:
        audit = Audit(store)
        assert list(audit.discrepancies()) == []
        assert audit.counts().usage_records == 150
        windows = [row[0] for row in store.rows("SELECT window_ns FROM meter")]
        notices = [row[0] for row in store.rows("SELECT message FROM notice WHERE subject = 'clock'")]
    assert all(-86_400 * 10**9 <= window_ns <= LATEST_NS + 86_400 * 10**9 for window_ns in windows)
    headed_ns = wall_ns + 10**6  # the journal's head is written a moment later
    assert any(NO_TIME in notice for notice in notices) == (believable(headed_ns) != headed_ns)


def test_windows_go_on_by_the_time_before_where_a_clock_is_set_to_what_it_cannot_be(tmp_path, monkeypatch):
    read, begun_s = clock.anchor, time.monotonic()

    def anchor():
        now = read()
        return now._replace(wall_ns=2**63 + 5) if time.monotonic() > begun_s + 1.0 else now

    monkeypatch.setattr(clock, "anchor", anchor)
    engine = JournalEngine(tmp_path, RandomEngine(1, Profile(arrivals=1.0)), engine_id="e", segment_bytes=2000)
    engine.run(seconds=3.5)
    monkeypatch.undo()
    Agent(Settings(home=tmp_path, window_s=1, sensor="none")).run_once()
    check_settled(tmp_path)
    windows = {row["window_ns"] for row in table(tmp_path, "meter")}
    assert max(windows) - min(windows) <= 60 * 10**9
    assert any(NO_TIME in row["message"] for row in table(tmp_path, "notice"))


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
