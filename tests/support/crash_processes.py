"""Real agents and engines as processes that tests kill, and what an undisturbed agent makes of the same journals."""

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager

from ledger_tables import rows

from costtrace.agent.loop import Agent
from costtrace.config.settings import Settings

AGENT = (
    "import sys, logging; from pathlib import Path; from costtrace.agent.loop import Agent; "
    "from costtrace.config.settings import Settings; logging.basicConfig(level='WARNING'); "
    "Agent(Settings(home=Path(sys.argv[1]), window_s=1, prices=sys.argv[2] or None)).run()"
)


BOOK = """
version: test
currency: USD
devices:
  - {match: "*", kind: gpu, per_gpu_hour: 3.21, includes_energy: true, from: 2020-01-01, source: test}
"""


@contextmanager
def running(*commands):
    """Processes that are gone when the block is left, however it is left."""
    processes = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


def engine_command(home, **options):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "costtrace_lab.engines.engine", "--home", str(home), *flags]


def agent_command(home, book=""):
    return [sys.executable, "-c", AGENT, str(home), str(book)]


def ready(engine):
    word, engine_id = engine.stdout.readline().split()
    assert word == "ready"
    return engine_id


def book_all(home, book=None):
    """What an agent that is never disturbed makes of the journals below *home*, in a ledger of its own."""
    Agent(Settings(home=home, window_s=1, prices=book)).run_once()


def undisturbed(home, book=None):
    other = home.with_name(f"{home.name}-undisturbed")
    shutil.copytree(home / "journal", other / "journal")
    book_all(other, book)
    return rows(other)


def wait_until(true, seconds=40):
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(sqlite3.OperationalError):  # no ledger yet, or a busy one
            if true():
                return
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)
