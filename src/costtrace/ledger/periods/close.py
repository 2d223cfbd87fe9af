"""Closing a period: its rows are sealed in one transaction, and from then on only adjustments can change the bill.

The agent may write while rows are read and hashed. Only writing the seal takes the ledger's write lock, for a moment.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import tzinfo
from itertools import islice

from costtrace.core.errors import LedgerError
from costtrace.core.units import NS_PER_HOUR
from costtrace.core.wall_time import named_period, show_time
from costtrace.ledger.answers import Period
from costtrace.ledger.reader import SqliteStore
from costtrace.ledger.store import Ledger
from costtrace.ledger.verify.audit import Audit
from costtrace.ledger.verify.sealed_rows import SEALED_TABLES, count_of, rows_of, seals, totals_of
from costtrace.ledger.verify.seals import BLOCK_ROWS, SealLine, pack, row_digest, seal_hash, table_digest


def parse_period(name: str, zone: tzinfo) -> Period:
    """Read a year, month or day of *zone* (``2026``, ``2026-11``, ``2026-11-23``). Raises: LedgerError."""
    try:
        period = Period(*named_period(name if "Q" not in name else "", zone))
    except (ValueError, OverflowError):
        raise LedgerError(
            f"{name!r} is no period: write a month (2026-11), a day (2026-11-23) or a year (2026)"
        ) from None
    if any(bound % NS_PER_HOUR for bound in period):
        raise LedgerError(f"a day of {zone} does not begin with a whole hour of UTC: close periods with --tz UTC")
    return period


def close_period(ledger: Ledger, name: str, period: Period, now_ns: int, *, open_engines: bool = False) -> SealLine:
    """Seal *period* in one transaction.

    *open_engines*: close although rows may still come from an engine; they will be booked in the period open then.
    Raises: LedgerError (not over, already closed, not settled, not in balance).
    """
    store = SqliteStore(ledger)
    with snapshot(ledger.connection):
        chain = seals(store)
        _require_closable(store, chain, name, period, now_ns, open_engines=open_engines)
        _require_balance(store)
        stage(ledger.connection, store, period)
        totals = totals_of(store, period)
    with ledger.transaction():
        if seals(store) != chain or totals_of(store, period) != totals:
            raise LedgerError(f"rows of {name} were written while it was being closed. Nothing was closed: try again.")
        return append_seal(ledger.connection, "close", name, period, now_ns, totals)


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Make all reads of the block see one moment; the agent may write meanwhile."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


def stage(connection: sqlite3.Connection, store: SqliteStore, period: Period) -> None:
    """Write digests of all rows of *period* into a temporary table."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS staged (part TEXT, block INTEGER, digests BLOB, size INTEGER)")
    connection.execute("DELETE FROM temp.staged")
    for table in SEALED_TABLES:
        rows = ((number, row_digest(row)) for number, row in rows_of(store, table, period))
        block = 0
        while entries := list(islice(rows, BLOCK_ROWS)):
            connection.execute("INSERT INTO temp.staged VALUES (?,?,?,?)", (table, block, pack(entries), len(entries)))
            block += 1


def append_seal(
    connection: sqlite3.Connection, kind: str, name: str, period: Period, at_ns: int, totals: dict[str, object]
) -> SealLine:
    """Append a seal over the staged digests and *totals* to the chain, within the caller's transaction."""
    last = connection.execute("SELECT hash FROM seal ORDER BY seal_id DESC LIMIT 1").fetchone()
    seal_id = connection.execute("SELECT coalesce(max(seal_id), 0) + 1 FROM seal").fetchone()[0]
    parts = {}
    for table in SEALED_TABLES:
        sql = "SELECT digests, size FROM temp.staged WHERE part = ? ORDER BY block"
        blocks, rows = [], 0
        for digests, size in connection.execute(sql, (table,)):
            blocks.append(digests)
            rows += size
        parts[table] = {"rows": rows, "digest": table_digest(blocks)}
    content = json.dumps({"parts": parts, "totals": totals}, sort_keys=True)
    seal = SealLine(seal_id, kind, name, *period, at_ns, content, last[0] if last else "", "")
    seal = seal._replace(hash=seal_hash(seal))
    connection.execute("INSERT INTO seal VALUES (?,?,?,?,?,?,?,?,?)", seal)
    connection.execute("INSERT INTO seal_block SELECT ?, part, block, digests FROM temp.staged", (seal_id,))
    connection.execute("DELETE FROM temp.staged")
    return seal


def closed_until(chain: list[SealLine]) -> int:
    """The wall time (ns) at which the open period begins; 0 where nothing is closed."""
    return max((seal.until_ns for seal in chain), default=0)


def _require_closable(
    store: SqliteStore, chain: list[SealLine], name: str, period: Period, now_ns: int, *, open_engines: bool
) -> None:
    if any(seal.period == name for seal in chain):
        raise LedgerError(f"{name} is closed already. `costtrace rerate` adjusts what is closed, with a reason.")
    if now_ns < period.until_ns:
        raise LedgerError(f"{name} is not over: it ends {show_time(period.until_ns)}")
    until_ns = closed_until(chain)
    if period.since_ns < until_ns:
        raise LedgerError(f"{name} begins in a period that is closed already (up to {show_time(until_ns)})")
    sql = """SELECT min(least) FROM (SELECT min(window_ns) AS least FROM line WHERE window_ns >= :from
        UNION ALL SELECT min(ended_ns) FROM usage_line WHERE ended_ns >= :from)"""
    least = next(store.rows(sql, {"from": until_ns}))[0]
    if least is not None and least < period.since_ns:
        raise LedgerError(f"there are rows from {show_time(least)}: close the periods before {name} first, in order")
    if not any(count_of(store, table, period) for table in ("posting", "usage", "meter", "adjustment")):
        raise LedgerError(f"there is nothing in {name}: {show_time(period.since_ns)} to {show_time(period.until_ns)}")
    if not open_engines:
        _require_settled(store, name, period)


def _require_settled(store: SqliteStore, name: str, period: Period) -> None:
    sql = """
        SELECT e.engine_id, max(m.window_ns) FROM engine e
            LEFT JOIN meter m ON m.engine_id = e.engine_id LEFT JOIN position p ON p.engine_id = e.engine_id
        WHERE e.started_wall_ns < :until AND (e.ended_ns = 0 OR coalesce(p.done, 0) = 0)
        GROUP BY e.engine_id HAVING coalesce(max(m.window_ns), 0) < :until ORDER BY e.engine_id
    """
    late = [row[0] for row in store.rows(sql, {"until": period.until_ns})]
    if late:
        raise LedgerError(
            f"{name} is not settled: the agent has not booked {', '.join(late[:5])} up to its end. Let the agent run "
            "until it has (`costtrace doctor`), or close with --open-engines: what comes later is booked in the period "
            "that is open then."
        )


def _require_balance(store: SqliteStore) -> None:
    first = next(Audit(store).discrepancies(), None)
    if first is not None:
        raise LedgerError(
            f"the ledger is not in balance, so nothing was closed: {first.row}: {first.field}: {first.meaning}. "
            "`costtrace verify` names every row."
        )
