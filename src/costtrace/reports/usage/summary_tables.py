"""A summary as tables: usage and cost, cost per million tokens by token basis, and where the device time went."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.rows import KINDS
from costtrace.core.units import show_amount, show_joules, show_seconds
from costtrace.reports.output.tables import Column, Row, Table, Value, count, per_cent, text
from costtrace.reports.usage.summary import ALL_REQUESTS, EVERYTHING, REQUESTS, Line, Summary

BASES = ("total", "input", "output")

_COLUMN = {"energy_unknown_ns": "energy_unknown_gpu_ns", "cost_unknown_ns": "cost_unknown_gpu_ns"}
"""Columns of CSV and JSON that are not called as their field is."""


class Share(NamedTuple):
    """One use of the devices, and its part of all device time."""

    name: str
    gpu_ns: int
    whole_ns: int


def summary_tables(summary: Summary, period: str) -> tuple[Table[Line], Table[Line], Table[Share]]:
    """The summary, its cost per million tokens, and where the device time went."""
    lines = (*summary.lines, *summary.rest, *summary.totals)
    exact, title = _exact(summary.by), f"Usage and cost, {period}"
    usage = Table("summary", title, _usage_columns(summary.by), lines, exact, _NOTES)
    return usage, _per_million_table(summary), shares_table(summary)


_NOTES = (
    "GPU time is device time: each device counts. It, energy and cost are of the windows that begin in the period;",
    "requests and tokens are of the requests that ended in it. 'wasted' is part of the GPU time, not on top of it.",
)


def _exact(by: Sequence[str]) -> Callable[[Line], Row]:
    """A function that gives a line by the dimensions *by* with all its fields."""

    def exact(line: Line) -> Row:
        keys: dict[str, Value] = dict(zip(by, line.keys, strict=True))
        figures: dict[str, Value] = {_COLUMN.get(name, name): getattr(line, name) for name in Line._fields[1:]}
        figures["simulated"] = bool(line.simulated)
        figures |= {f"cost_per_million_{basis}_tokens": line.per_million(basis) for basis in BASES}
        return {**keys, **figures, "cost_includes_idle": line.kind == EVERYTHING}

    return exact


def _key(name: str, place: int) -> Column[Line]:
    return text(name, lambda line: line.keys[place])


def _usage_columns(by: Sequence[str]) -> list[Column[Line]]:
    return [
        *(_key(name, place) for place, name in enumerate(by)),
        text("", _what),
        count("requests", lambda line: line.requests),
        count("input tok", lambda line: line.input_tokens),
        count("cached", lambda line: line.cached_tokens),
        count("output tok", lambda line: line.output_tokens),
        _time("GPU time", lambda line: line.gpu_ns),
        _time("prefill", lambda line: line.prefill_ns),
        _time("decode", lambda line: line.decode_ns),
        _time("wasted", lambda line: line.wasted_ns),
        Column("energy", _energy),
        Column("cost", _cost),
    ]


def _what(line: Line) -> str:
    """Nothing for requests, unless it is an adjustment: theirs is the usual line."""
    if line.kind == REQUESTS:
        return line.reason
    return f"{line.kind}: {line.reason}" if line.reason else line.kind


def _time(heading: str, ns: Callable[[Line], int]) -> Column[Line]:
    return Column(heading, lambda line: show_seconds(ns(line)) if ns(line) else "")


def _energy(line: Line) -> str:
    """What is known, and ``+ ?`` where that is not all."""
    if line.energy_uj is None and not line.gpu_ns:
        return ""
    return show_joules(line.energy_uj, simulated=bool(line.simulated), unknown_ns=line.energy_unknown_ns)


def _cost(line: Line) -> str:
    """What is known, and ``+ ?`` where that is not all."""
    if line.cost_nano is None and not line.gpu_ns:
        return ""
    shown = show_amount(line.cost_nano, line.currency or None)
    return f"{shown} + ?" if line.cost_nano is not None and line.cost_unknown_ns else shown


def _per_million_table(summary: Summary) -> Table[Line]:
    def price(basis: str) -> Column[Line]:
        def show(line: Line) -> str:
            price = line.per_million(basis)
            return "unknown" if price is None else f"{price:,.4f} {line.currency}"

        return Column(f"per million {basis} tokens", show)

    columns: list[Column[Line]] = [
        *(_key(name, place) for place, name in enumerate(summary.by)),
        text("", _what),
        *(price(basis) for basis in BASES),
        text("idle in it", lambda line: "yes" if line.kind == EVERYTHING else "no"),
    ]
    kinds = {REQUESTS, ALL_REQUESTS, EVERYTHING}
    lines = [line for line in (*summary.lines, *summary.rest, *summary.totals) if line.kind in kinds]
    notes = ("The whole cost of the line, divided by the tokens of the column: total = input + output.",)
    title = "Cost per million tokens, by token basis"
    return Table("per_million_tokens", title, columns, lines, _exact(summary.by), notes, view=True)


def shares_table(summary: Summary) -> Table[Share]:
    """Used, wasted, idle, overhead, unobserved: shares of all device time."""
    used_ns = sum(line.gpu_ns - line.wasted_ns for line in summary.lines)
    parts = {"used": used_ns, "wasted": sum(line.wasted_ns for line in summary.lines)}
    for kind in KINDS[1:]:
        parts[kind] = sum(line.gpu_ns for line in summary.rest if line.kind == kind)
    whole_ns = sum(parts.values())
    lines = [Share(name, gpu_ns, whole_ns) for name, gpu_ns in parts.items()]
    columns: tuple[Column[Share], ...] = (
        text("", lambda share: share.name),
        Column("GPU time", lambda share: show_seconds(share.gpu_ns)),
        Column("share", lambda share: per_cent(share.gpu_ns, share.whole_ns)),
    )
    return Table("shares", "Where the device time went", columns, lines, _exact_share)


def _exact_share(share: Share) -> Row:
    exact = round(Decimal(100 * share.gpu_ns) / share.whole_ns, 6) if share.whole_ns else None
    return {"share": share.name, "gpu_ns": share.gpu_ns, "per_cent": exact}
