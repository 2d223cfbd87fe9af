"""How far a receiver of spans has the ledger, kept there: one cursor, and one before each record that is held."""

import logging
import time
from collections.abc import Iterable, Sequence

from costtrace.ledger.store import Ledger

_log = logging.getLogger("costtrace.telemetry")
_PUT = (
    "INSERT INTO cursor VALUES (?,?,?) ON CONFLICT (consumer) DO UPDATE "
    "SET usage_id = excluded.usage_id, updated_ns = excluded.updated_ns"
)


def position(ledger: Ledger, name: str) -> int:
    """The usage id up to which records are sent, given up or held."""
    row = ledger.connection.execute("SELECT usage_id FROM cursor WHERE consumer = ?", (name,)).fetchone()
    return row[0] if row else 0


def held(ledger: Ledger, name: str) -> list[int]:
    """The usage ids of the records that are held."""
    sql = "SELECT usage_id + 1 FROM cursor WHERE consumer GLOB ? ORDER BY 1"
    return [row[0] for row in ledger.connection.execute(sql, (f"{name}#*",))]


def note(
    ledger: Ledger,
    name: str,
    messages: Sequence[str] = (),
    *,
    moved: int = 0,
    held: Iterable[int] = (),
    released: Iterable[int] = (),
) -> None:
    """Move the cursor, put and delete those of held records, and write notices: all or nothing."""
    now_ns = time.time_ns()
    rows = [(f"{name}#{usage_id}", usage_id - 1, now_ns) for usage_id in held]
    rows += [(name, moved, now_ns)] if moved else []
    with ledger.transaction():
        ledger.connection.executemany(_PUT, rows)
        gone = [(f"{name}#{usage_id}",) for usage_id in released]
        ledger.connection.executemany("DELETE FROM cursor WHERE consumer = ?", gone)
        for message in messages:
            ledger.notice("spans", message)
    for message in messages:
        _log.warning("%s", message)
