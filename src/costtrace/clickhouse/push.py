"""From a node's ledger into the fleet store: at least once, and each row once in the end.

A push reads the ledger at one moment and sends what its cursor has not seen. The cursor is a file beside the ledger.
It moves after each batch has arrived, so a push that dies sends a batch again, and the store keeps one of both.
Without the file all is sent again, with the same result.

Wrong when a ledger was deleted and made anew from the same journals: its postings have other numbers. Drop the
engines of that node from the store first.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from costtrace.clickhouse.schema import ENGINE, METER, POSITION, POSTING, RATE, USAGE, Table
from costtrace.clickhouse.store import ClickHouseStore
from costtrace.errors import LedgerError
from costtrace.ledger.query import Row, Store

BATCH = 50_000


class Pushed(NamedTuple):
    """How many rows were sent."""

    postings: int
    usage_records: int
    meter_rows: int


class Cursor:
    """What the store has, of one ledger: numbers of postings and usage records, monotonic starts of meter rows."""

    def __init__(self, home: Path, where: str) -> None:
        name = hashlib.sha256(where.encode()).hexdigest()[:12]
        self.path = home / f"fleet-{name}.json"
        self._seen: dict[str, int] = self._read()

    def _read(self) -> dict[str, int]:
        try:
            seen = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise LedgerError(f"cannot read {self.path}: {error}. Without the file, all is sent again.") from error
        if not isinstance(seen, dict) or not all(isinstance(value, int) for value in seen.values()):
            raise LedgerError(f"{self.path} is damaged. Without the file, all is sent again.")
        return seen

    def get(self, stream: str) -> int:
        """Up to where a stream was sent; -1: nothing."""
        return self._seen.get(stream, -1)

    def move(self, stream: str, to: int) -> None:
        """A batch has arrived."""
        self._seen[stream] = to
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".fleet-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(self._seen, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except BaseException:  # nothing half-written stays, also on Ctrl-C
            Path(temporary).unlink(missing_ok=True)
            raise


_NOT_HELD = {
    "adjustment": "re-ratings",
    "late_posting": "postings that came after their period was closed",
    "late_usage": "usage records that came after their period was closed",
    "rollup": "compacted periods",
}


def refuse_what_is_not_held(ledger: Store) -> None:
    """The fleet store has postings as they were first booked, and would show another bill. Raises: LedgerError."""
    for table, what in _NOT_HELD.items():
        (count,) = next(ledger.rows(f"SELECT count(*) FROM {table}"))  # noqa: S608 - constants
        if count:
            raise LedgerError(
                f"this ledger has {what} ({count:,} rows), which the fleet store does not hold yet: what it shows "
                "would differ from this node's bill. Read this ledger by itself."
            )


def push(ledger: Store, store: ClickHouseStore, cursor: Cursor, *, batch: int = BATCH) -> Pushed:
    """Send what is new. Raises: LedgerError, with all that arrived before kept."""
    refuse_what_is_not_held(ledger)
    pushed_ns = time.time_ns()
    for table in (ENGINE, RATE, POSITION):
        store.insert(table, list(ledger.rows(f"SELECT {_columns(table)} FROM {table.name}")), pushed_ns)  # noqa: S608 - constants
    meter_rows = 0
    engines = [row[0] for row in ledger.rows("SELECT engine_id FROM engine ORDER BY engine_id")]
    for engine_id in engines:
        stream = f"meter/{engine_id}"
        sql = (
            f"SELECT {_columns(METER)} FROM meter WHERE engine_id = :engine AND start_ns > :seen "  # noqa: S608 - constants
            "ORDER BY start_ns, device"
        )
        rows = ledger.rows(sql, {"engine": engine_id, "seen": cursor.get(stream)})
        meter_rows += _send(store, METER, rows, batch, pushed_ns, _mover(cursor, stream, METER, "start_ns"), tie=True)
    counts = []
    for table, number in ((POSTING, "posting_id"), (USAGE, "usage_id")):
        sql = f"SELECT {_columns(table)} FROM {table.name} WHERE {number} > :seen ORDER BY {number}"  # noqa: S608 - constants
        rows = ledger.rows(sql, {"seen": cursor.get(table.name)})
        counts.append(_send(store, table, rows, batch, pushed_ns, _mover(cursor, table.name, table, number)))
    return Pushed(counts[0], counts[1], meter_rows)


def _columns(table: Table) -> str:
    return ", ".join(f'"{name}"' for name in table.columns)


def _mover(cursor: Cursor, stream: str, table: Table, column: str) -> Callable[[Row], None]:
    place = list(table.columns).index(column)
    return lambda row: cursor.move(stream, row[place])


def _send(
    store: ClickHouseStore,
    table: Table,
    rows: Iterator[Row],
    batch: int,
    pushed_ns: int,
    arrived: Callable[[Row], None],
    *,
    tie: bool = False,
) -> int:
    """Send in batches. *tie*: rows may share a place of the cursor, which then moves at the end only."""
    sent, last = 0, None
    while chunk := list(islice(rows, batch)):
        store.insert(table, chunk, pushed_ns)
        sent, last = sent + len(chunk), chunk[-1]
        if not tie:
            arrived(last)
    if tie and last is not None:
        arrived(last)
    return sent
