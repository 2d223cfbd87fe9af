"""The tables of the fleet store, typed. One definition makes the DDL of a single server and of a cluster.

Rows are those of the nodes' ledgers. What makes inserts idempotent is the sorting key: a row that is sent twice has
the same key, and `FINAL` (in the views) and merges keep one of both. Readers use the views `posting`, `meter`, `usage`,
`rate`, `engine`, `position`: they have the ledger's names, and amounts wide enough for any sum (10,000 devices overflow
64 bits of nanoseconds in eleven days).
"""

from typing import NamedTuple

from costtrace.clickhouse.views import empty_views, line_views

DAY_NS = 86_400_000_000_000
AMOUNT, MAYBE, COUNT, TEXT, NAME = "Int64", "Nullable(Int64)", "UInt32", "String", "LowCardinality(String)"


class Table(NamedTuple):
    """One table: columns in the ledger's order, and what a row is told by."""

    name: str
    columns: dict[str, str]
    key: tuple[str, ...]
    time: str = ""
    """The wall time (ns) that it is partitioned and kept by; '' for small tables."""
    shard: str = ""
    """What is spread over shards by; rows of one engine stay together."""
    sums: tuple[str, ...] = ()
    """Columns that readers sum: wide in the view."""


_TIMES = ("gpu_ns", "prefill_ns", "decode_ns", "wasted_ns")
_ENERGY = ("energy_uj", "prefill_uj", "decode_uj", "wasted_uj")
POSTING = Table(
    "posting",
    {
        "posting_id": AMOUNT, "window_ns": AMOUNT, "engine_id": NAME, "kind": NAME, "reason": NAME, "record_id": TEXT,
        "tenant": NAME, "model": NAME, **dict.fromkeys(_TIMES, AMOUNT), **dict.fromkeys(_ENERGY, MAYBE),
        "gap_ns": AMOUNT, "method": NAME, "rate_id": NAME, "device_nano": MAYBE, "energy_nano": MAYBE,
    },
    ("tenant", "model", "window_ns", "engine_id", "posting_id"),
    "window_ns",
    "engine_id",
    (*_TIMES, *_ENERGY, "gap_ns", "device_nano", "energy_nano"),
)  # fmt: skip
_KINDS = ("request_ns", "idle_ns", "overhead_ns", "unobserved_ns")
METER = Table(
    "meter",
    {
        "engine_id": NAME, "device": NAME, "start_ns": AMOUNT, "end_ns": AMOUNT, "window_ns": AMOUNT,
        **dict.fromkeys(_KINDS, AMOUNT), "shared": "UInt8", "energy_uj": MAYBE, "gap_ns": AMOUNT,
        "energy_source": NAME, "energy_scope": NAME,
    },
    ("engine_id", "device", "start_ns"),
    "window_ns",
    "engine_id",
    (*_KINDS, "energy_uj", "gap_ns", "start_ns", "end_ns"),
)  # fmt: skip
USAGE = Table(
    "usage",
    {
        "usage_id": AMOUNT, "record_id": TEXT, "request_key": TEXT, "request_id": TEXT, "engine_id": NAME,
        "part": COUNT, "attempt": COUNT, "role": NAME, "tenant": NAME, "tenant_source": NAME, "user": TEXT,
        "labels": TEXT, "model": NAME, "operation": NAME, "traceparent": TEXT, "arrived_ns": AMOUNT,
        "scheduled_ns": AMOUNT, "decode_ns_at": AMOUNT,
        "ended_ns": AMOUNT, **dict.fromkeys(_TIMES, AMOUNT), **dict.fromkeys(_ENERGY[:3], MAYBE), "gap_ns": AMOUNT,
        "energy_source": NAME, "input_tokens": AMOUNT, "cached_tokens": AMOUNT, "output_tokens": AMOUNT,
        "computed_tokens": AMOUNT, "sequences": AMOUNT, "steps": AMOUNT, "batch_milli": AMOUNT, "preemptions": AMOUNT,
        "finish_reasons": NAME, "method": NAME, "finality": NAME, "simulated": "UInt8", "cost_nano": MAYBE,
        "prefill_nano": MAYBE, "decode_nano": MAYBE, "currency": NAME, "price_book": NAME,
        "head_ns": MAYBE,
    },
    ("tenant", "model", "ended_ns", "engine_id", "record_id"),
    "ended_ns",
    "engine_id",
)  # fmt: skip
RATE = Table(
    "rate",
    {
        "rate_id": TEXT, "price_book": NAME, "currency": NAME, "device_entry": TEXT, "device_numerator": TEXT,
        "device_denominator": TEXT, "energy_numerator": TEXT, "energy_denominator": TEXT, "includes_energy": "UInt8",
    },
    ("rate_id",),
)  # fmt: skip
ENGINE = Table(
    "engine",
    {
        "engine_id": TEXT, "host": NAME, "boot_id": TEXT, "engine": NAME, "version": NAME, "model": NAME, "role": NAME,
        "dp_rank": "Int32", "devices": TEXT, "device_name": NAME, "device_kind": NAME, "settings": TEXT,
        "lost_hooks": TEXT, "simulated": "UInt8", "started_wall_ns": AMOUNT, "started_ns": AMOUNT, "ended_ns": AMOUNT,
        "end_reason": TEXT,
    },
    ("engine_id",),
)  # fmt: skip
POSITION = Table("position", {"engine_id": TEXT, "done": "UInt8"}, ("engine_id",))
TABLES = (ENGINE, RATE, POSITION, METER, POSTING, USAGE)
"""In the order in which a push writes them: what others refer to comes first."""
ROW_TABLES = tuple(table for table in TABLES if table.shard)
TENANT_TABLES = (POSTING, USAGE)


class Layout(NamedTuple):
    """Where and how the tables stand."""

    database: str = "costtrace"
    cluster: str = ""
    """'' for one server: no ``ON CLUSTER``, no replication, no distributed tables."""
    keep_days: int = 0
    """Days after which postings, meter rows and usage records are dropped; 0: never."""
    cold_days: int = 0
    """Days after which they move to the volume *cold_volume*; 0: never."""
    cold_volume: str = "cold"


def statements(layout: Layout) -> list[str]:
    """Everything that makes the store, in order; each can be run again."""
    on = f" ON CLUSTER {layout.cluster}" if layout.cluster else ""
    made = [f"CREATE DATABASE IF NOT EXISTS {layout.database}{on}"]
    for table in TABLES:
        made.append(_local(table, layout, on))
        if layout.cluster:
            made.append(_distributed(table, layout, on))
        made.append(_view(table, layout, on))
    made += empty_views(layout.database, on)
    made += line_views(layout.database, on)
    made.append(_roll_up(layout, on))
    return made


def row_policies(layout: Layout) -> list[str]:
    """Who may read which tenant: a user sees the tenant of the same name, members of `finance_reader` see all.

    A policy holds on the tables below the views: views run as who asks them.
    """
    on = f" ON CLUSTER {layout.cluster}" if layout.cluster else ""
    made = [f"CREATE ROLE IF NOT EXISTS {role}{on}" for role in ("finance_reader", "tenant_reader")]
    for table in TENANT_TABLES:
        where, own = f"{layout.database}.{table.name}_rows", "tenant = currentUser()"
        made += [
            f"CREATE ROW POLICY IF NOT EXISTS costtrace_all{on} ON {where} USING 1 TO finance_reader",
            f"CREATE ROW POLICY IF NOT EXISTS costtrace_own{on} ON {where} USING {own} TO tenant_reader",
        ]
    for name in ("posting", "usage"):
        made.append(f"GRANT{on} SELECT ON {layout.database}.{name} TO tenant_reader")
        made.append(f"GRANT{on} SELECT ON {layout.database}.{name}_rows TO tenant_reader")
    made.append(f"GRANT{on} SELECT ON {layout.database}.* TO finance_reader")
    return made


def _local(table: Table, layout: Layout, on: str) -> str:
    columns = ",\n".join(f"    `{name}` {kind}{_codec(name, kind)}" for name, kind in table.columns.items())
    indexes = ""
    if table is USAGE:
        indexes = "".join(
            f",\n    INDEX by_{name} {name} TYPE bloom_filter GRANULARITY 4"
            for name in ("record_id", "request_id", "request_key")
        )
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


def _rows(table: Table, layout: Layout) -> str:
    """The table that holds the rows of one server; the views read `..._rows`, which on a cluster is distributed."""
    return f"{table.name}_local" if layout.cluster else f"{table.name}_rows"


def _distributed(table: Table, layout: Layout, on: str) -> str:
    shard = f"cityHash64({table.shard})" if table.shard else f"cityHash64({table.key[0]})"
    return (
        f"CREATE TABLE IF NOT EXISTS {layout.database}.{table.name}_rows{on} AS {layout.database}.{table.name}_local\n"
        f"ENGINE = Distributed('{layout.cluster}', '{layout.database}', '{table.name}_local', {shard})"
    )


def _view(table: Table, layout: Layout, on: str) -> str:
    columns = ", ".join(
        f"CAST(`{name}` AS {_wide(kind)}) AS `{name}`" if name in table.sums else f"`{name}`"
        for name, kind in table.columns.items()
    )
    return (
        f"CREATE VIEW IF NOT EXISTS {layout.database}.{table.name}{on} AS\n"
        f"SELECT {columns} FROM {layout.database}.{table.name}_rows FINAL"
    )


def _roll_up(layout: Layout, on: str) -> str:
    """Postings by day: made anew as a whole, so that a row that was sent twice cannot be counted twice."""
    engine = "MergeTree"
    if layout.cluster:
        engine = f"ReplicatedMergeTree('/clickhouse/tables/{layout.database}/posting_day', '{{replica}}')"
    sums = ", ".join(f"sum({name}) AS {name}" for name in POSTING.sums)
    return (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {layout.database}.posting_day{on}\nREFRESH EVERY 1 HOUR\n"
        f"ENGINE = {engine} ORDER BY (day_ns, tenant, model, kind)\n"
        f"AS SELECT window_ns - window_ns % {DAY_NS} AS day_ns, tenant, model, kind, reason, engine_id, rate_id, "
        f"count() AS postings, {sums}\nFROM {layout.database}.posting\n"
        "GROUP BY day_ns, tenant, model, kind, reason, engine_id, rate_id"
    )


def _wide(kind: str) -> str:
    return "Nullable(Int128)" if kind == MAYBE else "Int128"


def _codec(name: str, kind: str) -> str:
    if name in {"posting_id", "usage_id", "start_ns", "end_ns", "window_ns", "arrived_ns", "ended_ns"}:
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
