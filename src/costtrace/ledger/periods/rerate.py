"""Re-rating: new prices for old usage. Postings stay; an adjustment takes the old charge back and makes the new one.

New charges are computed as the agent's are, with remainders kept for each run, engine and rate. They are first written
into a temporary table, while the agent may write; only copying them takes the ledger's write lock.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from costtrace.core.errors import LedgerError, PriceBookError
from costtrace.core.wall_time import show_time
from costtrace.ledger.answers import Period
from costtrace.ledger.periods.close import closed_until, snapshot
from costtrace.ledger.reader import SqliteStore
from costtrace.ledger.store import Ledger
from costtrace.ledger.verify.sealed_rows import seals
from costtrace.pricing.price_book import PriceBook
from costtrace.pricing.rating import Rate, Rater

_COPIED = (
    "posting_id, window_ns, engine_id, kind, reason, record_id, tenant, model, gpu_ns, prefill_ns, decode_ns, "
    "wasted_ns, energy_uj, prefill_uj, decode_uj, wasted_uj, gap_ns, method"
)
_ROWS = 5_000


class Rerated(NamedTuple):
    """Sums over a re-rating."""

    run_id: int
    """0: nothing had another price, so nothing was written."""
    postings: int
    adjustments: int
    before: dict[str, int]
    """Nano-units by currency, of the postings that were adjusted and whose cost was known; `after` likewise."""
    after: dict[str, int]
    before_unknown_ns: int
    after_unknown_ns: int
    periods: tuple[str, ...]
    """Closed periods that were corrected: their adjustments are booked in the open one."""


def rerate(ledger: Ledger, book: PriceBook, period: Period, why: str, now_ns: int) -> Rerated:
    """Charge all postings whose window begins in *period* at the prices of *book*, in one transaction. *why*: kept.

    Raises: LedgerError (a part of the period is compacted; another command wrote meanwhile), PriceBookError (no price).
    """
    connection, store = ledger.connection, SqliteStore(ledger)
    with snapshot(connection):
        chain = seals(store)
        _require_detail(store, period)
        runs = connection.execute("SELECT max(run_id) FROM rerate").fetchone()[0] or 0
        run = _Run(connection, book, closed_until(chain), now_ns, runs + 1)
        run.stage(period, {seal.period: (seal.since_ns, seal.until_ns) for seal in chain})
    rerated = run.result()
    if not rerated.adjustments:
        return rerated._replace(run_id=0)
    with ledger.transaction():
        if seals(store) != chain or (connection.execute("SELECT max(run_id) FROM rerate").fetchone()[0] or 0) != runs:
            raise LedgerError(
                "a period was closed, or another re-rating ran, meanwhile. Nothing was adjusted: try again."
            )
        for rate in run.rates.values():
            ledger.put_rate(rate.row())
        sums = [json.dumps(amounts, sort_keys=True) for amounts in (rerated.before, rerated.after)]
        connection.execute(
            "INSERT INTO rerate VALUES (?,?,?,?,?,?,?,?)", (runs + 1, now_ns, book.name, *period, why, *sums)
        )
        connection.execute("INSERT INTO adjustment SELECT NULL, * FROM temp.adjusting ORDER BY rowid")
        connection.execute("DELETE FROM temp.adjusting")
    return rerated


def _require_detail(store: SqliteStore, period: Period) -> None:
    for seal in seals(store):
        if seal.kind == "compact" and seal.since_ns < period.until_ns and period.since_ns < seal.until_ns:
            raise LedgerError(
                f"{seal.period} is compacted to hours, so it cannot be re-rated posting by posting. Re-rate from "
                f"{show_time(seal.until_ns)} on, or from a backup that was made before it was compacted."
            )


class _Run:
    """Computes one re-rating."""

    def __init__(self, connection: sqlite3.Connection, book: PriceBook, open_ns: int, now_ns: int, run_id: int) -> None:
        self._connection = connection
        self._book = book
        self._open_ns = open_ns
        self._now_ns = max(now_ns, open_ns)
        self._run_id = run_id
        self._rater = Rater()
        self._book_rates: dict[tuple[str, str, int], Rate] = {}
        self._prices: dict[str, tuple[object, ...]] = {}
        self.rates: dict[str, Rate] = {}
        self._postings = self._adjustments = 0
        self._before: defaultdict[str, int] = defaultdict(int)
        self._after: defaultdict[str, int] = defaultdict(int)
        self._unknown_ns = [0, 0]
        self._periods: set[str] = set()

    def stage(self, period: Period, closed: dict[str, tuple[int, int]]) -> None:
        """Compute all adjustments of *period* into a temporary table. *closed*: bounds of closed periods by name."""
        connection = self._connection
        connection.execute("DROP TABLE IF EXISTS temp.adjusting")
        connection.execute("CREATE TEMP TABLE adjusting AS SELECT * FROM adjustment WHERE 0")
        connection.execute("ALTER TABLE temp.adjusting DROP COLUMN adjustment_id")
        columns = connection.execute("PRAGMA temp.table_info(adjusting)").fetchall()
        sql = f"INSERT INTO temp.adjusting VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - no names
        batch: list[tuple[object, ...]] = []
        for row in self._rows(period):
            if (adjusted := self._adjust(row, closed)) is not None:
                batch.append(adjusted)
            if len(batch) >= _ROWS:
                connection.executemany(sql, batch)
                batch.clear()
        connection.executemany(sql, batch)

    def result(self) -> Rerated:
        """Sums of what was staged."""
        return Rerated(
            self._run_id,
            self._postings,
            self._adjustments,
            dict(self._before),
            dict(self._after),
            self._unknown_ns[0],
            self._unknown_ns[1],
            tuple(sorted(self._periods)),
        )

    def _rows(self, period: Period) -> Iterator[tuple[Any, ...]]:
        """Stream postings with the charge that holds now: their newest adjustment's, else their own."""
        copied = ", ".join(f"p.{name.strip()}" for name in _COPIED.split(","))
        charge = "CASE WHEN a.adjustment_id IS NULL THEN p.{0} ELSE a.{0} END"
        charges = ", ".join(charge.format(name) for name in ("rate_id", "device_nano", "energy_nano"))
        sql = f"""
            SELECT {copied}, coalesce(u.operation, ''), {charges},
                coalesce(l.booked_ns, p.window_ns), e.device_name, e.device_kind
            FROM posting p LEFT JOIN engine e ON e.engine_id = p.engine_id
                LEFT JOIN usage u ON u.record_id = p.record_id AND p.record_id != ''
                LEFT JOIN late_posting l ON l.posting_id = p.posting_id
                LEFT JOIN adjustment a ON a.adjustment_id =
                    (SELECT max(adjustment_id) FROM adjustment WHERE posting_id = p.posting_id)
            WHERE p.window_ns >= ? AND p.window_ns < ? ORDER BY p.posting_id
        """  # noqa: S608 - constants
        cursor = self._connection.cursor()
        cursor.row_factory = None
        cursor.execute(sql, period)
        while chunk := cursor.fetchmany(_ROWS):
            yield from chunk

    def _adjust(self, row: tuple[Any, ...], closed: dict[str, tuple[int, int]]) -> tuple[object, ...] | None:
        *copied, from_rate_id, from_device, from_energy, booked_ns, name, kind = row
        _, window_ns, engine_id, *_ = copied
        gpu_ns, energy_uj = copied[8], copied[12]
        self._postings += 1
        rate = self._rate(name, kind, window_ns)
        if self._stored_price(from_rate_id) == _price_of(rate):
            return None
        charge = self._rater.charge(engine_id, rate, gpu_ns, energy_uj)
        self.rates[rate.rate_id] = rate
        self._adjustments += 1
        self._count(0, self._before, from_rate_id, from_device, from_energy, gpu_ns)
        self._count(1, self._after, rate.rate_id, charge.device_nano, charge.energy_nano, gpu_ns)
        corrects = ""
        if booked_ns < self._open_ns:
            corrects = next((name for name, (since, until) in closed.items() if since <= booked_ns < until), "")
            self._periods.add(corrects)
            booked_ns = self._now_ns
        return (self._run_id, booked_ns, corrects, *copied, from_rate_id, from_device, from_energy, *charge)

    def _rate(self, name: str, kind: str, window_ns: int) -> Rate:
        key = (name, kind, window_ns)
        if key not in self._book_rates:
            if len(self._book_rates) > 10_000:
                self._book_rates.clear()
            rate = self._book.rate_for(name, kind, window_ns)
            if rate is None:
                raise PriceBookError(f"nothing was adjusted: {self._book.missing(name, kind, window_ns)}")
            self._book_rates[key] = rate
            self._prices[rate.rate_id] = _price_of(rate)
        return self._book_rates[key]

    def _stored_price(self, rate_id: str) -> tuple[object, ...]:
        """Currency and fractions of a rate that the ledger has; ('',) where no price applied."""
        if rate_id not in self._prices:
            sql = """SELECT currency, device_numerator, device_denominator, energy_numerator, energy_denominator,
                includes_energy FROM rate WHERE rate_id = ?"""
            row = self._connection.execute(sql, (rate_id,)).fetchone()
            self._prices[rate_id] = tuple(row) if row else ("",)
        return self._prices[rate_id]

    def _count(
        self, place: int, sums: defaultdict[str, int], rate_id: str, device: int | None, energy: int | None, gpu_ns: int
    ) -> None:
        if device is None or energy is None:
            self._unknown_ns[place] += gpu_ns
            return
        sums[str(self._stored_price(rate_id)[0])] += device + energy


def _price_of(rate: Rate) -> tuple[object, ...]:
    """Currency and fractions of a rate: equal for the same price, whichever book it is from."""
    row = rate.row()
    return (row[2], *row[4:])
