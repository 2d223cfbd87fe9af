"""Views of the fleet store that have no rows of their own: the names by which reports ask a ledger for its lines.

Closed periods are sealed on the node, where their chain can be proved. What changes a bill afterwards (re-ratings,
late rows, compaction) is not held here: a push refuses such a ledger. So a line is a posting, and the others are empty.
"""

import sqlite3

from costtrace.ledger.schema import MIGRATIONS

_EMPTY = ("seal", "seal_block", "late_posting", "late_usage", "late_meter", "rerate", "adjustment", "rollup")
_TYPES = {("INTEGER", 1): "Int64", ("INTEGER", 0): "Nullable(Int64)"}


def empty_views(database: str, on: str) -> list[str]:
    """Tables of closed periods, with the ledger's own columns and no rows."""
    ledger = sqlite3.connect(":memory:")
    try:
        for script in MIGRATIONS:
            ledger.executescript(script)
        return [_empty(ledger, database, on, name) for name in _EMPTY]
    finally:
        ledger.close()


def _empty(ledger: sqlite3.Connection, database: str, on: str, name: str) -> str:
    columns = []
    for _, column, kind, needed, _, key in ledger.execute(f"PRAGMA table_info({name})"):
        wanted = _TYPES.get((kind, int(bool(needed or key))), "String")
        nothing = "NULL" if wanted.startswith("Nullable") else "''" if wanted == "String" else "0"
        columns.append(f"CAST({nothing} AS {wanted}) AS `{column}`")
    return f"CREATE VIEW IF NOT EXISTS {database}.{name}{on} AS\nSELECT {', '.join(columns)} WHERE 0"


def line_views(database: str, on: str) -> list[str]:
    """What was posted, what is booked, and usage records where they are booked."""
    usage = (
        "ended_ns, engine_id, tenant, tenant_source, model, operation, role, method, finish_reasons, currency, "
        "price_book, CASE WHEN part = 1 AND attempt = 1 THEN 1 ELSE 0 END AS requests, 1 AS parts, input_tokens, "
        "cached_tokens, output_tokens, computed_tokens, preemptions"
    )
    made = [
        f"CREATE VIEW IF NOT EXISTS {database}.{name}{on} AS\nSELECT *, '' AS operation FROM {database}.posting"
        for name in ("posted", "line")
    ]
    name = f"{database}.usage_line{on}"
    made.append(f"CREATE VIEW IF NOT EXISTS {name} AS\nSELECT {usage} FROM {database}.usage")
    return made
