"""Live power: an append-only file of 16-byte records, written by whoever knows what a device draws right now.

A record is ``<qII``: CLOCK_MONOTONIC in ns, device number, power in mW from that time on. Rules that make what a reader
sees independent of when it looked:

* write a record when the power changes, within the feed's ``settle_ms`` (default 20 ms) of that moment; the simulated
  sensor looks that much later;
* times of one device do not decrease; a record that does counts as from the last one's time;
* with a virtual clock, t is still ``t0_monotonic_ns`` + ns since t0 (``Compiled.t0_monotonic_ns``).

Several files for one device add up: one for each engine that shares it.
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
    """Power of a device from a time (CLOCK_MONOTONIC, ns) on, in mW."""

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

        Raises NvmlSimError for a power that is no u32 and for a time before this writer's last one for the device.
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
    """All whole records of a feed file; none if nobody has written it yet."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    whole = len(data) - len(data) % RECORD.size
    for t_ns, device, power_mw in RECORD.iter_unpack(data[:whole]):
        yield PowerRecord(t_ns, device, power_mw)
