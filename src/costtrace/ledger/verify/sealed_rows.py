"""What a seal covers: the rows of a closed period, table by table, and its totals. `costtrace verify` reads them again.

Columns are named one by one: a column that a later version adds must not change what was sealed before.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from costtrace.ledger.answers import Period
from costtrace.ledger.reader import Row, Store
from costtrace.ledger.schema.columns import columns_of
from costtrace.ledger.verify.seals import SealLine


class SealedTable(NamedTuple):
    """One table of a closed period."""

    source: str
    """Table and condition; ``:since`` and ``:until`` are the period."""
    columns: str
    number: str
    """The column that numbers its rows; '': they are counted from 1."""
    order: str


def _inside(column: str, late: str, row_id: str) -> str:
    late_ids = f"SELECT {row_id} FROM {late}"  # noqa: S608 - our names
    on_time = f"{column} >= :since AND {column} < :until AND {row_id} NOT IN ({late_ids})"
    return f"(({on_time}) OR {row_id} IN ({late_ids} WHERE booked_ns >= :since AND booked_ns < :until))"


_QUANTITIES = "gpu_ns, prefill_ns, decode_ns, wasted_ns, energy_uj, prefill_uj, decode_uj, wasted_uj, gap_ns, method"
POSTINGS = f"posting WHERE {_inside('window_ns', 'late_posting', 'posting_id')}"
USAGE = f"usage WHERE {_inside('ended_ns', 'late_usage', 'usage_id')}"
_METER = """meter m WHERE EXISTS (SELECT 1 FROM late_meter l WHERE l.engine_id = m.engine_id AND l.device = m.device
    AND l.start_ns = m.start_ns AND l.booked_ns >= :since AND l.booked_ns < :until) OR (window_ns >= :since
    AND window_ns < :until AND NOT EXISTS (SELECT 1 FROM late_meter l WHERE l.engine_id = m.engine_id
    AND l.device = m.device AND l.start_ns = m.start_ns))"""
_ADJUSTMENTS = "adjustment WHERE booked_ns >= :since AND booked_ns < :until"
_ROLLUPS = "rollup WHERE window_ns >= :since AND window_ns < :until"
_USAGE_ROLLUPS = "usage_rollup WHERE ended_ns >= :since AND ended_ns < :until"
_RATES = f"""rate WHERE rate_id IN (SELECT rate_id FROM {POSTINGS} UNION SELECT rate_id FROM {_ROLLUPS}
    UNION SELECT rate_id FROM {_ADJUSTMENTS} UNION SELECT from_rate_id FROM {_ADJUSTMENTS})"""  # noqa: S608 - constants

SEALED_TABLES = {
    "posting": SealedTable(
        POSTINGS,
        f"posting_id, window_ns, engine_id, kind, reason, record_id, tenant, model, {_QUANTITIES}, rate_id, "
        "device_nano, energy_nano",
        "posting_id",
        "posting_id",
    ),
    "usage": SealedTable(
        USAGE,
        "usage_id, record_id, request_key, request_id, engine_id, part, attempt, role, tenant, tenant_source, "
        '"user", labels, model, operation, arrived_ns, scheduled_ns, ended_ns, gpu_ns, prefill_ns, decode_ns, '
        "wasted_ns, energy_uj, gap_ns, energy_source, input_tokens, cached_tokens, output_tokens, computed_tokens, "
        "sequences, steps, finish_reasons, method, simulated, cost_nano, prefill_nano, decode_nano, currency, "
        "price_book",
        "usage_id",
        "usage_id",
    ),
    "meter": SealedTable(
        _METER,
        "engine_id, device, start_ns, end_ns, window_ns, request_ns, idle_ns, overhead_ns, unobserved_ns, shared, "
        "energy_uj, gap_ns, energy_source, energy_scope",
        "",
        "engine_id, device, start_ns",
    ),
    "adjustment": SealedTable(
        _ADJUSTMENTS,
        "adjustment_id, run_id, booked_ns, period, posting_id, window_ns, engine_id, kind, reason, record_id, tenant, "
        f"model, {_QUANTITIES}, operation, from_rate_id, from_device_nano, from_energy_nano, rate_id, device_nano, "
        "energy_nano",
        "adjustment_id",
        "adjustment_id",
    ),
    "rerate": SealedTable(
        f"rerate WHERE run_id IN (SELECT run_id FROM {_ADJUSTMENTS})",  # noqa: S608 - constants
        "run_id, at_ns, price_book, since_ns, until_ns, why, before, after",
        "run_id",
        "run_id",
    ),
    "rate": SealedTable(
        _RATES,
        "rate_id, price_book, currency, device_entry, device_numerator, device_denominator, energy_numerator, "
        "energy_denominator, includes_energy",
        "",
        "rate_id",
    ),
    "rollup": SealedTable(
        _ROLLUPS,
        f"rollup_id, window_ns, engine_id, kind, reason, tenant, model, operation, {_QUANTITIES}, rate_id, "
        "device_nano, energy_nano, postings, last_posting",
        "rollup_id",
        "rollup_id",
    ),
    "usage_rollup": SealedTable(
        _USAGE_ROLLUPS,
        "rollup_id, ended_ns, engine_id, tenant, tenant_source, model, operation, role, method, finish_reasons, "
        "currency, price_book, requests, parts, input_tokens, cached_tokens, output_tokens, computed_tokens, "
        "preemptions",
        "rollup_id",
        "rollup_id",
    ),
}


def rows_of(store: Store, table: str, period: Period) -> Iterator[tuple[int, Row]]:
    """Stream number and columns of every row of *table* in *period*, in the order of sealing."""
    sealed = SEALED_TABLES[table]
    number = sealed.number or "0"
    sql = f"SELECT {number}, {sealed.columns} FROM {sealed.source} ORDER BY {sealed.order}"  # noqa: S608 - constants
    for place, row in enumerate(store.rows(sql, _bounds(period)), 1):
        yield (row[0] if sealed.number else place), row[1:]


def count_of(store: Store, table: str, period: Period) -> int:
    """Count the rows that *table* has in *period* now."""
    (row,) = store.rows(f"SELECT count(*) FROM {SEALED_TABLES[table].source}", _bounds(period))  # noqa: S608 - constants
    return int(row[0])


def totals_of(store: Store, period: Period) -> dict[str, Any]:
    """All sums of a period: ns, uJ, nano-units and tokens, exact. Compaction to hours does not change them."""
    bounds = _bounds(period)
    totals: dict[str, Any] = {}
    columns = "kind, rate_id, gpu_ns, wasted_ns, energy_uj, gap_ns, device_nano, energy_nano"
    posted = f"(SELECT {columns} FROM {POSTINGS} UNION ALL SELECT {columns} FROM {_ROLLUPS})"  # noqa: S608 - constants
    sql = f"""
        SELECT kind, sum(gpu_ns), sum(wasted_ns), sum(energy_uj), sum(gap_ns) FROM {posted} GROUP BY kind ORDER BY kind
    """  # noqa: S608 - constants
    totals["posted: gpu_ns, wasted_ns, energy_uj, gap_ns"] = {row[0]: list(row[1:]) for row in store.rows(sql, bounds)}
    sql = f"""
        SELECT rate_id, sum(gpu_ns), sum(device_nano), sum(energy_nano),
            sum(CASE WHEN device_nano IS NULL OR energy_nano IS NULL THEN gpu_ns ELSE 0 END)
        FROM {posted} GROUP BY rate_id ORDER BY rate_id
    """  # noqa: S608 - constants
    totals["charged: gpu_ns, device_nano, energy_nano, unknown_ns"] = {
        row[0]: list(row[1:]) for row in store.rows(sql, bounds)
    }
    sql = f"""
        SELECT sum(end_ns - start_ns), sum(request_ns), sum(idle_ns), sum(overhead_ns), sum(unobserved_ns),
            sum(energy_uj), sum(gap_ns) FROM {_METER}
    """  # noqa: S608 - constants
    totals["metered"] = list(next(store.rows(sql, bounds)))
    sql = f"""
        SELECT sum(requests), sum(parts), sum(i), sum(c), sum(o), sum(k) FROM (
            SELECT CASE WHEN part = 1 AND attempt = 1 THEN 1 ELSE 0 END AS requests, 1 AS parts, input_tokens AS i,
                cached_tokens AS c, output_tokens AS o, computed_tokens AS k FROM {USAGE}
            UNION ALL SELECT requests, parts, input_tokens, cached_tokens, output_tokens, computed_tokens
                FROM {_USAGE_ROLLUPS} AND parts > 0)
    """  # noqa: S608 - constants
    totals["ended: requests, parts, tokens"] = list(next(store.rows(sql, bounds)))
    sql = f"""
        SELECT from_rate_id || ' to ' || rate_id, count(*), sum(from_device_nano), sum(from_energy_nano),
            sum(device_nano), sum(energy_nano) FROM {_ADJUSTMENTS} GROUP BY 1 ORDER BY 1
    """  # noqa: S608 - constants
    totals["adjusted"] = {row[0]: list(row[1:]) for row in store.rows(sql, bounds)}
    return totals


def seals(store: Store) -> list[SealLine]:
    """The chain of closed periods, oldest seal first."""
    sql = f"SELECT {columns_of(SealLine._fields)} FROM seal ORDER BY seal_id"  # noqa: S608 - constants
    return [SealLine(*row) for row in store.rows(sql)]


def current_seals(chain: list[SealLine]) -> list[SealLine]:
    """Of each closed period the seal that covers its rows of today: its compaction's, else its closing's."""
    newest = {seal.period: seal for seal in chain}
    return [newest[seal.period] for seal in chain if seal.kind == "close"]


def blocks_of(store: Store, seal: SealLine, table: str) -> list[bytes]:
    """The packed digests that *seal* has of *table*'s rows."""
    sql = "SELECT digests FROM seal_block WHERE seal_id = :seal AND part = :part ORDER BY block"
    return [row[0] for row in store.rows(sql, {"seal": seal.seal_id, "part": table})]


def _bounds(period: Period) -> dict[str, int | str]:
    return {"since": period.since_ns, "until": period.until_ns}
