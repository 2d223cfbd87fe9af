"""A virtual clock: a file of eight bytes that holds the present, in ns since t0, so that hours pass in milliseconds."""

import mmap
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

_PRESENT = struct.Struct("<q")


class VirtualClock:
    """Writes the present of a scenario with ``clock: virtual``. One writer, any number of readers."""

    def __init__(self, path: Path) -> None:
        """Open or create the file (mode 0600); a new clock shows 0."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < _PRESENT.size:
                os.ftruncate(fd, _PRESENT.size)
            self._map = mmap.mmap(fd, _PRESENT.size)
        finally:
            os.close(fd)

    @property
    def now_ns(self) -> int:
        """The present, in ns since t0."""
        return int(_PRESENT.unpack(self._map[:])[0])

    def set(self, now_ns: int) -> None:
        """Move the present to a time; backwards too (no real clock of this kind does, but a test may)."""
        self._map[:] = _PRESENT.pack(now_ns)

    def advance(self, by_ns: int) -> None:
        """Move the present on."""
        self.set(self.now_ns + by_ns)

    def close(self) -> None:
        """Lets go of the file."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
