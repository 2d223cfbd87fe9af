"""The tables of the fleet store: those of the nodes' ledgers, with ClickHouse types.

The sorting key makes inserts idempotent: a row that is sent twice has the same key, and one copy is kept. Two ledgers
have the same numbers of postings, adjustments and roll-ups; the engine is in the key beside them. A re-rating may be of
several engines and gets another number (`run_number`).
"""

import hashlib
from typing import NamedTuple

from costtrace.ledger.schema.closing import TOKENS

DAY_NS = 86_400_000_000_000
AMOUNT, MAYBE, COUNT, TEXT, NAME = "Int64", "Nullable(Int64)", "UInt32", "String", "LowCardinality(String)"


class Table(NamedTuple):
    """One table: its columns, with their types, in the ledger's order; and the key by which a row is unique.

    Stores of earlier versions are upgraded by adding columns (`schema`): a later one is MAYBE and in no key, because a
    row of an older node has NULL there.
    """

    name: str
    columns: dict[str, str]
    key: tuple[str, ...]
    time: str = ""
    """The column of wall time (ns) by which it is partitioned and expires; '' for small tables."""
    shard: str = ""
    """The column by which rows are spread over shards, so that those of one engine stay together."""
    sums: tuple[str, ...] = ()
    """Columns that readers sum: 128 bits in the view."""
    hours: str = ""
    """How its view treats compacted periods. ``gone``: it hides their rows, but for those sent after compaction.
    ``only``: it shows no others (roll-ups). '': no difference."""


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
    "gone",
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
    "gone",
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
        "head_ns": MAYBE, "prefix_ns": MAYBE,
        **dict.fromkeys((f"counted_{name}" for name in TOKENS), MAYBE),
    },
    ("tenant", "model", "ended_ns", "engine_id", "record_id"),
    "ended_ns",
    "engine_id",
    hours="gone",
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
# Late rows are in tables of their own: they count at `booked_ns`, not at their window.
LATE_POSTING = Table(
    "late_posting",
    {"booked_ns": AMOUNT, **POSTING.columns},
    ("tenant", "model", "booked_ns", "engine_id", "posting_id"),
    "booked_ns",
    "engine_id",
    POSTING.sums,
)
LATE_USAGE = Table(
    "late_usage",
    {"booked_ns": AMOUNT, **USAGE.columns},
    ("tenant", "model", "booked_ns", "engine_id", "record_id"),
    "booked_ns",
    "engine_id",
)
ADJUSTMENT = Table(
    "adjustment",
    {
        "adjustment_id": AMOUNT, "run_id": AMOUNT, "booked_ns": AMOUNT, "period": NAME, "posting_id": AMOUNT,
        "window_ns": AMOUNT, "engine_id": NAME, "kind": NAME, "reason": NAME, "record_id": TEXT, "tenant": NAME,
        "model": NAME, **dict.fromkeys(_TIMES, AMOUNT), **dict.fromkeys(_ENERGY, MAYBE), "gap_ns": AMOUNT,
        "method": NAME, "operation": NAME, "from_rate_id": NAME, "from_device_nano": MAYBE, "from_energy_nano": MAYBE,
        "rate_id": NAME, "device_nano": MAYBE, "energy_nano": MAYBE,
    },
    ("tenant", "model", "booked_ns", "engine_id", "adjustment_id"),
    "booked_ns",
    "engine_id",
    (*POSTING.sums, "from_device_nano", "from_energy_nano"),
)  # fmt: skip
ROLLUP = Table(
    "rollup",
    {
        "rollup_id": AMOUNT, "window_ns": AMOUNT, "engine_id": NAME, "kind": NAME, "reason": NAME, "tenant": NAME,
        "model": NAME, "operation": NAME, **dict.fromkeys(_TIMES, AMOUNT), **dict.fromkeys(_ENERGY, MAYBE),
        "gap_ns": AMOUNT, "method": NAME, "rate_id": NAME, "device_nano": MAYBE, "energy_nano": MAYBE,
        "postings": AMOUNT, "last_posting": AMOUNT,
    },
    ("tenant", "model", "window_ns", "engine_id", "rollup_id"),
    "window_ns",
    "engine_id",
    POSTING.sums,
    "only",
)  # fmt: skip
USAGE_ROLLUP = Table(
    "usage_rollup",
    {
        "rollup_id": AMOUNT, "ended_ns": AMOUNT, "engine_id": NAME, "tenant": NAME, "tenant_source": NAME,
        "model": NAME, "operation": NAME, "role": NAME, "method": NAME, "finish_reasons": NAME, "currency": NAME,
        "price_book": NAME, "requests": AMOUNT, "parts": AMOUNT, "input_tokens": AMOUNT, "cached_tokens": AMOUNT,
        "output_tokens": AMOUNT, "computed_tokens": AMOUNT, "preemptions": AMOUNT,
    },
    ("tenant", "model", "ended_ns", "engine_id", "rollup_id"),
    "ended_ns",
    "engine_id",
    hours="only",
)  # fmt: skip
RERATE = Table(
    "rerate",
    {
        "run_id": AMOUNT, "at_ns": AMOUNT, "price_book": TEXT, "since_ns": AMOUNT, "until_ns": AMOUNT, "why": TEXT,
        "before": TEXT, "after": TEXT,
    },
    ("run_id",),
)  # fmt: skip
COMPACTED = Table(
    "compacted",
    {"engine_id": NAME, "since_ns": AMOUNT, "until_ns": AMOUNT},
    ("engine_id", "since_ns"),
)
"""Periods that an engine's node has compacted. It makes the views show roll-ups instead of rows, so it is sent last, in
one insert."""
AFTER = 1 << 62
"""Added to the version of a row that is sent after its period was compacted: the view shows it beside the roll-ups."""

PLAIN_TABLES = (ENGINE, RATE, POSITION, METER, POSTING, USAGE)
CLOSED_TABLES = (LATE_POSTING, LATE_USAGE, ADJUSTMENT, RERATE, ROLLUP, USAGE_ROLLUP, COMPACTED)
TABLES = (*PLAIN_TABLES, *CLOSED_TABLES)
ROW_TABLES = tuple(table for table in TABLES if table.time)
TENANT_TABLES = tuple(table for table in TABLES if "tenant" in table.columns)


def run_number(engine_id: str, run_id: int) -> int:
    """A number of a re-rating that is unique among ledgers: a hash with the engine of its first adjustment."""
    return int.from_bytes(hashlib.sha256(f"{run_id} {engine_id}".encode()).digest()[:7], "big")
