"""Files named for tenants: no name from a client can leave the folder, hide, or replace another's file."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from costtrace.core.errors import CosttraceError

_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_OTHER = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


def safe_name(name: str) -> str:
    """*name* as a part of a file's name, on any file system.

    A plain name (lower-case ASCII letters, digits, ``._-``) stays as it is. Any other is made readable and gets ``~``
    and a hash of it: no plain name has a ``~``, so no two names meet, not even where case does not count.
    """
    if _PLAIN.fullmatch(name) and ".." not in name:
        return name
    readable = _OTHER.sub("_", name).strip("._-")[:40] or "tenant"
    return f"{readable}~{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"


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
