"""Live power: an append-only file of 16-byte records, written by the program that knows what a device draws.

A record is ``<qII``: CLOCK_MONOTONIC in ns, device number, power in mW from that time on. These rules make readings
independent of when they are taken:

* write a record within the feed's ``settle_ms`` (default 20 ms) of the change of power; the simulated sensor lags by
  as much;
* times of one device do not decrease; an earlier time counts as the last record's;
* with a virtual clock, t is still ``t0_monotonic_ns`` + ns since t0 (``Compiled.t0_monotonic_ns``).

The powers of several files for one device add up: one file for each engine that shares it.
"""

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from costtrace_nvml_sim.errors import NvmlSimError

RECORD = struct.Struct("<qII")
MAX_POWER_MW = 2**32 - 1


@dataclass(frozen=True, slots=True)
class PowerRecord:
    """The power of a device (mW) from a time (CLOCK_MONOTONIC, ns) on."""

    t_ns: int
    device: int
    power_mw: int


class PowerFeed:
    """Appends to a feed file; each record is one write of 16 bytes, so that several processes may share a file."""

    def __init__(self, path: Path) -> None:
        """Open or create the file (mode 0600)."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._last: dict[int, int] = {}

    def write(self, device: int, power_mw: int, *, t_ns: int | None = None) -> None:
        """Record that ``device`` draws ``power_mw`` from ``t_ns`` (CLOCK_MONOTONIC; default now) on.

        Raises NvmlSimError for a power or device beyond 32 bits, and for a time before this writer's last one.
        """
        t = time.monotonic_ns() if t_ns is None else t_ns
        if not 0 <= power_mw <= MAX_POWER_MW or not 0 <= device <= MAX_POWER_MW:
            raise NvmlSimError(f"device {device}, {power_mw} mW: both must be in 0..{MAX_POWER_MW}")
        if t < self._last.get(device, t):
            raise NvmlSimError(f"device {device}: {t} ns is before the last record's {self._last[device]} ns")
        self._last[device] = t
        os.write(self._fd, RECORD.pack(t, device, power_mw))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def read_feed(path: Path) -> Iterator[PowerRecord]:
    """All complete records of a feed file; none where there is no file yet."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    whole_bytes = len(data) - len(data) % RECORD.size
    for t_ns, device, power_mw in RECORD.iter_unpack(data[:whole_bytes]):
        yield PowerRecord(t_ns, device, power_mw)
