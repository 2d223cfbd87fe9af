"""Files that somebody may delete, move or replace while they are open."""

import os
from pathlib import Path


def same_file(descriptor: int, path: Path) -> bool:
    """Whether *path* is still the file that is open. False where there is none any more."""
    try:
        there = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def put_in_place(part: Path, path: Path) -> None:
    """Give the file *part* the name *path*, whole or not at all. Raises: FileExistsError, OSError."""
    try:
        os.link(part, path)  # unlike a rename, it never replaces a file
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        part.rename(path)
    part.unlink(missing_ok=True)
