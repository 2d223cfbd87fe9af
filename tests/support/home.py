"""A COSTTRACE_HOME seen from outside: its ledger, its agent, its command line."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import balance
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
        with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            try:
                return connection.execute(sql, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # it is just being made
                    return []
                raise

    def one(self, sql: str, *parameters: Any) -> Any:
        """The first value of the first row."""
        rows = self.rows(sql, *parameters)
        return rows[0][0] if rows else None

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
            closed = {row[0] for row in self.rows("SELECT engine_id FROM position WHERE done = 1")}
            journals = self.path / "journal"
            names = {path.name for path in journals.iterdir() if not path.name.startswith(f"{SENSORS}-")}
            return names - closed if closed else names | {"no journal is at its end"}

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
        fields = status(self.path)
        pid = fields.get("pid")
        works = fields.get("state") == RUNNING and running(self.path)
        return pid if works and isinstance(pid, int) and Path(f"/proc/{pid}").exists() else None

    def wait_for_agent(self, not_this: int | None = None, bound_s: float = 60) -> int:
        assert wait_until(lambda: self.agent_pid() not in {None, not_this}, bound_s), self.log()[-2000:]
        pid = self.agent_pid()
        assert pid is not None
        return pid

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

    def check_open_books(self) -> None:
        """What holds while engines still run."""
        self._check_as_configured(balance.books_in(self.path))

    def check_closed_books(self) -> None:
        """What holds in the end: every ns of every device of every engine, from its start to its end."""
        books = balance.books_in(self.path)
        self._check_as_configured(books)
        balance.check(books)

    def _check_as_configured(self, books: balance.Books) -> None:
        """What holds at any moment, with the windows and the price book of these tests."""
        assert books.meter
        balance.check_open(books)
        balance.check_window_lengths(books, WINDOW_S * 10**9)
        assert all(rate["includes_energy"] == 1 for rate in books.rates.values())


def _clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "COSTTRACE_"))}
