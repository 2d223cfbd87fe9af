"""Reading closed periods, roll-ups and adjustments for the trial balance."""

import json
from collections.abc import Iterator

from costtrace.ledger.answers import Period
from costtrace.ledger.reader import Store
from costtrace.ledger.schema.columns import columns_of
from costtrace.ledger.verify.adjustments import AdjustmentLine, RunLine
from costtrace.ledger.verify.lines import Discrepancy, RollupLine
from costtrace.ledger.verify.sealed_rows import SEALED_TABLES, blocks_of, current_seals, rows_of, seals, totals_of
from costtrace.ledger.verify.seals import check_chain, check_table, check_totals

_COPIED = (
    "window_ns", "engine_id", "kind", "reason", "record_id", "tenant", "model", "gpu_ns", "prefill_ns", "decode_ns",
    "wasted_ns", "energy_uj", "prefill_uj", "decode_uj", "wasted_uj", "gap_ns", "method",
)  # fmt: skip


def check_seals(store: Store) -> Iterator[Discrepancy]:
    """Check the chain, and every row and total of every closed period."""
    chain = seals(store)
    yield from check_chain(chain)
    for seal in current_seals(chain):
        period = Period(seal.since_ns, seal.until_ns)
        yield from check_totals(seal, json.loads(json.dumps(totals_of(store, period))))
        for table in SEALED_TABLES:
            yield from check_table(seal, table, blocks_of(store, seal, table), rows_of(store, table, period))


def hours_until(store: Store) -> int:
    """The wall time (ns) up to which windows may have been compacted to hours; 0 where nothing was."""
    return int(next(store.rows("SELECT coalesce(max(until_ns), 0) FROM compacted"))[0])


def rollups(store: Store) -> Iterator[RollupLine]:
    """Stream all roll-ups, in their order."""
    sql = f"SELECT {columns_of(RollupLine._fields)} FROM rollup ORDER BY rollup_id"  # noqa: S608 - constants
    return map(RollupLine._make, store.rows(sql))


def adjustments(store: Store, hours: int) -> Iterator[AdjustmentLine]:
    """Stream all adjustments beside their postings. Before *hours* (wall ns) a posting may have been compacted."""
    same = " AND ".join(f"a.{name} IS p.{name}" for name in _COPIED)
    columns = columns_of(AdjustmentLine._fields[: AdjustmentLine._fields.index("same")], "a")
    sql = f"""
        SELECT {columns},
            CASE WHEN p.posting_id IS NULL THEN CASE WHEN a.window_ns < {hours} THEN -1 ELSE 0 END
                WHEN {same} THEN 1 ELSE 0 END,
            coalesce(p.rate_id, ''), p.device_nano, p.energy_nano, coalesce(l.booked_ns, a.window_ns)
        FROM adjustment a LEFT JOIN posting p ON p.posting_id = a.posting_id AND p.engine_id = a.engine_id
            LEFT JOIN late_posting_line l ON l.posting_id = a.posting_id AND l.engine_id = a.engine_id
        ORDER BY a.adjustment_id
    """  # noqa: S608 - constants
    return map(AdjustmentLine._make, store.rows(sql))


def runs(store: Store) -> Iterator[RunLine]:
    """Stream all re-ratings."""
    for run_id, before, after in store.rows("SELECT run_id, before, after FROM rerate ORDER BY run_id"):
        yield RunLine(run_id, _sums(before), _sums(after))


def _sums(text: str) -> dict[str, int]:
    try:
        sums = json.loads(text)
    except ValueError:
        return {"not readable": 0}
    return sums if isinstance(sums, dict) else {"not readable": 0}
