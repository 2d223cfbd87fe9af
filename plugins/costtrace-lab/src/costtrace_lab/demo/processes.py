"""Find and end the processes of a session; each server is started in a session of its own. Linux only."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
POLL_S = 0.05


@dataclass(frozen=True)
class Process:
    """One live process: its id and its command line as /proc shows it (a process may rename itself)."""

    pid: int
    command: str


def end_on_sigterm_as_on_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, so that cleanup code runs and stops the servers it started.

    These have sessions of their own and would outlive this program. Call it in the main thread.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def session_members(session: int) -> list[Process]:
    """Return the live processes of a session, lowest id first, without zombies."""
    members = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # "pid (name) state ppid pgrp session ...": the name may hold blanks and brackets itself.
            state, _, _, owner = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
            if int(owner) != session or state in {"Z", "X"}:
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (OSError, ValueError):
            continue  # it ended meanwhile
        members.append(Process(int(entry.name), command))
    return sorted(members, key=lambda process: process.pid)


def wait_until(condition: Callable[[], bool], bound_s: float, poll_s: float = POLL_S) -> bool:
    """Wait until a condition holds, at most `bound_s` seconds; return whether it does."""
    end = time.monotonic() + bound_s
    while not condition():
        if time.monotonic() >= end:
            return condition()
        time.sleep(poll_s)
    return True


def kill_session(session: int, bound_s: float = 10.0) -> list[Process]:
    """SIGKILL what is left of a session, for at most *bound_s* seconds; return the processes that were killed."""
    killed: dict[int, Process] = {}

    def none_left() -> bool:
        members = session_members(session)
        for process in members:
            killed[process.pid] = process
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not members

    wait_until(none_left, bound_s)
    return list(killed.values())
