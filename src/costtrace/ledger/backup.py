"""A copy of the ledger while the agent writes it: SQLite's online backup, checked, and put in place at once."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from costtrace.core.errors import LedgerError
from costtrace.ledger.store import Ledger

_PAGES = 2_000
"""Copied at a time; between, the agent may write (what it changes is copied again)."""


def back_up(ledger: Ledger, target: Path) -> int:
    """Copy *ledger* to the file *target*, which must not exist; its size in bytes. Raises: LedgerError."""
    if target.exists():
        raise LedgerError(f"{target} is there already: a backup never replaces a file. Name another one.")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(part)) as copy:
            ledger.connection.backup(copy, pages=_PAGES, sleep=0.01)
            copy.execute("PRAGMA journal_mode = DELETE")
            (fault,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if fault != "ok":
            raise LedgerError(f"the copy of {ledger.path} is damaged ({fault}): {target} was not written")
        with part.open("rb") as written:
            os.fsync(written.fileno())
        os.link(part, target)
        return target.stat().st_size
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error  # its file is the part, which nobody knows
        raise LedgerError(f"cannot back up {ledger.path} to {target}: {why}") from error
    finally:
        part.unlink(missing_ok=True)
