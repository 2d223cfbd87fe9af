"""Files that are there once all of them is written, readable by their owner only."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from costtrace.core.errors import CosttraceError


def write_file(folder: Path, name: str, content: bytes) -> Path:
    """Write *content* into *folder*, all or nothing, readable by its owner only. Raises: CosttraceError."""
    with new_file(folder, name) as file:
        file.write(content)
    return folder / name


@contextmanager
def new_file(folder: Path, name: str) -> Iterator[IO[bytes]]:
    """A file that is in *folder* once all of it is written, readable by its owner only. Raises: CosttraceError."""
    assert Path(name).name == name, name
    path = folder / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            Path(temporary).replace(path)  # a link of that name is replaced, not followed
        except BaseException:  # nothing half-written stays, also on Ctrl-C
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CosttraceError(f"cannot write {path}: {error}") from error
