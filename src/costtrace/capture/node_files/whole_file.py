"""Writing a small file in one piece: a reader sees the old content or the new, and only its owner may read it."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Replace *path* by *content*; folders that are missing are made. Not synced to the disk. Raises: OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    file = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
    draft.replace(path)
