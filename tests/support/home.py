"""A COSTTRACE_HOME seen from outside, and a trial balance in SQL that knows nothing of `costtrace.ledger.verify`.

All of it is `==` on integers.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from costtrace_lab.demo.processes import wait_until
from http_client import Reply

from costtrace.capture.node_files.agent_lock import RUNNING, running, status
from costtrace.core.events import SENSORS

WINDOW_S = 2
BOOKED_S = 30.0
READY_AGENT = """
import sys
import costtrace.agent.main
from costtrace.cli import main
print("ready", flush=True)
sys.stdin.readline()
sys.argv[1:] = ["agent"]
main()
"""
KINDS = ("request", "idle", "overhead", "unobserved")


class Home:
    """A COSTTRACE_HOME, seen from outside."""

    def __init__(self, path: Path, environment: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.environment = dict(environment or {})
        """What an agent has to be given beside the home."""

    def rows(self, sql: str, *parameters: Any) -> list[sqlite3.Row]:
        """Rows of the ledger; none where there is no ledger yet."""
        ledger = self.path / "ledger.sqlite"
        if not ledger.exists():
            return []
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            try:
                return connection.execute(sql, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # it is just being made
                    return []
                raise

    def one(self, sql: str, *parameters: Any) -> Any:
        """The first value of the first row."""
        found = self.rows(sql, *parameters)
        return found[0][0] if found else None

    def usage(self, request_id: str) -> sqlite3.Row:
        """The one row of a request."""
        (row,) = self.rows("SELECT * FROM usage WHERE request_id = ?", request_id)
        return row

    def notices(self, subject: str) -> list[str]:
        return [row[0] for row in self.rows("SELECT message FROM notice WHERE subject = ?", subject)]

    def wait_for(self, replies: Sequence[Reply], bound_s: float = BOOKED_S) -> None:
        """Until every answered request is in the ledger."""
        wanted = {reply.id for reply in replies if reply.id}

        def missing() -> set[str]:
            return wanted - {row[0] for row in self.rows("SELECT request_id FROM usage")}

        wait_until(lambda: not missing(), bound_s, 0.1)
        assert not missing(), f"{sorted(missing())} of {len(wanted)} are not in the ledger; {self.log()[-2000:]}"

    def wait_closed(self, bound_s: float = BOOKED_S) -> None:
        """Until every engine's journal is booked to its end (the last agent's own sensors write until it ends)."""

        def still_open() -> set[str]:
            found = {row[0] for row in self.rows("SELECT engine_id FROM position WHERE done = 1")}
            journals = self.path / "journal"
            names = {path.name for path in journals.iterdir() if not path.name.startswith(f"{SENSORS}-")}
            return names - found if found else names | {"no journal is at its end"}

        assert wait_until(lambda: not still_open(), bound_s, 0.1), (
            f"after {bound_s} s: open {still_open()}, agent {self.agent_pid()}, status {status(self.path)}, "
            f"log {self.log()[-800:]!r}"
        )

    def log(self) -> str:
        path = self.path / "agent.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- the agent

    def agent_pid(self) -> int | None:
        """Process id of the agent that has taken up its work; None: there is none."""
        told = status(self.path)
        pid = told.get("pid")
        works = told.get("state") == RUNNING and running(self.path)
        return pid if works and isinstance(pid, int) and Path(f"/proc/{pid}").exists() else None

    def wait_for_agent(self, not_this: int | None = None, bound_s: float = 60) -> int:
        assert wait_until(lambda: self.agent_pid() not in {None, not_this}, bound_s), self.log()[-2000:]
        found = self.agent_pid()
        assert found is not None
        return found

    def kill_agent(self) -> int:
        """SIGKILL it; return once it is gone."""
        pid = self.wait_for_agent()
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: self.agent_pid() != pid, 10)
        return pid

    def command(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command line on this home, as a person does."""
        return subprocess.run(
            [sys.executable, "-m", "costtrace", *words],
            env={**_clean_environment(), **self.environment, "COSTTRACE_HOME": str(self.path), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    @contextmanager
    def agent_by_hand(self, tries: int = 5) -> Iterator[subprocess.Popen[str]]:
        """`costtrace agent`, in the place of the one that runs, until the block ends."""
        for _ in range(tries):
            started = self._ready_agent()
            if (pid := self.agent_pid()) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            started.stdin.write("go\n")
            started.stdin.flush()
            wait_until(lambda one=started: self.agent_pid() == one.pid or one.poll() is not None, 60)
            if self.agent_pid() == started.pid:
                break
            started.wait(30)  # the engine's own was about to start just then
        else:
            raise AssertionError(f"the engine's agent was faster {tries} times: {self.log()[-2000:]}")
        try:
            yield started
        finally:
            started.terminate()
            started.communicate(timeout=30)

    def _ready_agent(self) -> subprocess.Popen[str]:
        """An agent that has imported all it needs and waits for a word: faster than any that has yet to start."""
        with (self.path.parent / "by-hand.log").open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-c", READY_AGENT],
                env={**_clean_environment(), **self.environment, "COSTTRACE_HOME": str(self.path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert started.stdout.readline() == "ready\n"
        return started

    def verify(self) -> str:
        """`costtrace verify`: it has to end with 0 and say so."""
        done = self.command("verify")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "in balance" in done.stdout
        return done.stdout

    # -- the trial balance of the tests' own

    def check_open_books(self) -> None:
        """What holds while engines still run."""
        self._check_meter()
        self._check_records()
        self._check_money()

    def check_closed_books(self) -> None:
        """What holds in the end: every ns of every device of every engine, from its start to its end."""
        self.check_open_books()
        assert self.rows("SELECT engine_id FROM engine WHERE ended_ns = 0") == []
        for engine in self.rows("SELECT engine_id, devices, started_ns, ended_ns FROM engine"):
            for device in json.loads(engine["devices"]):
                ends = self.rows(
                    "SELECT min(start_ns), max(end_ns) FROM meter WHERE engine_id = ? AND device = ?",
                    engine["engine_id"],
                    device,
                )
                assert tuple(ends[0]) == (engine["started_ns"], engine["ended_ns"])
        given = " + ".join(f"{kind}_ns" for kind in KINDS)
        for (device,) in self.rows("SELECT DISTINCT device FROM meter"):
            rows = self.rows(f"SELECT start_ns, end_ns, {given} FROM meter WHERE device = ?", device)
            assert sum(row[2] for row in rows) == union_ns([(row[0], row[1]) for row in rows]), device
        sums = "SELECT engine_id, window_ns, kind, sum({}) FROM {} GROUP BY 1, 2, 3"
        posted = {tuple(row[:3]): row[3] for row in self.rows(sums.format("gpu_ns", "posting")) if row[3]}
        metered = {
            (row[0], row[1], kind): row[kind]
            for kind in KINDS
            for row in self.rows(f"SELECT engine_id, window_ns, sum({kind}_ns) AS {kind} FROM meter GROUP BY 1, 2")
            if row[kind]
        }
        assert posted == metered
        energy = "SELECT (SELECT sum(energy_uj) FROM posting), (SELECT sum(energy_uj) FROM meter)"
        (found,) = self.rows(energy)
        assert found[0] == found[1]

    def _check_meter(self) -> None:
        """Rows follow each other, and per device and window the kinds add up to the wall time."""
        given = " + ".join(f"{kind}_ns" for kind in KINDS)
        rows = self.rows(f"SELECT *, {given} AS given FROM meter ORDER BY engine_id, device, start_ns")
        assert rows
        by_line, by_window = defaultdict(list), defaultdict(list)
        for row in rows:
            by_line[row["engine_id"], row["device"]].append(row)
            by_window[row["device"], row["window_ns"]].append(row)
            assert row["given"] == row["end_ns"] - row["start_ns"] or row["shared"]
            assert min(row[f"{kind}_ns"] for kind in KINDS) >= 0
        for line in by_line.values():
            assert all(before["end_ns"] == after["start_ns"] for before, after in pairwise(line))
            assert all(row["end_ns"] - row["start_ns"] == WINDOW_S * 10**9 for row in line[1:-1])
        # Engines that run have not all booked the newest windows of a device that they share.
        reached = defaultdict(list)
        for (_, device), line in by_line.items():
            reached[device].append((line[-1]["window_ns"], line[0]["window_ns"]))
        for (device, window_ns), parts in by_window.items():
            if any(last <= window_ns for last, _ in reached[device]) and len(reached[device]) > 1:
                continue
            # Each process reads the clocks for itself: its windows begin some 100 ns before or after another one's.
            if len({row["end_ns"] for row in parts}) > 1:
                continue
            assert sum(row["given"] for row in parts) == union_ns([(r["start_ns"], r["end_ns"]) for r in parts])

    def _check_records(self) -> None:
        """Each part is there once, and is the sum of its postings, in time and money."""
        assert self.rows("SELECT record_id FROM usage GROUP BY record_id HAVING count(*) > 1") == []
        off = self.rows(
            """SELECT u.record_id, u.gpu_ns, p.* FROM usage u LEFT JOIN (
                SELECT record_id, sum(gpu_ns) g, sum(prefill_ns) f, sum(decode_ns) d, sum(wasted_ns) w,
                    CASE WHEN count(*) = count(device_nano) AND count(*) = count(energy_nano)
                         THEN sum(device_nano + energy_nano) END c
                FROM posting WHERE kind = 'request' GROUP BY record_id
            ) p ON p.record_id = u.record_id
            WHERE (u.gpu_ns, u.prefill_ns, u.decode_ns, u.wasted_ns)
                IS NOT (coalesce(p.g, 0), coalesce(p.f, 0), coalesce(p.d, 0), coalesce(p.w, 0))
               OR (p.record_id IS NOT NULL AND u.cost_nano IS NOT p.c)
               OR (u.cost_nano IS NOT NULL AND u.cost_nano != u.prefill_nano + u.decode_nano)"""
        )
        assert [tuple(row) for row in off] == []

    def _check_money(self) -> None:
        """Per engine and rate the charges are gpu_ns x rate, to the nano-unit below."""
        sums = "SELECT engine_id, rate_id, sum(gpu_ns), sum(device_nano), sum(energy_nano) FROM posting GROUP BY 1, 2"
        rates = {row["rate_id"]: row for row in self.rows("SELECT * FROM rate")}
        for engine_id, rate_id, gpu_ns, device_nano, energy_nano in self.rows(sums):
            if not rate_id:
                assert (device_nano, energy_nano) == (None, None), engine_id
                continue
            rate = rates[rate_id]
            assert rate["includes_energy"] == 1  # these tests' price book
            due = Fraction(int(rate["device_numerator"]), int(rate["device_denominator"])) * gpu_ns
            assert (device_nano, energy_nano) == (due.numerator // due.denominator, 0)


def union_ns(intervals: Sequence[tuple[int, int]]) -> int:
    """Length of what intervals cover."""
    total = reached = 0
    for start, end in sorted(intervals):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "COSTTRACE_"))}
