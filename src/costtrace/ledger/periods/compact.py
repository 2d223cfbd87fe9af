"""Compaction of closed periods: postings, usage records and meter rows become sums by the hour. Every total stays.

Not compacted: adjustments, rates, rows that came late, requests that cross the period's ends (a record and its postings
are compacted together or not at all), and requests whose parts are corrected when they are read (`count_once`), which
roll-ups cannot be. All in one transaction; the agent waits for it.
"""

from costtrace.core.errors import LedgerError
from costtrace.ledger.answers import Period
from costtrace.ledger.count_once import CORRECTED_KEYS
from costtrace.ledger.periods.close import append_seal, closed_until, stage
from costtrace.ledger.reader import SqliteStore
from costtrace.ledger.schema.closing import HOUR, TOKENS
from costtrace.ledger.store import Ledger
from costtrace.ledger.verify.sealed_rows import current_seals, seals, totals_of
from costtrace.ledger.verify.seals import SealLine

_ON_TIME = "window_ns >= :since AND window_ns < :until AND posting_id NOT IN (SELECT posting_id FROM late_posting)"
_SUMS = (
    "sum(gpu_ns), sum(prefill_ns), sum(decode_ns), sum(wasted_ns), sum(energy_uj), sum(prefill_uj), sum(decode_uj), "
    "sum(wasted_uj), sum(gap_ns)"
)
_CHOOSE_RECORDS = f"""
    INSERT INTO temp.compacting SELECT u.usage_id, u.record_id, u.operation FROM usage u
    WHERE u.ended_ns >= :since AND u.ended_ns < :until AND u.usage_id NOT IN (SELECT usage_id FROM late_usage)
        AND NOT EXISTS (SELECT 1 FROM posting p WHERE p.record_id = u.record_id AND p.record_id != ''
            AND NOT ({_ON_TIME}))
        AND u.request_key NOT IN ({CORRECTED_KEYS})
"""  # noqa: S608 - constants
_SUM_POSTINGS = f"""
    INSERT INTO rollup SELECT NULL, p.window_ns - p.window_ns % {HOUR}, p.engine_id, p.kind, p.reason, p.tenant,
        p.model, coalesce(c.operation, ''), {_SUMS}, p.method, p.rate_id, sum(p.device_nano), sum(p.energy_nano),
        count(*), max(p.posting_id)
    FROM posting p LEFT JOIN temp.compacting c ON c.record_id = p.record_id
    WHERE {_ON_TIME} AND (p.record_id = '' OR c.record_id IS NOT NULL)
    GROUP BY 2, 3, 4, 5, 6, 7, 8, p.method, p.rate_id, p.energy_uj IS NULL, p.prefill_uj IS NULL, p.wasted_uj IS NULL,
        p.device_nano IS NULL, p.energy_nano IS NULL
    ORDER BY 2, 3, 4, 5, 6, 7, 8
"""  # noqa: S608 - constants
_SUM_USAGE = f"""
    INSERT INTO usage_rollup SELECT NULL, ended_ns - ended_ns % {HOUR}, engine_id, tenant, tenant_source, model,
        operation, role, method, finish_reasons, currency, price_book, {{sums}}
    FROM usage WHERE usage_id IN (SELECT usage_id FROM temp.compacting) {{only}}
    GROUP BY 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 ORDER BY 2, 3, 4, 5, 6, 7
"""  # noqa: S608 - constants
_SUM_FACTS = _SUM_USAGE.format(
    sums="sum(CASE WHEN part = 1 AND attempt = 1 THEN 1 ELSE 0 END), count(*), sum(input_tokens), sum(cached_tokens), "
    "sum(output_tokens), sum(computed_tokens), sum(preemptions)",
    only="",
)
# Beside them, what of these tokens is counted with other parts, as negative sums of no part.
_SUM_COUNTED_ELSEWHERE = _SUM_USAGE.format(
    sums="0, 0, " + ", ".join(f"sum(coalesce(counted_{name} - {name}_tokens, 0))" for name in TOKENS) + ", 0, 0",
    only=f"AND coalesce({', '.join(f'counted_{name}' for name in TOKENS)}) IS NOT NULL",
)
_SUM_METER = f"""
    INSERT INTO temp.hours
    SELECT engine_id, device, min(start_ns), max(end_ns), window_ns - window_ns % {HOUR} AS hour_ns, sum(request_ns),
        sum(idle_ns), sum(overhead_ns), sum(unobserved_ns), max(shared), sum(energy_uj), sum(gap_ns),
        max(CASE WHEN energy_source = 'none' THEN '' ELSE energy_source END), max(energy_scope)
    FROM meter m WHERE window_ns >= :since AND window_ns < :until
    GROUP BY engine_id, device, hour_ns
    HAVING count(*) > 1 AND sum(end_ns - start_ns) = max(end_ns) - min(start_ns)
        AND count(DISTINCT nullif(energy_source, 'none')) <= 1 AND count(DISTINCT energy_scope) = 1
        AND NOT EXISTS (SELECT 1 FROM late_meter l WHERE l.engine_id = m.engine_id AND l.device = m.device)
"""  # noqa: S608 - constants


def compactable(chain: list[SealLine], before_ns: int) -> list[SealLine]:
    """Closed periods that ended before *before_ns* (wall) and are not compacted yet, oldest first."""
    return [seal for seal in current_seals(chain) if seal.kind == "close" and seal.until_ns <= before_ns]


def compact_period(ledger: Ledger, seal: SealLine, now_ns: int) -> SealLine:
    """Sum the rows of the closed period of *seal* by the hour, in one transaction.

    Raises: LedgerError (compacted already, its spans are not sent yet, an adjustment of it is not closed yet).
    """
    connection, store = ledger.connection, SqliteStore(ledger)
    period = Period(seal.since_ns, seal.until_ns)
    bounds = {"since": period.since_ns, "until": period.until_ns}
    for table, columns in _TEMPORARY.items():
        connection.execute(f"DROP TABLE IF EXISTS temp.{table}")
        connection.execute(f"CREATE TEMP TABLE {table} ({columns})")
    connection.execute("CREATE INDEX temp.compacting_by_record ON compacting (record_id)")
    with ledger.transaction():
        chain = seals(store)
        if seal not in chain or any(other.kind == "compact" and other.period == seal.period for other in chain):
            raise LedgerError(f"{seal.period} is compacted already")
        _require_compactable(store, chain, seal)
        connection.execute(_CHOOSE_RECORDS, bounds)
        connection.execute(_SUM_POSTINGS, bounds)
        connection.execute(_SUM_FACTS)
        connection.execute(_SUM_COUNTED_ELSEWHERE)
        connection.execute(_SUM_METER, bounds)
        numbers = [(ledger.last_number(table), table) for table in ("posting", "usage")]
        connection.executemany("UPDATE last_number SET number = ? WHERE name = ?", numbers)
        summed = "(record_id = '' OR record_id IN (SELECT record_id FROM temp.compacting))"
        connection.execute(f"DELETE FROM posting WHERE {_ON_TIME} AND {summed}", bounds)  # noqa: S608 - constants
        connection.execute("DELETE FROM usage WHERE usage_id IN (SELECT usage_id FROM temp.compacting)")
        _replace_meter(ledger)
        for table in ("compacting", "hours"):
            connection.execute(f"DELETE FROM temp.{table}")  # noqa: S608 - constants
        stage(connection, store, period)
        connection.execute("DELETE FROM seal_block WHERE seal_id = ?", (seal.seal_id,))
        return append_seal(connection, "compact", seal.period, period, now_ns, totals_of(store, period))


_TEMPORARY = {
    "compacting": "usage_id INTEGER PRIMARY KEY, record_id TEXT, operation TEXT",
    "hours": "engine_id, device, start_ns, end_ns, window_ns, request_ns, idle_ns, overhead_ns, unobserved_ns, shared, "
    "energy_uj, gap_ns, energy_source, energy_scope",
}


def _replace_meter(ledger: Ledger) -> None:
    """Replace rows of an hour that follow each other by one. The insert trigger marks it as late: undo that."""
    connection = ledger.connection
    connection.execute("""
        DELETE FROM meter WHERE EXISTS (SELECT 1 FROM temp.hours h WHERE h.engine_id = meter.engine_id
            AND h.device = meter.device AND meter.start_ns >= h.start_ns AND meter.end_ns <= h.end_ns)
    """)
    connection.execute("""
        INSERT INTO meter (engine_id, device, start_ns, end_ns, window_ns, request_ns, idle_ns, overhead_ns,
            unobserved_ns, shared, energy_uj, gap_ns, energy_source, energy_scope)
        SELECT engine_id, device, start_ns, end_ns, window_ns, request_ns, idle_ns, overhead_ns, unobserved_ns, shared,
            energy_uj, gap_ns, CASE energy_source WHEN '' THEN 'none' ELSE energy_source END, energy_scope
        FROM temp.hours
    """)
    connection.execute("""
        DELETE FROM late_meter WHERE EXISTS (SELECT 1 FROM temp.hours h WHERE h.engine_id = late_meter.engine_id
            AND h.device = late_meter.device AND h.start_ns = late_meter.start_ns)
    """)


def _require_compactable(store: SqliteStore, chain: list[SealLine], seal: SealLine) -> None:
    bounds = {"since": seal.since_ns, "until": seal.until_ns}
    sql = "SELECT count(*) FROM adjustment WHERE window_ns >= :since AND window_ns < :until AND booked_ns >= :open"
    if next(store.rows(sql, {**bounds, "open": closed_until(chain)}))[0]:
        raise LedgerError(
            f"{seal.period} has adjustments in the open period: close that period first, so that they are sealed"
        )
    sql = """
        SELECT c.consumer, c.usage_id FROM cursor c WHERE c.usage_id <
            (SELECT max(usage_id) FROM usage WHERE ended_ns >= :since AND ended_ns < :until)
    """
    consumers = sorted({row[0].partition("#")[0] for row in store.rows(sql, bounds)})  # held records have their own
    if consumers:
        raise LedgerError(
            f"{', '.join(consumers)} has not been sent all records of {seal.period} yet: let the agent send them first"
        )
