"""Agent and commands killed, both at work on one ledger: each has done all or nothing, and it adds up."""

import random
import signal
import time
from contextlib import closing
from fractions import Fraction

from balance import table
from crash_processes import BOOK, agent_command, book_all, engine_command, running, undisturbed, wait_until
from dying_command import command_that_dies
from ledger_tables import check_settled, rows

from costtrace.cli.app import run
from costtrace.ledger.reader import SqliteStore
from costtrace.ledger.store import Ledger
from costtrace.ledger.verify.audit import Audit

ROUNDS = (("INSERT INTO rerate", 1), ("INSERT INTO adjustment", 1), ("COMMIT", 1), ("COMMIT", 2))


def rerate(home, prices):
    return [
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


def rated(home):
    """Whether something was booked at a price."""
    return any(row["rate_id"] for row in table(home, "posting"))


def in_balance(home):
    with closing(Ledger(home / "ledger.sqlite", read_only=True)) as ledger:
        assert list(Audit(SqliteStore(ledger)).discrepancies()) == []


def test_agents_and_re_ratings_that_are_killed_together_leave_a_ledger_in_balance(tmp_path):
    home, book, rng = tmp_path / "home", tmp_path / "prices.yaml", random.Random(3)
    book.write_text(BOOK)
    editions = [tmp_path / f"edition-{n}.yaml" for n in (1, 2)]
    for n, path in enumerate(editions, 1):
        path.write_text(BOOK.replace("version: test", f"version: edition-{n}").replace("3.21", f"{n}.77"))
    commands = [
        engine_command(home, seed=n, seconds=4, speed=2, device=f"GPU-{n % 2}", segment_bytes=4_000) for n in (1, 2, 3)
    ]
    with running(*commands) as engines:
        for number, (statement, count) in enumerate(ROUNDS):
            words = rerate(home, editions[number % 2])
            with running(agent_command(home, book)) as (agent,):
                wait_until(lambda: rated(home))
                with running(command_that_dies(statement, count, *words)) as (command,):
                    time.sleep(rng.uniform(0, 0.5))
                    agent.send_signal(signal.SIGKILL)
                    command.communicate(timeout=60)
                    assert command.returncode == -signal.SIGKILL
            assert len(table(home, "rerate")) == number, "all or nothing: the one that was killed did nothing"
            in_balance(home)
            assert run(words) == 0
        for engine in engines:
            engine.communicate(timeout=60)
        assert [engine.returncode for engine in engines] == [0, 0, 0]
    book_all(home, book)
    assert run(rerate(home, editions[0])) == 0, "the last word is a whole re-rating"
    check_settled(home)
    in_balance(home)

    def booked(numbers):
        return {key: number for key, number in numbers.items() if key[0] != "rate"}

    assert booked(rows(home)) == booked(undisturbed(home, book)), "nothing that was booked has changed"
    with closing(Ledger(home / "ledger.sqlite", read_only=True)) as ledger:
        sql = "SELECT sum(gpu_ns), sum(device_nano) FROM {}"
        (time_ns, device_nano), (posted_ns, _) = (
            ledger.connection.execute(sql.format(name)).fetchone() for name in ("line", "posted")
        )
    assert time_ns == posted_ns
    # Each run rounds down what it charges an engine, once.
    exact = Fraction(1_770_000_000 * time_ns, 3_600_000_000_000)
    assert 0 <= exact - device_nano < len(table(home, "rerate")) * len(commands)
