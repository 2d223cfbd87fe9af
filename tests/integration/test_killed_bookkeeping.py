"""Agent and commands killed at any moment, both at work on one ledger: each has done all or nothing, and it adds up."""

import random
import signal
import sys
import time
from contextlib import closing
from fractions import Fraction

from ledger_balance import check, rows, table
from test_agent_crash import BOOK, agent_command, book_all, engine_command, running, undisturbed

from costtrace.cli.app import run
from costtrace.ledger.audit import Audit
from costtrace.ledger.query import SqliteStore
from costtrace.ledger.store import Ledger


def rerate_command(home, prices):
    words = [
        "rerate",
        "--price-book",
        str(prices),
        "--since",
        "2020-01-01",
        "--reason",
        "corrected",
        "--home",
        str(home),
    ]
    return [sys.executable, "-m", "costtrace", *words]


def kill_both(home, book, engines, editions, rng):
    """Agents and re-ratings, each killed at some moment, until the engines are gone. Returns how many were killed."""
    killed = 0
    while any(engine.poll() is None for engine in engines):
        with running(agent_command(home, book)) as (agent,):
            time.sleep(rng.uniform(0.3, 0.8))
            with running(rerate_command(home, rng.choice(editions))) as (command,):
                time.sleep(rng.uniform(0.3, 1.0))
                agent.send_signal(signal.SIGKILL)
                killed += command.poll() is None
                command.kill()
    return killed


def bill(ledger):
    sql = "SELECT sum(gpu_ns), sum(device_nano), sum(energy_nano) FROM {}"
    return {name: tuple(ledger.connection.execute(sql.format(name)).fetchone()) for name in ("line", "posted")}


def test_agents_and_re_ratings_that_are_killed_together_leave_a_ledger_in_balance(tmp_path):
    home, book = tmp_path / "home", tmp_path / "prices.yaml"
    book.write_text(BOOK)
    editions = [tmp_path / f"edition-{n}.yaml" for n in (1, 2)]
    for n, path in enumerate(editions, 1):
        path.write_text(BOOK.replace("version: test", f"version: edition-{n}").replace("3.21", f"{n}.77"))
    commands = [
        engine_command(home, seed=n, seconds=8, speed=2, device=f"GPU-{n % 2}", segment_bytes=4_000) for n in (1, 2, 3)
    ]
    with running(*commands) as engines:
        assert kill_both(home, book, engines, editions, random.Random(3)) >= 1
        assert [engine.returncode for engine in engines] == [0, 0, 0]
    book_all(home, book)
    for _ in range(2):
        check(home)
        with closing(Ledger(home / "ledger.sqlite", read_only=True)) as ledger:
            assert list(Audit(SqliteStore(ledger)).discrepancies()) == []
        again = rerate_command(home, editions[0])[3:]
        assert run(again) == 0, "the last word is a whole re-rating"

    def booked(found):
        return {key: number for key, number in found.items() if key[0] != "rate"}

    assert booked(rows(home)) == booked(undisturbed(home, book)), "nothing that was booked has changed"
    with closing(Ledger(home / "ledger.sqlite", read_only=True)) as ledger:
        found = bill(ledger)
    runs = table(home, "rerate")
    assert found["line"][0] == found["posted"][0]
    exact = Fraction(1_770_000_000 * found["line"][0], 3_600_000_000_000)
    # Each run rounds down what it charges an engine, once.
    assert 0 <= exact - found["line"][1] < len(runs) * len(commands)
