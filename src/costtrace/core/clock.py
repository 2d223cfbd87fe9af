"""Monotonic time and wall time of a host, and what tells hosts and boots apart.

All journal times are CLOCK_MONOTONIC of one boot, which every process of a host shares. Wall time is needed for
windows, prices and spans only; an anchor (both clocks read together) converts. A wall clock that steps moves the label
of a window, never its length.
"""

import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

from costtrace.core.wall_time import CLOCK_STEP_NS


class Anchor(NamedTuple):
    """Both clocks of one host, read together."""

    monotonic_ns: int
    wall_ns: int

    def wall(self, monotonic_ns: int) -> int:
        """Wall time (ns since the epoch) of a monotonic reading."""
        return self.wall_ns + (monotonic_ns - self.monotonic_ns)

    def monotonic(self, wall_ns: int) -> int:
        """Monotonic reading at a wall time."""
        return self.monotonic_ns + (wall_ns - self.wall_ns)

    def stepped(self, newer: "Anchor") -> int:
        """By how many ns the wall clock has been stepped since this anchor; 0 while it only drifts."""
        step_ns = newer.wall_ns - self.wall(newer.monotonic_ns)
        return step_ns if abs(step_ns) > CLOCK_STEP_NS else 0


def anchor() -> Anchor:
    """Read both clocks now: the wall clock between two monotonic readings, whose middle is taken."""
    before = time.monotonic_ns()
    wall = time.time_ns()
    return Anchor((before + time.monotonic_ns()) // 2, wall)


def boot_id() -> str:
    """The kernel's id of this boot: monotonic times of different boots are never compared."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"unknown-{socket.gethostname()}"


def host_name() -> str:
    """The host's name as rows show it: ``COSTTRACE_HOST`` (a Kubernetes node's name, say), else the hostname."""
    return os.environ.get("COSTTRACE_HOST") or socket.gethostname()


def process_start_ns() -> int:
    """When this process began, on CLOCK_MONOTONIC (which, unlike the kernel's boot time, does not count sleep)."""
    now_ns = time.monotonic_ns()
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        started_ns = int(fields[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started_ns
    except (OSError, ValueError, IndexError):
        return now_ns
    return max(0, now_ns - max(0, age_ns))
