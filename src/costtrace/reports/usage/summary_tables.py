"""A summary as tables: usage and cost, cost per million tokens by token basis, and where the device time went."""

from collections.abc import Sequence
from decimal import Decimal

from costtrace.core.rows import KINDS
from costtrace.core.units import show_amount, show_joules, show_seconds
from costtrace.reports.output.tables import Column, Row, Table, Value, count, per_cent, text
from costtrace.reports.usage.summary import ALL_REQUESTS, EVERYTHING, REQUESTS, Line, Summary

BASES = ("total", "input", "output")


_COLUMN = {"energy_unknown_ns": "energy_unknown_gpu_ns", "cost_unknown_ns": "cost_unknown_gpu_ns"}
"""Columns of CSV and JSON that are not called as their field is."""


def as_rows(summary: Summary) -> list[Row]:
    """All lines with all their fields."""
    rows: list[Row] = []
    for line in (*summary.lines, *summary.rest, *summary.totals):
        figures: dict[str, Value] = {_COLUMN.get(name, name): getattr(line, name) for name in Line._fields[1:]}
        with_idle = line.kind == EVERYTHING
        per_token: dict[str, Value] = {f"cost_per_million_{basis}_tokens": line.per_million(basis) for basis in BASES}
        keys: dict[str, Value] = dict(zip(summary.by, line.keys, strict=True))
        figures["simulated"] = bool(line.simulated)
        rows.append({**keys, **figures, **per_token, "cost_includes_idle": with_idle})
    return rows


def summary_tables(summary: Summary, period: str) -> list[Table]:
    """The summary, its cost per million tokens, and where the device time went."""
    rows = as_rows(summary)
    return [
        Table("summary", f"Usage and cost, {period}", _usage_columns(summary.by), rows, _NOTES),
        _per_million_table(summary, rows),
        shares_table(summary),
    ]


_NOTES = (
    "GPU time is device time: each device counts. It, energy and cost are of the windows that begin in the period;",
    "requests and tokens are of the requests that ended in it. 'wasted' is part of the GPU time, not on top of it.",
)


def _usage_columns(by: Sequence[str]) -> list[Column]:
    return [
        *(text(name, name) for name in by),
        Column("", _what, right=False),
        count("requests", "requests"),
        count("input tok", "input_tokens"),
        count("cached", "cached_tokens"),
        count("output tok", "output_tokens"),
        _time("GPU time", "gpu_ns"),
        _time("prefill", "prefill_ns"),
        _time("decode", "decode_ns"),
        _time("wasted", "wasted_ns"),
        Column("energy", show_energy),
        Column("cost", show_cost),
    ]


def _what(row: Row) -> str:
    """Nothing for requests, unless it is an adjustment: theirs is the usual line."""
    kind, reason = str(row["kind"]), str(row["reason"])
    return reason if kind == REQUESTS else f"{kind}: {reason}" if reason else kind


def _time(heading: str, key: str) -> Column:
    def show(row: Row) -> str:
        value = row[key]
        return show_seconds(value) if isinstance(value, int) and value else ""

    return Column(heading, show)


def show_energy(row: Row) -> str:
    """What is known, and ``+ ?`` where that is not all."""
    value = row["energy_uj"]
    if value is None and not row["gpu_ns"]:
        return ""
    shown = show_joules(value if isinstance(value, int) else None, simulated=bool(row["simulated"]))
    return f"{shown} + ?" if value is not None and row["energy_unknown_gpu_ns"] else shown


def show_cost(row: Row) -> str:
    """What is known, and ``+ ?`` where that is not all."""
    value = row["cost_nano"]
    if value is None and not row["gpu_ns"]:
        return ""
    shown = show_amount(value if isinstance(value, int) else None, str(row["currency"]) or None)
    return f"{shown} + ?" if value is not None and row["cost_unknown_gpu_ns"] else shown


def _per_million_table(summary: Summary, rows: Sequence[Row]) -> Table:
    def price(basis: str) -> Column:
        def show(row: Row) -> str:
            value = row[f"cost_per_million_{basis}_tokens"]
            return f"{value:,.4f} {row['currency']}" if isinstance(value, Decimal) else "unknown"

        return Column(f"per million {basis} tokens", show)

    columns = [
        *(text(name, name) for name in summary.by),
        Column("", _what, right=False),
        *(price(basis) for basis in BASES),
        Column("idle in it", lambda row: "yes" if row["cost_includes_idle"] else "no", right=False),
    ]
    kinds = {REQUESTS, ALL_REQUESTS, EVERYTHING}
    notes = ("The whole cost of the line, divided by the tokens of the column: total = input + output.",)
    title = "Cost per million tokens, by token basis"
    return Table("per_million_tokens", title, columns, [row for row in rows if row["kind"] in kinds], notes, view=True)


def shares_table(summary: Summary) -> Table:
    """Used, wasted, idle, overhead, unobserved: shares of all device time."""
    used_ns = sum(line.gpu_ns - line.wasted_ns for line in summary.lines)
    parts = {"used": used_ns, "wasted": sum(line.wasted_ns for line in summary.lines)}
    for kind in KINDS[1:]:
        parts[kind] = sum(line.gpu_ns for line in summary.rest if line.kind == kind)
    whole = sum(parts.values())
    rows: list[Row] = [
        {"share": name, "gpu_ns": ns, "per_cent": _exact_per_cent(ns, whole)} for name, ns in parts.items()
    ]
    columns = (
        text("", "share"),
        Column("GPU time", lambda row: show_seconds(int(str(row["gpu_ns"])))),
        Column("share", lambda row: per_cent(int(str(row["gpu_ns"])), whole)),
    )
    return Table("shares", "Where the device time went", columns, rows)


def _exact_per_cent(part: int, whole: int) -> Decimal | None:
    return round(Decimal(100 * part) / whole, 6) if whole else None
