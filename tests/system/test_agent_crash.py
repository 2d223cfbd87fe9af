"""Real processes that are killed: the ledger is the same as if nothing had happened, and it adds up."""

import json
import logging
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import contextmanager

import pytest
from balance import table
from costtrace_lab.engines import Profile, RandomEngine
from costtrace_lab.engines.engine import JournalEngine
from crash_processes import BOOK, agent_command, book_all, engine_command, ready, running, undisturbed, wait_until
from ledger_tables import check_settled, rows

from costtrace.agent.loop import Agent
from costtrace.config.settings import Settings
from costtrace.core.errors import AlreadyRunning, LedgerTooNew
from costtrace.core.events import SequenceAdded, SequenceFinished
from costtrace.core.units import NS_PER_S
from costtrace.journal.reader import JournalReader


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text(BOOK)
    return path


def kill_often(home, book, engines, rng, longest_s=0.8):
    """Start an agent and kill it, again and again, until the engines are gone. Returns how often."""
    kills = 0
    while any(engine.poll() is None for engine in engines):
        with running(agent_command(home, book)) as (agent,):
            time.sleep(rng.uniform(0.25, longest_s))
            agent.send_signal(signal.SIGKILL)
            kills += 1
    return kills


def test_an_agent_that_is_killed_again_and_again_neither_loses_nor_doubles_a_row(tmp_path, book):
    home = tmp_path / "home"
    commands = [
        engine_command(home, seed=1, seconds=6, speed=2, device="GPU-0", segment_bytes=4_000),
        engine_command(home, seed=2, seconds=4, speed=2, device="GPU-0", depth=2),
        engine_command(home, seed=3, seconds=5, speed=1, device="GPU-1"),
    ]
    with running(*commands) as engines:
        assert kill_often(home, book, engines, random.Random(1)) > 5
        assert [engine.returncode for engine in engines] == [0, 0, 0]
    book_all(home, book)
    check_settled(home)
    assert rows(home) == undisturbed(home, book)
    assert len(table(home, "usage")) == count(home, SequenceAdded, "request_key")


@pytest.mark.heavy
def test_an_agent_that_is_killed_a_hundred_times_neither_loses_nor_doubles_a_row(tmp_path, book):
    home = tmp_path / "home"
    commands = [
        engine_command(home, seed=n, seconds=60, speed=2, device=f"GPU-{n % 2}", segment_bytes=20_000) for n in range(3)
    ]
    with running(*commands) as engines:
        assert kill_often(home, book, engines, random.Random(2), longest_s=0.9) > 60
    book_all(home, book)
    check_settled(home)
    assert rows(home) == undisturbed(home, book)


def journal_events(home):
    for directory in sorted((home / "journal").iterdir()):
        reader = JournalReader(directory)
        while events := reader.read().events:
            yield from ((directory.name, event) for event in events)
        reader.close()


def count(home, kind, field):
    return len({(engine, getattr(event, field)) for engine, event in journal_events(home) if isinstance(event, kind)})


def test_an_engine_that_is_killed_has_its_open_requests_closed_and_its_time_accounted_for(tmp_path, book):
    home = tmp_path / "home"
    with running(engine_command(home, seed=4, arrivals=2)) as (engine,), running(agent_command(home, book)) as (agent,):
        engine_id = ready(engine)
        time.sleep(2)
        engine.send_signal(signal.SIGKILL)
        killed_ns = time.monotonic_ns()
        # Without any other engine's events to wake it up.
        wait_until(lambda: any(e["ended_ns"] for e in table(home, "engine")))
        assert agent.poll() is None
    book_all(home, book)
    check_settled(home)
    (row,) = table(home, "engine")
    assert (row["engine_id"], row["end_reason"]) == (engine_id, "interrupted")
    assert killed_ns - NS_PER_S < row["ended_ns"] <= killed_ns
    ended = {event.slot for _, event in journal_events(home) if isinstance(event, SequenceFinished)}
    open_keys = {e.request_key for _, e in journal_events(home) if isinstance(e, SequenceAdded) and e.slot not in ended}
    interrupted = {u["request_key"] for u in table(home, "usage") if "interrupted" in json.loads(u["finish_reasons"])}
    assert interrupted == open_keys
    assert interrupted
    assert rows(home) == undisturbed(home, book)


def test_engine_and_agent_killed_together_leave_nothing_out(tmp_path, book):
    home = tmp_path / "home"
    with running(engine_command(home, seed=5, arrivals=2)) as (engine,), running(agent_command(home, book)) as (agent,):
        ready(engine)
        time.sleep(1.5)
        engine.send_signal(signal.SIGKILL)
        agent.send_signal(signal.SIGKILL)
    book_all(home, book)
    check_settled(home)
    assert rows(home) == undisturbed(home, book)


def test_an_engine_that_is_restarted_on_its_device_is_a_second_engine_and_nothing_overlaps(tmp_path, book):
    home = tmp_path / "home"
    with running(agent_command(home, book)):
        for seed in (6, 7):
            with running(engine_command(home, seed=seed, speed=2)) as (engine,):
                ready(engine)
                time.sleep(1)
                engine.send_signal(signal.SIGKILL)
    book_all(home, book)
    check_settled(home)
    first, second = sorted(table(home, "engine"), key=lambda e: e["started_ns"])
    assert first["ended_ns"] <= second["started_ns"]
    assert not any(m["shared"] for m in table(home, "meter"))
    assert rows(home) == undisturbed(home, book)


def test_two_engines_that_share_a_device_never_bill_more_than_its_wall_time(tmp_path, book):
    home = tmp_path / "home"
    with running(
        engine_command(home, seed=8, seconds=3, device="GPU-0", arrivals=2),
        engine_command(home, seed=9, seconds=2, device="GPU-0", arrivals=2),
        agent_command(home, book),
    ) as (one, two, _):
        assert (one.wait(), two.wait()) == (0, 0)
    book_all(home, book)
    check_settled(home)
    assert any(m["shared"] for m in table(home, "meter"))
    assert rows(home) == undisturbed(home, book)


def test_a_wall_clock_set_back_an_hour_is_reported_and_nothing_is_lost(tmp_path, book):
    home = tmp_path / "home"
    with running(
        engine_command(home, seed=10, seconds=3, wall_step=-3600, wall_step_after=1.2), agent_command(home, book)
    ) as (engine, agent):
        assert engine.wait() == 0
        wait_until(lambda: any(e["ended_ns"] for e in table(home, "engine")))
        assert agent.poll() is None
    messages = [n["message"] for n in table(home, "notice") if n["subject"] == "clock"]
    assert any(re.search(r"was set by -3(599\.9|600\.[01]) s", message) for message in messages)
    book_all(home, book)
    check_settled(home)
    windows = {m["window_ns"] for m in table(home, "meter")}
    assert max(windows) - min(windows) >= 3_590 * NS_PER_S
    assert rows(home) == undisturbed(home, book)


def test_a_second_agent_on_one_home_is_refused_with_the_pid_of_the_first(tmp_path):
    home = tmp_path / "home"
    with running(agent_command(home)) as (agent,):
        wait_until((home / "agent.json").exists)
        with pytest.raises(AlreadyRunning, match=rf"an agent \(pid {agent.pid}\) runs on .*home already"):
            Agent(Settings(home=home))
        with running(agent_command(home)) as (second,):
            assert second.wait() != 0
            assert "AlreadyRunning" in second.stderr.read()
        assert agent.poll() is None
    Agent(Settings(home=home)).run_once()  # a killed agent's lock is free


def test_a_ledger_of_a_newer_schema_is_refused_and_not_touched(tmp_path):
    home = tmp_path / "home"
    book_all(home)
    connection = sqlite3.connect(home / "ledger.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (home / "ledger.sqlite").read_bytes()
    with pytest.raises(LedgerTooNew, match=r"has schema 99, this costtrace knows up to .* Update costtrace-core here"):
        Agent(Settings(home=home))
    assert (home / "ledger.sqlite").read_bytes() == before


def test_a_directory_that_nobody_writes_yet_is_not_taken_for_a_dead_journal(tmp_path):
    """Between making its directory and taking its lock, a writer must not be given up."""
    home = tmp_path / "home"
    directory = home / "journal" / "late"
    directory.mkdir(parents=True)
    with running(agent_command(home)):
        wait_until((home / "agent.json").exists)
        time.sleep(0.6)
        JournalEngine(home, RandomEngine(1), engine_id="late", speed=0).run(rounds=50)
        wait_until(lambda: any(e["ended_ns"] for e in table(home, "engine")))
    check_settled(home)


def test_a_capped_journal_that_nobody_read_is_unobserved_and_adds_up(tmp_path, book):
    home = tmp_path / "home"
    engine = JournalEngine(home, RandomEngine(3, Profile()), speed=0, segment_bytes=8_000, cap_bytes=40_000)
    engine.run(rounds=6_000)
    assert not (home / "journal" / engine.engine_id / "00000001.ctj").exists()
    book_all(home, book)
    check_settled(home)
    assert [e["engine_id"] for e in table(home, "engine")] == [engine.engine_id]
    assert sum(m["unobserved_ns"] for m in table(home, "meter")) > 0
    assert len(table(home, "usage")) > 0
    assert any(n["subject"] == "lost" for n in table(home, "notice"))


@contextmanager
def small_disk(path, kib):
    """A disk of its own below *path*, that can be filled."""
    path.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0700", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path):
    with (path / "filler").open("wb", buffering=0) as filler:
        for block in (4096, 1):
            try:
                while filler.write(b"x" * block):
                    pass
            except OSError:
                continue


def test_a_full_ledger_disk_loses_nothing(tmp_path, book):
    home = tmp_path / "home"
    with small_disk(home, 4_096):
        (tmp_path / "journals").mkdir(mode=0o700)
        (home / "journal").symlink_to(tmp_path / "journals")
        with (
            running(agent_command(home, book)) as (agent,),
            running(engine_command(home, seed=11, seconds=5, speed=2, arrivals=1.5)) as (engine,),
        ):
            ready(engine)
            wait_until(lambda: table(home, "posting"))
            fill(home)
            time.sleep(1.5)
            assert agent.poll() is None
            before = len(table(home, "posting"))
            time.sleep(0.5)
            assert len(table(home, "posting")) == before
            (home / "filler").unlink()
            assert engine.wait() == 0
            wait_until(lambda: any(e["ended_ns"] for e in table(home, "engine")))
            agent.send_signal(signal.SIGTERM)
            log = agent.stderr.read()
            assert agent.wait() == 0
        assert "cannot write the ledger" in log
        assert "Nothing is lost" in log
        assert "can be written again" in log
        check_settled(home)
        assert rows(home) == undisturbed(home, book)


def test_a_full_journal_disk_does_not_stop_the_engine_and_what_does_not_fit_is_unobserved(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("costtrace.journal.writer.BACKLOG_BYTES", 20_000)
    home = tmp_path / "home"
    with small_disk(home, 4_096):  # room for all that is served: it is full only while the filler is there
        engine = JournalEngine(home, RandomEngine(12, Profile(arrivals=1.5)), speed=20)
        engine.pump.start()
        play = iter(engine._engine.rounds())

        def serve(seconds):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                engine._play(next(play))

        with caplog.at_level(logging.WARNING):
            serve(0.5)
            began_ns = time.monotonic_ns()
            fill(home)
            serve(1.5)  # nothing raises, nothing waits
            assert engine.pump.writer.lost_events > 0
            (home / "filler").unlink()
            serve(0.5)
            engine.pump.stop()
            full_ns = time.monotonic_ns() - began_ns
        assert "Free some space or set COSTTRACE_HOME to another disk" in caplog.text
        assert "can be written again" in caplog.text
        other = tmp_path / "other"
        shutil.copytree(home / "journal", other / "journal")
    book_all(other)
    check_settled(other)
    unobserved = sum(m["unobserved_ns"] for m in table(other, "meter"))
    assert 0.5 * NS_PER_S < unobserved < full_ns
    (row,) = table(other, "engine")
    assert row["end_reason"] == "shutdown"


def test_an_unreadable_journal_is_reported_and_the_others_are_booked(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs another user than the engine's")
    home = tmp_path / "home"
    for name in ("mine", "theirs"):
        JournalEngine(home, RandomEngine(1), engine_id=name, speed=0).run(rounds=50)
    for path in [home, *home.rglob("*")]:
        os.chown(path, *((0, 0) if "theirs" in path.parts else (65534, 65534)))
    with open_to_all(home):
        os.seteuid(65534)
        try:
            book_all(home)
        finally:
            os.seteuid(0)
        messages = [n["message"] for n in table(home, "notice") if n["subject"] == "journal"]
        assert len(messages) == 1
        assert "theirs" in messages[0]
        assert "must run as the engine's user" in messages[0]
        assert [e["engine_id"] for e in table(home, "engine")] == ["mine"]
        book_all(home)  # as root: what could not be read is still there
    assert [e["engine_id"] for e in table(home, "engine")] == ["mine", "theirs"]
    check_settled(home)


@contextmanager
def open_to_all(path):
    """Let others pass through the directories above *path*, which pytest keeps for itself."""
    closed = [p for p in path.parents if p.stat().st_uid == 0 and not p.stat().st_mode & 0o001]
    for parent in closed:
        parent.chmod(parent.stat().st_mode | 0o011)
    try:
        yield
    finally:
        for parent in closed:
            parent.chmod(parent.stat().st_mode & ~0o011)
