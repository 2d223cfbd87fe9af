"""State that is deleted, moved, replaced or cut while an engine and an agent run: noticed, said, and billed right."""

import shutil
from contextlib import contextmanager

import pytest
from balance import table
from crash_processes import BOOK, agent_command, book_all, engine_command, ready, running, undisturbed, wait_until
from ledger_tables import check_settled, rows

from costtrace.capture.node_files.agent_lock import RUNNING, status
from costtrace.cli.doctor.engines import ledger as doctor_of_ledger
from costtrace.core.errors import LedgerError
from costtrace.core.events import SequenceAdded
from costtrace.journal.reader import JournalReader
from costtrace.ledger.backup import back_up
from costtrace.ledger.reader import open_ledger
from costtrace.ledger.store import LEDGER_NAME, Ledger
from costtrace.ledger.verify.audit import Audit


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text(BOOK)
    return path


@contextmanager
def serving(home, book, seconds=4):
    """An engine and an agent, once the agent has booked some of the engine's requests; the engine's id."""
    with running(engine_command(home, seed=4, arrivals=2, seconds=seconds)) as (engine,):
        engine_id = ready(engine)
        with running(agent_command(home, book)) as (agent,):
            wait_until(lambda: len(table(home, "usage")) > 5)
            yield engine, agent, engine_id


def ended(agent, seconds=20):
    """What an agent that ends by itself says at the end."""
    assert agent.wait(seconds) != 0
    return agent.stderr.read()


def recorded_requests(home, engine_id):
    reader = JournalReader(home / "journal" / engine_id)
    keys = set()
    while events := reader.read().events:
        keys |= {event.request_key for event in events if isinstance(event, SequenceAdded)}
    reader.close()
    return keys


def check_as_undisturbed(home, book, engine_id):
    book_all(home, book)
    check_settled(home)
    assert rows(home) == undisturbed(home, book)
    assert {row["request_key"] for row in table(home, "usage")} == recorded_requests(home, engine_id)
    assert [row["end_reason"] for row in table(home, "engine")] == ["shutdown"]


def test_a_writers_lock_that_is_deleted_ends_no_engine(tmp_path, book):
    home = tmp_path / "home"
    with serving(home, book) as (engine, agent, engine_id):
        lock = home / "journal" / engine_id / "writer.lock"
        lock.unlink()
        wait_until(lock.exists, 10)
        assert engine.wait(20) == 0
        wait_until(lambda: all(row["ended_ns"] for row in table(home, "engine")))
        assert agent.poll() is None
        assert f"{lock} was deleted while the engine runs" in engine.stderr.read()
    check_as_undisturbed(home, book, engine_id)


def test_a_journal_that_is_deleted_while_it_is_followed_is_made_again_and_billed_whole(tmp_path, book):
    home = tmp_path / "home"
    with serving(home, book) as (engine, agent, engine_id):
        directory = home / "journal" / engine_id
        (first,) = directory.glob("*.ctj")
        copy = tmp_path / first.name
        copy.hardlink_to(first)  # the file that engine and agent have open
        shutil.rmtree(directory)
        wait_until(lambda: list(directory.glob("*.ctj")), 10)
        assert engine.wait(20) == 0
        wait_until(lambda: all(row["ended_ns"] for row in table(home, "engine")))
        assert agent.poll() is None
        assert "was deleted while the engine runs" in engine.stderr.read()
    assert not first.exists()
    shutil.copy(copy, first)  # for the agent of the comparison, which has to read all of it
    check_as_undisturbed(home, book, engine_id)


def test_a_ledger_that_is_deleted_is_put_back_and_the_next_agent_goes_on(tmp_path, book):
    home = tmp_path / "home"
    with serving(home, book) as (engine, agent, engine_id):
        (home / LEDGER_NAME).unlink()
        assert "was deleted while the agent ran. It has been put back" in ended(agent)
        assert status(home)["state"] != RUNNING
        assert any("was deleted" in problem for problem in status(home)["problems"])
        booked = len(table(home, "usage"))
        assert booked > 5
        assert engine.wait(20) == 0
    check_as_undisturbed(home, book, engine_id)
    assert any("was deleted" in row["message"] for row in table(home, "notice"))
    assert not list(home.glob(".*")), "nothing is left of how it was put back"


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_write_ahead_log_that_is_deleted_costs_no_row(tmp_path, book, suffix):
    home = tmp_path / "home"
    with serving(home, book) as (engine, agent, engine_id):
        (home / f"{LEDGER_NAME}{suffix}").unlink()
        assert "parted from its write-ahead log" in ended(agent)
        assert engine.wait(20) == 0
    check_as_undisturbed(home, book, engine_id)


def test_a_ledger_that_is_replaced_is_not_written_into_by_the_old_agent(tmp_path, book):
    home, copy = tmp_path / "home", tmp_path / "copy.sqlite"
    with serving(home, book) as (engine, agent, engine_id):
        opened = Ledger(home / LEDGER_NAME, read_only=True)
        back_up(opened, copy)
        opened.close()
        before = copy.read_bytes()
        copy.rename(home / LEDGER_NAME)
        assert "was replaced by another file while the agent ran" in ended(agent)
        assert (home / LEDGER_NAME).read_bytes() == before
        assert engine.wait(20) == 0
    check_as_undisturbed(home, book, engine_id)


def test_a_ledger_that_is_moved_away_is_not_written_on(tmp_path, book):
    home = tmp_path / "home"
    with serving(home, book) as (engine, agent, engine_id):
        (home / LEDGER_NAME).rename(home / "moved.sqlite")
        assert "was moved away while the agent ran" in ended(agent)
        assert not (home / LEDGER_NAME).exists()
        assert engine.wait(20) == 0
    (home / "moved.sqlite").unlink()
    check_as_undisturbed(home, book, engine_id)


def test_a_ledger_that_is_cut_to_nothing_is_refused(tmp_path, book):
    home = tmp_path / "home"
    with serving(home, book) as (engine, agent, engine_id):
        (home / LEDGER_NAME).write_bytes(b"")
        assert "was cut to 0 bytes while the agent ran" in ended(agent)
        assert engine.wait(20) == 0
    for opening in (Ledger, lambda path: Ledger(path, read_only=True)):
        with pytest.raises(LedgerError, match="is empty: it was cut to 0 bytes"):
            opening(home / LEDGER_NAME)
    with pytest.raises(LedgerError, match="is empty"):
        list(doctor_of_ledger(home))
    assert (home / LEDGER_NAME).read_bytes() == b""
    (home / LEDGER_NAME).unlink()
    check_as_undisturbed(home, book, engine_id)


def test_a_log_that_a_deleted_ledger_left_is_not_written_into_the_next_one(tmp_path, book):
    home = tmp_path / "home"
    with serving(home, book) as (engine, agent, engine_id):
        agent.kill()
        agent.wait()
        assert (home / f"{LEDGER_NAME}-wal").stat().st_size
        (home / LEDGER_NAME).unlink()
        assert engine.wait(20) == 0
    check_as_undisturbed(home, book, engine_id)


def test_two_agents_never_book_into_one_ledger(tmp_path, book):
    home = tmp_path / "home"
    with serving(home, book) as (engine, agent, engine_id):
        (home / "agent.lock").unlink()
        with running(agent_command(home, book)) as (other,):
            wait_until(lambda: other.poll() is not None or agent.poll() is not None)
            first, second = (agent, other) if agent.poll() is not None else (other, agent)
            assert "one" in ended(first)
            assert engine.wait(20) == 0
            wait_until(lambda: all(row["ended_ns"] for row in table(home, "engine")))
            assert second.poll() is None
            assert status(home)["pid"] == second.pid
    check_as_undisturbed(home, book, engine_id)


def test_an_agents_lock_that_is_deleted_is_made_again(tmp_path, book):
    home = tmp_path / "home"
    with serving(home, book) as (engine, agent, engine_id):
        (home / "agent.lock").unlink()
        wait_until((home / "agent.lock").exists, 10)
        with running(agent_command(home, book)) as (other,):
            assert "runs on" in ended(other)
        assert engine.wait(20) == 0
        assert agent.poll() is None
    check_as_undisturbed(home, book, engine_id)
    assert any("agent.lock" in row["message"] for row in table(home, "notice"))


def test_a_home_that_is_deleted_ends_its_agent_which_does_not_make_it_again(tmp_path, book):
    home = tmp_path / "home"
    with serving(home, book, seconds=6) as (engine, agent, engine_id):
        while home.exists():  # an engine may make a file between two of rmtree's looks
            shutil.rmtree(home, ignore_errors=True)
        assert f"{home} was deleted while its agent ran" in ended(agent)
        assert not home.exists()
        home.mkdir()  # as the engine's keeper does, before it starts an agent
        wait_until(lambda: list(home.glob("journal/*/writer.lock")), 10)
        with running(agent_command(home, book)):
            wait_until(lambda: len(table(home, "usage")) > 5)
            assert engine.wait(20) == 0
            wait_until(lambda: all(row["ended_ns"] for row in table(home, "engine")))
        assert "was deleted while the engine runs" in engine.stderr.read()
    book_all(home, book)
    check_settled(home)
    assert rows(home) == undisturbed(home, book)
    with open_ledger(home) as store:
        assert list(Audit(store).discrepancies()) == []
    (row,) = table(home, "engine")
    assert (row["engine_id"], row["end_reason"]) == (engine_id, "shutdown")
