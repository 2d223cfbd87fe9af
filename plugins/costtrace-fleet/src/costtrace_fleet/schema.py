"""The fleet store's DDL: one definition of the tables (`tables`) for a single server and for a cluster.

Readers use views (`views`), which have the ledger's names, and amounts wide enough for any sum: 10,000 devices overflow
64 bits of nanoseconds in eleven days.
"""

from collections.abc import Sequence
from typing import NamedTuple

from costtrace_fleet.tables import (
    AMOUNT,
    COMPACTED,
    DAY_NS,
    LATE_USAGE,
    POSTING,
    RERATE,
    TABLES,
    TENANT_TABLES,
    USAGE,
    Table,
)
from costtrace_fleet.views import views


class Layout(NamedTuple):
    """Where the tables are, and how long they keep rows."""

    database: str = "costtrace"
    cluster: str = ""
    """'' for one server: no ``ON CLUSTER``, no replication, no distributed tables."""
    keep_days: int = 0
    """Days after which postings, meter rows and usage records are dropped; 0: never."""
    cold_days: int = 0
    """Days after which they move to the volume *cold_volume*; 0: never."""
    cold_volume: str = "cold"


def statements(layout: Layout) -> list[str]:
    """All statements that create the store, in order. Each can be run again."""
    on = f" ON CLUSTER {layout.cluster}" if layout.cluster else ""
    ddl = [f"CREATE DATABASE IF NOT EXISTS {layout.database}{on}"]
    for table in TABLES:
        ddl += [
            _local(table, layout, on),
            _upgrade(table, f"{layout.database}.{_rows(table, layout)}{on}", _indexes(table)),
        ]
        if layout.cluster:
            ddl += [_distributed(table, layout, on), _upgrade(table, f"{layout.database}.{table.name}_rows{on}")]
    ddl += views(layout.database, on)
    ddl.append(_bill_by_day(layout, on))
    return ddl


TENANT_VIEWS = ("posting", "usage", "line", "usage_line")
"""Views that a tenant may read. The others show what its provider pays, or other tenants."""


def row_policies(layout: Layout) -> list[str]:
    """Statements of access: a user reads the tenant of the same name, members of `finance_reader` read all.

    Policies are on the tables below the views, which run with the rights of the user who reads them. On a cluster they
    are on both the distributed tables and those of each server.
    """
    on = f" ON CLUSTER {layout.cluster}" if layout.cluster else ""
    suffixes = ("rows", "local") if layout.cluster else ("rows",)
    ddl = [f"CREATE ROLE IF NOT EXISTS {role}{on}" for role in ("finance_reader", "tenant_reader")]
    for suffix in suffixes:
        for table in TENANT_TABLES:
            where, condition = f"{layout.database}.{table.name}_{suffix}", "tenant = currentUser()"
            ddl += [
                f"CREATE ROW POLICY IF NOT EXISTS costtrace_all{on} ON {where} USING 1 TO finance_reader",
                f"CREATE ROW POLICY IF NOT EXISTS costtrace_own{on} ON {where} USING {condition} TO tenant_reader",
                f"GRANT{on} SELECT ON {where} TO tenant_reader",
            ]
        # The views need these to tell which rows count. They have names of engines, and no amounts.
        ddl.append(f"GRANT{on} SELECT ON {layout.database}.{COMPACTED.name}_{suffix} TO tenant_reader")
        ddl.append(f"GRANT{on} SELECT(run_id) ON {layout.database}.{RERATE.name}_{suffix} TO tenant_reader")
    views = (*TENANT_VIEWS, *(table.name for table in TENANT_TABLES if table.name not in TENANT_VIEWS))
    ddl += [f"GRANT{on} SELECT ON {layout.database}.{name} TO tenant_reader" for name in views]
    ddl.append(f"GRANT{on} SELECT ON {layout.database}.* TO finance_reader")
    return ddl


def _local(table: Table, layout: Layout, on: str) -> str:
    columns = ",\n".join(f"    {_column(name, kind)}" for name, kind in table.columns.items())
    indexes = "".join(f",\n    INDEX {index}" for index in _indexes(table))
    engine = "ReplacingMergeTree(pushed_ns)"
    if layout.cluster:
        path = f"/clickhouse/tables/{{shard}}/{layout.database}/{table.name}_rows"
        engine = f"ReplicatedReplacingMergeTree('{path}', '{{replica}}', pushed_ns)"
    partition = f"\nPARTITION BY intDiv({table.time}, {30 * DAY_NS})" if table.time else ""
    return (
        f"CREATE TABLE IF NOT EXISTS {layout.database}.{_rows(table, layout)}{on} (\n{columns},\n"
        f"    `pushed_ns` UInt64{indexes}\n) ENGINE = {engine}{partition}\nORDER BY ({', '.join(table.key)})"
        f"{_ttl(table, layout)}"
    )


def _indexes(table: Table) -> list[str]:
    names = ("record_id", "request_id", "request_key") if table in (USAGE, LATE_USAGE) else ()
    return [f"by_{name} {name} TYPE bloom_filter GRANULARITY 4" for name in names]


def _upgrade(table: Table, where: str, indexes: Sequence[str] = ()) -> str:
    """Add the columns and indexes that a table of an earlier version lacks. Its rows have NULL in them: not known."""
    parts = [f"COLUMN IF NOT EXISTS {_column(*each)}" for each in table.columns.items() if each[0] not in table.key]
    parts += [f"INDEX IF NOT EXISTS {index}" for index in indexes]
    return f"ALTER TABLE {where}\n" + ",\n".join(f"    ADD {part}" for part in parts)


def _rows(table: Table, layout: Layout) -> str:
    """Name of the table with one server's rows. The views read `..._rows`, which on a cluster is distributed."""
    return f"{table.name}_local" if layout.cluster else f"{table.name}_rows"


def _distributed(table: Table, layout: Layout, on: str) -> str:
    shard = f"cityHash64({table.shard})" if table.shard else f"cityHash64({table.key[0]})"
    return (
        f"CREATE TABLE IF NOT EXISTS {layout.database}.{table.name}_rows{on} AS {layout.database}.{table.name}_local\n"
        f"ENGINE = Distributed('{layout.cluster}', '{layout.database}', '{table.name}_local', {shard})"
    )


def _bill_by_day(layout: Layout, on: str) -> str:
    """The bill by day. It is refreshed as a whole, so that a row that was sent twice cannot count twice."""
    engine = "MergeTree"
    if layout.cluster:
        engine = f"ReplicatedMergeTree('/clickhouse/tables/{layout.database}/bill_day', '{{replica}}')"
    sums = ", ".join(f"sum({name}) AS {name}" for name in POSTING.sums)
    return (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {layout.database}.bill_day{on}\nREFRESH EVERY 1 HOUR\n"
        f"ENGINE = {engine} ORDER BY (day_ns, tenant, model, kind)\n"
        f"AS SELECT window_ns - window_ns % {DAY_NS} AS day_ns, tenant, model, kind, reason, engine_id, rate_id, "
        f"count() AS lines, {sums}\nFROM {layout.database}.line\n"
        "GROUP BY day_ns, tenant, model, kind, reason, engine_id, rate_id"
    )


def _column(name: str, kind: str) -> str:
    return f"`{name}` {kind}{_codec(name, kind)}"


def _codec(name: str, kind: str) -> str:
    if name in {"posting_id", "usage_id", "start_ns", "end_ns", "window_ns", "arrived_ns", "ended_ns", "booked_ns"}:
        return " CODEC(Delta, ZSTD(1))"
    return " CODEC(T64, ZSTD(1))" if kind == AMOUNT else " CODEC(ZSTD(1))"


def _ttl(table: Table, layout: Layout) -> str:
    if not table.time:
        return ""
    at = f"toDateTime(intDiv({table.time}, 1000000000))"
    tiers = []
    if layout.cold_days:
        tiers.append(f"{at} + INTERVAL {layout.cold_days} DAY TO VOLUME '{layout.cold_volume}'")
    if layout.keep_days:
        tiers.append(f"{at} + INTERVAL {layout.keep_days} DAY DELETE")
    return f"\nTTL {', '.join(tiers)}" if tiers else ""
