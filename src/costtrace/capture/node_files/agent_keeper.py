"""Start an agent from an engine process, and start it again if it dies. Standard library only; never raises.

The agent is a separate process in its own session: it outlives the engine, whose last records it still has to read,
and the engine does not notice its death.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from costtrace.capture.node_files.agent_lock import RUNNING, running, status
from costtrace.core.guard import guard, log

FIRST_DELAY_S = 2.0
LONGEST_DELAY_S = 60.0
LOG_NAME = "agent.log"
LOG_BYTES = 4 * 1024 * 1024


class AgentKeeper:
    """Keeps an agent running on one home. Called every two seconds by the writer thread."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._next_try_s = 0.0
        self._delay_s = FIRST_DELAY_S
        self._pid = os.getpid()

    def ensure_running(self) -> None:
        """Start an agent if none runs, with a growing delay between tries."""
        with guard("agent.spawn"):
            if self._process is not None and self._pid == os.getpid():
                self._process.poll()  # reaps one that has ended
            now = time.monotonic()
            if running(self._home):
                # An agent that is still starting may yet fail (a broken price book): keep the delay until it runs.
                if status(self._home).get("state") == RUNNING:
                    self._delay_s, self._next_try_s = FIRST_DELAY_S, now
                return
            if now < self._next_try_s:
                return
            self._next_try_s = now + self._delay_s
            self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
            self._spawn()

    def _spawn(self) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._home / LOG_NAME
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        output = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(
                # -P: nothing is imported from the directory in which the server was started.
                [sys.executable, "-P", "-m", "costtrace", "agent", "--spawned"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "COSTTRACE_HOME": str(self._home)},
            )
        finally:
            os.close(output)
        self._pid = os.getpid()
        log.info("costtrace: started the agent (pid %d); its log is %s", self._process.pid, path)
