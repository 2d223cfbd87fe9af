"""One agent a home: a lock that its holder's death releases, and the holder's status file. Standard library only."""

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path

from costtrace.capture.node_files.whole_file import write_whole
from costtrace.core.errors import AlreadyRunning, ConfigError
from costtrace.core.files import put_in_place, same_file

LOCK_NAME = "agent.lock"
STATUS_NAME = "agent.json"
STARTING, RUNNING, STOPPED = "starting", "running", "stopped"
"""States of an agent in its status file."""


def running(home: Path) -> bool:
    """True where an agent holds the lock of this home."""
    try:
        lock = os.open(home / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
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
    """What the agent last wrote into its status file; empty where there is none."""
    try:
        fields = json.loads((home / STATUS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


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
        # `running`, in an engine, holds the lock for an instant: try a few times.
        for attempt in range(10):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.05 if attempt < 9 else 0)
            else:
                # At once: the file still has the pid of the agent before.
                self.write_status(state=STARTING, wall_ns=time.time_ns())
                return
        os.close(self._file)
        holder = status(home).get("pid", "unknown")
        raise AlreadyRunning(
            f"an agent (pid {holder}) runs on {home} already: one is enough, and two would bill twice. "
            "Use another COSTTRACE_HOME for another agent, or stop that one first."
        )

    def held(self) -> bool:
        """Whether the lock file is still this agent's. One that was deleted is made again, and the answer is False.

        Raises: AlreadyRunning, ConfigError (the home was deleted; it is not made again).
        """
        path = self.home / LOCK_NAME
        if same_file(self._file, path):
            return True
        if not self.home.is_dir():
            raise ConfigError(f"{self.home} was deleted while its agent ran: the agent ends. Stop it first next time.")
        part = self.home / f".{LOCK_NAME}.{os.getpid()}"
        lock = os.open(part, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            put_in_place(part, path)
        except FileExistsError:
            os.close(lock)
            part.unlink()
            raise AlreadyRunning(
                f"{path} was deleted while this agent ran, and another one has taken over: this one ends. Two would "
                "bill twice."
            ) from None
        os.close(self._file)
        self._file = lock
        return False

    def write_status(self, **fields: object) -> None:
        """Write the status file, while the lock is this agent's. A file that cannot be written is no reason to stop."""
        with contextlib.suppress(OSError):
            if same_file(self._file, self.home / LOCK_NAME):
                write_whole(self.home / STATUS_NAME, json.dumps({"pid": os.getpid(), **fields}).encode())

    def release(self) -> None:
        """Release the lock."""
        os.close(self._file)
