"""One agent a home: a lock that dies with its holder, and a file that says who holds it. Standard library only."""

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path

from costtrace.core.errors import AlreadyRunning, ConfigError

LOCK_NAME = "agent.lock"
STATUS_NAME = "agent.json"
STARTING, RUNNING, STOPPED = "starting", "running", "stopped"
"""States of an agent, as its status says."""


def running(home: Path) -> bool:
    """True where an agent holds the lock of this home."""
    try:
        lock = os.open(home / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def status(home: Path) -> dict[str, object]:
    """What the agent last said of itself; empty where there is nothing."""
    try:
        found = json.loads((home / STATUS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class AgentLock:
    """Held while an agent lives. Raises AlreadyRunning, ConfigError (the home cannot be written)."""

    def __init__(self, home: Path) -> None:
        self.home = home
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(home / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"cannot use {home} as home: {error.strerror}. Set COSTTRACE_HOME to a directory that this user "
                "can write."
            ) from error
        # An engine that looks whether an agent runs holds the lock for an instant: try a few times.
        for attempt in range(10):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.05 if attempt < 9 else 0)
            else:
                # At once: whoever looks has to find this holder's number, not the one of an agent that is gone.
                self.write_status(state=STARTING, wall_ns=time.time_ns())
                return
        os.close(self._file)
        holder = status(home).get("pid", "unknown")
        raise AlreadyRunning(
            f"an agent (pid {holder}) runs on {home} already: one is enough, and two would bill twice. "
            "Use another COSTTRACE_HOME for another agent, or stop that one first."
        )

    def write_status(self, **fields: object) -> None:
        """Say who holds the lock, and how it goes."""
        temporary = self.home / f".{STATUS_NAME}.{os.getpid()}"
        with contextlib.suppress(OSError):
            descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"pid": os.getpid(), **fields}, file)
            temporary.replace(self.home / STATUS_NAME)

    def release(self) -> None:
        """Let another agent in."""
        os.close(self._file)
