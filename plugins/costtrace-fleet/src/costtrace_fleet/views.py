"""Views of the fleet store, with the names and columns of a ledger's tables and views.

Each shows one of a row's copies (`FINAL`). Of a compacted period they show roll-ups, and rows that were sent after its
compaction, as soon as its rows in `compacted` are there; these come in one insert. Adjustments are shown once the row
of their re-rating is there, which comes last. So a reader sees a compaction or a re-rating whole or not at all.

Views run with the rights of the user who reads them: row policies are on the tables below. Seals stay on the node.
"""

# ruff: noqa: S608 - statements are made of constants of this package and of a database's checked name

import sqlite3

from costtrace.ledger.schema.closing import ADJUSTED, COUNTED_TOKENS, ENDED, MOVED, POSTED, QUANTITIES, ROLLED_TOKENS
from costtrace.ledger.schema.tables import MIGRATIONS
from costtrace_fleet.tables import (
    ADJUSTMENT,
    AFTER,
    LATE_POSTING,
    LATE_USAGE,
    MAYBE,
    POSTING,
    TABLES,
    USAGE,
    Table,
)

_EMPTY = ("seal", "seal_block")
_TYPES = {("INTEGER", 1): "Int64", ("INTEGER", 0): "Nullable(Int64)"}
_LATE = {POSTING.name: LATE_POSTING, USAGE.name: LATE_USAGE}
_PARTS = (
    f"toInt64(CASE WHEN part = 1 AND attempt = 1 THEN 1 ELSE 0 END) AS requests, toInt64(1) AS parts, {COUNTED_TOKENS}"
)


def views(database: str, on: str) -> list[str]:
    """Statements that create all views, in order. Each can be run again."""
    bodies = {table.name: _rows(table, database) for table in TABLES}
    bodies |= dict.fromkeys(("posted", "line", "usage_line"), "")
    bodies["late_posting_line"] = f"SELECT engine_id, posting_id, booked_ns FROM {database}.late_posting"
    bodies |= _lines(database)
    ddl = [
        f"CREATE OR REPLACE VIEW {database}.{name}{on} SQL SECURITY INVOKER AS\n{body}" for name, body in bodies.items()
    ]
    return ddl + _empty_views(database, on)


def _rows(table: Table, database: str) -> str:
    """SELECT the rows of a table that count, with amounts wide enough for sums."""
    body = f"SELECT {_columns(table)} FROM {database}.{table.name}_rows AS t FINAL"
    if table.hours:
        # Joined with the newest compacted period of its engine that begins before the row.
        body += (
            f"\nGLOBAL ASOF LEFT JOIN (SELECT engine_id, since_ns, until_ns FROM {database}.compacted_rows FINAL)"
            f" AS c\nON t.engine_id = c.engine_id AND t.{table.time} >= c.since_ns\n"
        )
        compacted = f"coalesce(t.{table.time} < c.until_ns, 0)"
        body += f"WHERE {compacted}" if table.hours == "only" else f"WHERE t.pushed_ns >= {AFTER} OR NOT {compacted}"
    if table is ADJUSTMENT:
        body += f"\nWHERE t.run_id GLOBAL IN (SELECT run_id FROM {database}.rerate_rows)"
    if table.name in _LATE:
        late = _LATE[table.name]
        body += f"\nUNION ALL SELECT {_columns(table)} FROM {database}.{late.name}_rows AS t FINAL"
    return body


def _columns(table: Table) -> str:
    return ", ".join(
        f"CAST(t.`{name}` AS {_wide(kind)}) AS `{name}`" if name in table.sums else f"t.`{name}` AS `{name}`"
        for name, kind in table.columns.items()
    )


def _wide(kind: str) -> str:
    return "Nullable(Int128)" if kind == MAYBE else "Int128"


def _lines(database: str) -> dict[str, str]:
    """The ledger's views `posted`, `line` and `usage_line` (`schema.closing`), by name."""
    on_time = {table.name: _rows(table, database).split("\nUNION ALL", maxsplit=1)[0] for table in (POSTING, USAGE)}
    rolled = f"SELECT window_ns, operation, {POSTED.replace('record_id', _nothing('record_id'))} FROM {database}.rollup"
    posted = f"SELECT window_ns, {_nothing('operation')}, {POSTED} FROM"
    fields = [name.strip() for name in POSTED.split(",")]
    back = {
        "rate_id": "from_rate_id AS rate_id",
        **{name: f"-from_{name} AS {name}" for name in ("device_nano", "energy_nano")},
    }
    adjustments = []
    for sign, charge in (("-", back), ("", {})):
        moved = {name: f"{MOVED.format(sign=sign, name=f't.{name}')} AS {name}" for name in QUANTITIES}
        chosen = {"reason": f"{ADJUSTED} AS reason", **moved, **charge}
        columns = ", ".join(chosen.get(name, name) for name in fields)
        adjustments.append(f"SELECT booked_ns AS window_ns, operation, {columns} FROM {database}.adjustment AS t")
    ended = ENDED.format(user="`user`", labels="labels", counts=_PARTS)
    counted = ENDED.format(user="'' AS `user`", labels="'{}' AS labels", counts=ROLLED_TOKENS)
    return {
        "posted": "\nUNION ALL ".join((f"{posted} {database}.posting", rolled)),
        "line": "\nUNION ALL ".join(
            (
                f"{posted} ({on_time['posting']})",
                f"SELECT booked_ns AS window_ns, {_nothing('operation')}, {POSTED} FROM {database}.late_posting",
                rolled,
                *adjustments,
            )
        ),
        "usage_line": "\nUNION ALL ".join(
            (
                f"SELECT ended_ns, {ended} FROM ({on_time['usage']})",
                f"SELECT booked_ns AS ended_ns, {ended} FROM {database}.late_usage",
                f"SELECT ended_ns, {counted} FROM {database}.usage_rollup",
            )
        ),
    }


def _nothing(name: str) -> str:
    return f"'' AS {name}"


def _empty_views(database: str, on: str) -> list[str]:
    """Views without rows in place of tables that stay on the node, with the ledger's columns."""
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
    return f"CREATE OR REPLACE VIEW {database}.{name}{on} SQL SECURITY INVOKER AS\nSELECT {', '.join(columns)} WHERE 0"
