"""A virtual clock: a file of eight bytes with the current time in ns since t0, so that hours pass in milliseconds."""

import mmap
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

_NOW = struct.Struct("<q")


class VirtualClock:
    """The time of a scenario with ``clock: virtual``. One writer, any number of readers."""

    def __init__(self, path: Path) -> None:
        """Open or create the file (mode 0600); a new clock shows 0."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < _NOW.size:
                os.ftruncate(fd, _NOW.size)
            self._map = mmap.mmap(fd, _NOW.size)
        finally:
            os.close(fd)

    @property
    def now_ns(self) -> int:
        """The current time, in ns since t0."""
        return int(_NOW.unpack(self._map[:])[0])

    def set(self, now_ns: int) -> None:
        """Set the time; also backwards, as a test may need although no monotonic clock does."""
        self._map[:] = _NOW.pack(now_ns)

    def advance(self, by_ns: int) -> None:
        """Advance the time."""
        self.set(self.now_ns + by_ns)

    def close(self) -> None:
        """Close the file."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
