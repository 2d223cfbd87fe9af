"""A copy of the ledger while the agent writes it: SQLite's online backup, checked, and put in place at once."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from costtrace.core.errors import LedgerError
from costtrace.core.files import put_in_place
from costtrace.ledger.store import Ledger

_PAGES = 2_000
"""Pages copied at a time. In between the agent may write; what it changes is copied again."""


def back_up(ledger: Ledger, target: Path) -> int:
    """Copy *ledger* to the file *target*, which must not exist. Returns its size in bytes. Raises: LedgerError."""
    if target.exists():
        raise LedgerError(f"{target} is there already: a backup never replaces a file. Name another one.")
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(partial)) as copy:
            ledger.connection.backup(copy, pages=_PAGES, sleep=0.01)
            copy.execute("PRAGMA journal_mode = DELETE")
            (check,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if check != "ok":
            raise LedgerError(f"the copy of {ledger.path} is damaged ({check}): {target} was not written")
        ledger.check_unchanged()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        put_in_place(partial, target)
        return target.stat().st_size
    except (OSError, sqlite3.Error) as error:
        # An OSError's text names the partial file, of which nobody knows.
        reason = error.strerror if isinstance(error, OSError) else error
        raise LedgerError(f"cannot back up {ledger.path} to {target}: {reason}") from error
    finally:
        partial.unlink(missing_ok=True)
