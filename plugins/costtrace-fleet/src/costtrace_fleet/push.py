"""Sends a node's ledger to the fleet store: rows arrive at least once, and the store keeps each once.

A push reads the ledger at one moment and sends the rows behind its cursor. The cursor is a file beside the ledger. It
moves after each batch has arrived, so a push that dies sends a batch again, and the store keeps one copy. Without the
file all is sent again, with the same result.

When it is wrong: a ledger that was deleted and built again from the same journals gives its postings other numbers, so
they count twice. Drop the engines of that node from the store first.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from costtrace.core.errors import LedgerError
from costtrace.ledger.reader import Row, Store
from costtrace_fleet.store import ClickHouseStore
from costtrace_fleet.tables import (
    ADJUSTMENT,
    AFTER,
    COMPACTED,
    ENGINE,
    LATE_POSTING,
    LATE_USAGE,
    METER,
    POSITION,
    POSTING,
    RATE,
    RERATE,
    ROLLUP,
    USAGE,
    USAGE_ROLLUP,
    Table,
    run_number,
)

BATCH = 50_000


class Pushed(NamedTuple):
    """How many rows were sent."""

    postings: int
    usage_records: int
    meter_rows: int


class Cursor:
    """What the store has of one ledger: last number of each numbered table, last monotonic start of meter rows.

    Raises: LedgerError (the file is damaged).
    """

    def __init__(self, home: Path, address: str) -> None:
        name = hashlib.sha256(address.encode()).hexdigest()[:12]
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
        """The last number of *stream* that was sent; -1: none."""
        return self._seen.get(stream, -1)

    def move(self, stream: str, to: int) -> None:
        """Keep that *stream* has arrived up to the number *to*."""
        self._seen[stream] = to
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".fleet-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(self._seen, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except BaseException:  # Ctrl-C too: no half-written file stays
            Path(temporary).unlink(missing_ok=True)
            raise


def push(ledger: Store, store: ClickHouseStore, cursor: Cursor, *, batch: int = BATCH) -> Pushed:
    """Send what is new, *batch* rows at a time. Raises: LedgerError; what has arrived by then stays."""
    return _Push(ledger, store, cursor, batch).run()


class _Push:
    """One push. Rows are sent before the rows that make them visible (`views`)."""

    def __init__(self, ledger: Store, store: ClickHouseStore, cursor: Cursor, batch: int) -> None:
        self._ledger, self._store, self._cursor, self._batch = ledger, store, cursor, batch
        # The store keeps a row's copy with the highest version, so versions rise even if the clock was set back.
        self._version = max(time.time_ns(), cursor.get("version") + 1)
        sql = "SELECT seal_id, since_ns, until_ns FROM seal WHERE kind = 'compact' ORDER BY seal_id"
        self._compacted: list[tuple[int, int, int]] = [(row[0], row[1], row[2]) for row in ledger.rows(sql)]

    def run(self) -> Pushed:
        """Send all tables; what others refer to goes first."""
        self._cursor.move("version", self._version)
        for table in (ENGINE, RATE, POSITION):
            self._store.insert(table, list(self._rows(table, table.name)), self._version)
        meter_rows = self._send_meter()
        postings = self._send_numbered(POSTING, "posting_id", _ON_TIME_POSTING)
        records = self._send_numbered(USAGE, "usage_id", _ON_TIME_USAGE)
        postings += self._send_numbered(LATE_POSTING, "posting_id", _LATE_POSTING)
        records += self._send_numbered(LATE_USAGE, "usage_id", _LATE_USAGE)
        self._send_reratings()
        self._send_compactions()
        return Pushed(postings, records, meter_rows)

    def _rows(self, table: Table, source: str, parameters: Mapping[str, int | str] | None = None) -> Iterator[Row]:
        columns = ", ".join(f'"{name}"' for name in table.columns)
        return self._ledger.rows(f"SELECT {columns} FROM {source}", parameters)  # noqa: S608 - constants

    def _send_numbered(self, table: Table, number: str, source: str = "") -> int:
        """Send rows whose column *number* is above the cursor's."""
        where = f"{source or table.name} WHERE {number} > :seen ORDER BY {number}"
        rows = self._rows(table, where, {"seen": self._cursor.get(table.name)})
        return self._send(table, rows, self._mover(table.name, table, number))

    def _send_meter(self) -> int:
        sent = 0
        engines = [row[0] for row in self._ledger.rows("SELECT engine_id FROM engine ORDER BY engine_id")]
        where = "meter WHERE engine_id = :engine AND start_ns > :seen ORDER BY start_ns, device"
        for engine_id in engines:
            stream = f"meter/{engine_id}"
            rows = self._rows(METER, where, {"engine": engine_id, "seen": self._cursor.get(stream)})
            sent += self._send(METER, rows, self._mover(stream, METER, "start_ns"), tie=True)
        return sent

    def _send_reratings(self) -> None:
        """Send adjustments, then their re-ratings, which make them visible."""
        seen = self._cursor.get(RERATE.name)
        sql = """
            SELECT r.run_id, a.engine_id FROM rerate r JOIN adjustment a ON a.adjustment_id =
                (SELECT min(adjustment_id) FROM adjustment WHERE run_id = r.run_id)
            WHERE r.run_id > :seen ORDER BY r.run_id
        """
        numbers = {row[0]: run_number(row[1], row[0]) for row in self._ledger.rows(sql, {"seen": seen})}
        if not numbers:
            return
        for table, order in ((ADJUSTMENT, "adjustment_id"), (RERATE, "run_id")):
            place = list(table.columns).index("run_id")
            rows = self._rows(table, f"{table.name} WHERE run_id > :seen ORDER BY {order}", {"seen": seen})
            self._send(table, ((*row[:place], numbers[row[place]], *row[place + 1 :]) for row in rows))
        self._cursor.move(RERATE.name, max(numbers))

    def _send_compactions(self) -> None:
        """Send roll-ups, the rows that were not compacted, and last that their period is compacted."""
        self._send_numbered(ROLLUP, "rollup_id")
        self._send_numbered(USAGE_ROLLUP, "rollup_id")
        for seal_id, since_ns, until_ns in self._compacted:
            if seal_id <= self._cursor.get(COMPACTED.name):
                continue
            period: dict[str, int | str] = {"since": since_ns, "until": until_ns}
            for table, source in ((METER, ""), (POSTING, _ON_TIME_POSTING), (USAGE, _ON_TIME_USAGE)):
                where = f"{source or table.name} WHERE {table.time} >= :since AND {table.time} < :until"
                self._send(table, self._rows(table, where, period))
            rows = [(row[0], since_ns, until_ns) for row in self._ledger.rows(_ENGINES, period)]
            self._store.insert(COMPACTED, rows, self._version)
            self._cursor.move(COMPACTED.name, seal_id)

    def _mover(self, stream: str, table: Table, column: str) -> Callable[[Row], None]:
        place = list(table.columns).index(column)
        return lambda row: self._cursor.move(stream, row[place])

    def _send(
        self, table: Table, rows: Iterator[Row], arrived: Callable[[Row], None] | None = None, *, tie: bool = False
    ) -> int:
        """Send in batches; *arrived* moves the cursor. *tie*: rows share cursor values, so it moves at the end only."""
        sent, last = 0, None
        while chunk := list(islice(rows, self._batch)):
            self._insert(table, chunk)
            sent, last = sent + len(chunk), chunk[-1]
            if arrived and not tie:
                arrived(last)
        if arrived and tie and last is not None:
            arrived(last)
        return sent

    def _insert(self, table: Table, rows: list[Row]) -> None:
        """Insert rows; those of a compacted period with a version by which they stay visible beside its roll-ups."""
        if table.hours != "gone" or not self._compacted:
            self._store.insert(table, rows, self._version)
            return
        place = list(table.columns).index(table.time)
        compacted = [any(since <= row[place] < until for _, since, until in self._compacted) for row in rows]
        for after in (False, True):
            chosen = [row for row, flag in zip(rows, compacted, strict=True) if flag is after]
            self._store.insert(table, chosen, self._version + AFTER * after)


_ON_TIME_POSTING = "(SELECT * FROM posting WHERE posting_id NOT IN (SELECT posting_id FROM late_posting))"
_ON_TIME_USAGE = "(SELECT * FROM usage WHERE usage_id NOT IN (SELECT usage_id FROM late_usage))"
_LATE_POSTING = "(SELECT l.booked_ns, p.* FROM late_posting l JOIN posting p ON p.posting_id = l.posting_id)"
_LATE_USAGE = "(SELECT l.booked_ns, u.* FROM late_usage l JOIN usage u ON u.usage_id = l.usage_id)"
_ENGINES = """
    SELECT engine_id FROM rollup WHERE window_ns >= :since AND window_ns < :until
    UNION SELECT engine_id FROM usage_rollup WHERE ended_ns >= :since AND ended_ns < :until
    UNION SELECT engine_id FROM meter WHERE window_ns >= :since AND window_ns < :until
"""
