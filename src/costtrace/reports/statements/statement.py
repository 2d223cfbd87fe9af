"""Statements as rows and documents: what a tenant used, what it pays of idle and overhead, how it ties out. Pure.

Rows hold exact integers; documents show money in whole cents that add up (`fleet.to_cents`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.rows import KINDS
from costtrace.core.units import show_seconds
from costtrace.core.wall_time import moment
from costtrace.reports.output.document import Document
from costtrace.reports.output.tables import Column, Row, Table, Value, count, per_cent, text
from costtrace.reports.statements.idle_policies import Pot
from costtrace.reports.statements.settlement import Settlement, SettlementLine, carbon_ug
from costtrace.reports.statements.statement_columns import (
    Carbon,
    charge_columns,
    cost_column,
    day_columns,
    model_columns,
    share_columns,
    time_column,
)
from costtrace.reports.usage.summary import REQUESTS

POLICY_TEXT = {
    "separate": "separate: no tenant pays for idle or overhead",
    "weighted": "weighted: by the cost of each tenant's own requests, per pool",
    "even": "even: the same for each tenant that used the pool",
    "reserved": "reserved: each tenant pays what it reserved and did not use; start-up by reservation",
    "peak": "peak: airport formula over each tenant's peak quarter of an hour, per pool",
}
_WHAT = {
    REQUESTS: "own requests",
    "idle": "idle",
    "overhead": "overhead",
    "unobserved": "unobserved",
    "difference": "difference to the bill",
}


_NO_TOKENS = dict.fromkeys(("requests", "input_tokens", "cached_tokens", "output_tokens"))


class Frame(NamedTuple):
    """What every statement says of the whole fleet, summed once."""

    whole: dict[str, Row]
    nobody: dict[str, Row]
    """By currency: all lines, and those that no tenant pays."""
    used: Table


def lines(fleet: Settlement, cells: Iterable[SettlementLine], carbon: Carbon) -> list[Row]:
    """Cells as exact rows: what CSV, JSON and Parquet hold."""
    return [_line(fleet, cell, carbon) for cell in cells]


def _line(fleet: Settlement, cell: SettlementLine, carbon: Carbon) -> Row:
    names = ("tenant", "day", "pool", "model", "kind", "reason", "currency")
    counts = ("requests", "input_tokens", "cached_tokens", "output_tokens", "prefill_ns", "decode_ns", "wasted_ns")
    row: dict[str, Value] = {name: getattr(cell, name) for name in names}
    row |= {name: getattr(cell, name) for name in counts}
    return {
        **row,
        "gpu_ns": cell.pot.gpu_ns,
        "energy_uj": cell.pot.energy_uj,
        "energy_unknown_gpu_ns": cell.pot.energy_unknown_ns,
        "carbon_ug": carbon_ug(cell.pot.energy_uj, carbon.grams_per_kwh),
        "cost_nano": cell.pot.cost_nano,
        "cost_unknown_gpu_ns": cell.pot.cost_unknown_ns,
        "cost_cents": cell.cost_cents,
        "share_basis": cell.basis,
        "share_ratio": round(Decimal(cell.weight) / cell.weights, 12) if cell.weights else None,
        "policy": fleet.policy.name,
        "since_ns": fleet.period.since_ns,
        "until_ns": fleet.period.until_ns,
    }


def lines_table(fleet: Settlement, cells: Sequence[SettlementLine], carbon: Carbon) -> Table:
    """The rows as a table for CSV and JSON."""
    fields = list(_line(fleet, SettlementLine("", "", "", "", "", "", "", Pot()), carbon))
    return Table("lines", "Lines", [], lines(fleet, cells, carbon), fields=fields)


def tenant_document(
    fleet: Settlement, tenant: str, cells: Sequence[SettlementLine], carbon: Carbon, around: Frame
) -> Document:
    """The statement of one tenant, made of its lines."""
    own = [cell for cell in cells if cell.kind == REQUESTS]
    shares = [cell for cell in cells if cell.kind != REQUESTS]
    tables = [
        Table("charges", "Charges", charge_columns(carbon), _charges(own, shares, carbon)),
        Table("models", "Usage by model", model_columns(carbon), _grouped(own, ("model",), carbon)),
        Table("shares", "Share of idle and overhead", share_columns(), [_share_row(cell, carbon) for cell in shares]),
        Table("days", "Usage by day and model", day_columns(carbon), _grouped(own, ("day", "model"), carbon)),
        _reconciliation(cells, around),
        around.used,
    ]
    return Document(
        "Statement of " + (tenant or "(no tenant)"),
        name_period(fleet),
        _facts(fleet, tenant, carbon),
        tables,
        _notes(),
    )


def fleet_document(fleet: Settlement, carbon: Carbon) -> Document:
    """All tenants, all that nobody pays, and the tie-out."""
    tenants: list[Row] = [
        {**row, "what": tenant or "(no tenant)"}
        for tenant, cells in fleet.by_tenant().items()
        for row in _charges_total(cells, carbon)
    ]
    rests: list[Row] = [{**_figures([cell], carbon), **_NO_TOKENS, "what": name_rest(cell)} for cell in fleet.rests()]
    totals: list[Row] = [{**row, "what": "total", "strong": True} for row in _charges_total(fleet.cells, carbon)]
    tables = [
        Table("tenants", "Tenants", charge_columns(carbon), [*tenants, *rests, *totals]),
        tie_table(fleet),
        used_table(fleet),
    ]
    facts = _facts(fleet, None, carbon)
    return Document("Statements of all tenants", name_period(fleet), facts, tables, _notes())


def name_rest(cell: SettlementLine) -> str:
    """What a line that no tenant pays is called."""
    reason = f": {cell.reason}" if cell.reason else ""
    pool = f" ({cell.pool})" if cell.pool else ""
    return f"{_WHAT.get(cell.kind, cell.kind)}{reason}{pool}"


def name_period(fleet: Settlement) -> str:
    """The period as headings say it."""
    begin, end = (moment(at, fleet.zone).strftime("%Y-%m-%d %H:%M") for at in fleet.period)
    return f"{begin} to {end} {fleet.zone.tzname(None) or fleet.zone}"


def tie_table(fleet: Settlement) -> Table:
    """The tie-out: lines against the total, and by how much they are off."""
    rows: list[Row] = [{"what": tie.what, "lines": tie.lines, "total": tie.total, "off": tie.off} for tie in fleet.ties]
    columns = [
        text("", "what"),
        count("all lines", "lines"),
        count("the ledger's total", "total"),
        count("off by", "off"),
    ]
    notes = ("The total is asked of the ledger by itself, without tenants, models or days.",)
    return Table("tie_out", "Tie-out", columns, rows, notes)


def _figures(cells: Sequence[SettlementLine], carbon: Carbon) -> dict[str, Value]:
    """Sums of cells of one currency."""
    whole = cells[0]
    for cell in cells[1:]:
        whole = whole.plus(cell)
    cents = [cell.cost_cents for cell in cells if cell.cost_cents is not None]
    names = ("requests", "input_tokens", "cached_tokens", "output_tokens", "wasted_ns")
    return {
        **{name: getattr(whole, name) for name in names},
        "currency": whole.currency,
        "gpu_ns": whole.pot.gpu_ns,
        "energy_uj": whole.pot.energy_uj,
        "energy_unknown_gpu_ns": whole.pot.energy_unknown_ns,
        "carbon_ug": carbon_ug(whole.pot.energy_uj, carbon.grams_per_kwh),
        "cost_nano": whole.pot.cost_nano,
        "cost_unknown_gpu_ns": whole.pot.cost_unknown_ns,
        "cost_cents": sum(cents) if cents else None,
    }


def _by(
    cells: Iterable[SettlementLine], key: Callable[[SettlementLine], tuple[str, ...]]
) -> dict[tuple[str, ...], list[SettlementLine]]:
    groups: dict[tuple[str, ...], list[SettlementLine]] = defaultdict(list)
    for cell in cells:
        groups[key(cell)].append(cell)
    return dict(sorted(groups.items()))


def _grouped(cells: Sequence[SettlementLine], names: tuple[str, ...], carbon: Carbon) -> list[Row]:
    """One row for each value of *names*, then the totals by currency."""
    rows: list[Row] = []
    groups = _by(cells, lambda cell: (*(str(getattr(cell, name)) for name in names), cell.currency))
    for key, group in groups.items():
        rows.append({**dict(zip(names, key, strict=False)), **_figures(group, carbon)})
    blank = dict.fromkeys(names, "")
    rows += [{**blank, **row, names[0]: "total", "strong": True} for row in _charges_total(cells, carbon)]
    return rows


def _charges_total(cells: Sequence[SettlementLine], carbon: Carbon) -> list[dict[str, Value]]:
    return [_figures(group, carbon) for group in _by(cells, lambda cell: (cell.currency,)).values()]


def _charges(own: Sequence[SettlementLine], shares: Sequence[SettlementLine], carbon: Carbon) -> list[Row]:
    rows: list[Row] = [{**row, "what": "own requests"} for row in _charges_total(own, carbon)]
    for (kind, _), group in _by(shares, lambda cell: (cell.kind, cell.currency)).items():
        rows.append({**_figures(group, carbon), **_NO_TOKENS, "what": f"share of {kind}"})
    rows += [{**row, "what": "total", "strong": True} for row in _charges_total([*own, *shares], carbon)]
    return rows


def _share_row(cell: SettlementLine, carbon: Carbon) -> Row:
    ratio = per_cent(cell.weight, cell.weights)
    return {**_figures([cell], carbon), "what": name_rest(cell), "ratio": ratio, "basis": cell.basis}


def frame(fleet: Settlement) -> Frame:
    """Sum what all statements of *fleet* share."""
    rests = [cell for cell in fleet.cells if not cell.tenant and cell.kind != REQUESTS]
    return Frame(_by_currency(fleet.cells), _by_currency(rests), used_table(fleet))


def _by_currency(cells: Iterable[SettlementLine]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for (currency,), group in _by(cells, lambda cell: (cell.currency,)).items():
        cents = [cell.cost_cents for cell in group if cell.cost_cents is not None]
        found[currency] = {
            "gpu_ns": sum(cell.pot.gpu_ns for cell in group),
            "cost_unknown_gpu_ns": sum(cell.pot.cost_unknown_ns for cell in group),
            "cost_cents": sum(cents) if cents else None,
            "currency": currency,
        }
    return found


def _reconciliation(cells: Sequence[SettlementLine], around: Frame) -> Table:
    """The statement, the others, what nobody pays: the fleet. By currency, in cents."""
    rows: list[Row] = []
    mine = _by_currency(cells)
    for currency, whole in around.whole.items():
        parts = [("this statement", mine.get(currency)), ("paid by no tenant", around.nobody.get(currency))]
        nothing: Row = {"gpu_ns": 0, "cost_unknown_gpu_ns": 0, "cost_cents": 0, "currency": currency}
        known: list[tuple[str, Row]] = [(name, part or nothing) for name, part in parts]
        others = {**nothing, "cost_cents": None}
        for name in ("gpu_ns", "cost_unknown_gpu_ns", "cost_cents"):
            if isinstance(value := whole[name], int):
                others[name] = value - sum(_number(part[name]) for _, part in known)
        named = [known[0], ("all other tenants", others), known[1], ("fleet", whole)]
        rows += [{**part, "what": name, "strong": name == "fleet"} for name, part in named]
    columns = [text("", "what"), time_column("GPU time", "gpu_ns"), cost_column()]
    return Table("reconciliation", "Reconciliation to the fleet", columns, rows)


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def used_table(fleet: Settlement) -> Table:
    """Used, wasted, idle, overhead and unobserved time: always shown, whoever pays for it."""
    shares = dict.fromkeys(("used", "wasted", *KINDS[1:]), 0)
    for cell in fleet.cells:
        if cell.kind == REQUESTS:
            shares["used"] += cell.pot.gpu_ns - cell.wasted_ns
            shares["wasted"] += cell.wasted_ns
        elif cell.kind in shares:
            shares[cell.kind] += cell.pot.gpu_ns
    whole = sum(shares.values())
    rows: list[Row] = [{"what": name, "gpu_ns": ns, "share": per_cent(ns, whole)} for name, ns in shares.items()]
    rows.append({"what": "all device time", "gpu_ns": whole, "share": per_cent(whole, whole), "strong": True})
    columns = [text("", "what"), time_column("GPU time", "gpu_ns"), Column("share", lambda row: str(row["share"]))]
    return Table("used", "Where the fleet's device time went", columns, rows)


def _facts(fleet: Settlement, tenant: str | None, carbon: Carbon) -> list[tuple[str, str]]:
    chosen = [facts for name, facts in fleet.facts.items() if tenant is None or name == tenant]
    methods: dict[str, int] = defaultdict(int)
    books: dict[str, int] = defaultdict(int)
    for facts in chosen:
        for name, ns in facts.methods.items():
            methods[name] += ns
        for name, ns in facts.price_books.items():
            books[name] += ns
    handed = " and ".join(fleet.policy.shares) if fleet.policy.name != "separate" else ""
    found = [
        ("Policy", POLICY_TEXT[fleet.policy.name] + (f"; handed out: {handed}" if handed else "")),
        ("Attribution", _named(methods, "no requests") + " (share of device time by method; docs/method.md)"),
        ("Price book", _named(books, "none", "no price")),
        (
            "Carbon",
            f"{carbon.grams_per_kwh} g/kWh at the device: {carbon.source}"
            if carbon.grams_per_kwh is not None
            else "unknown: no carbon intensity was declared",
        ),
    ]
    if fleet.books:
        found.insert(0, ("Books", fleet.books))
    if simulated := sum(facts.simulated_ns for facts in chosen):
        found.insert(0, ("SIMULATED", f"{show_seconds(simulated)} of this device time are of a simulated engine"))
    return found


def _named(amounts: dict[str, int], nothing: str, empty: str = "") -> str:
    whole = sum(amounts.values())
    names = sorted(amounts, key=lambda name: -amounts[name])
    return ", ".join(f"{name or empty} {per_cent(amounts[name], whole)}" for name in names) or nothing


def _notes() -> list[str]:
    return [
        "GPU time is device time: each device counts. Wasted time is part of it.",
        "Time, energy and cost are of the windows that begin in the period.",
        "Requests and tokens are of the requests that ended in it.",
        "Lines are rounded to whole cents so that they add up to the fleet's total; each is less than a cent off.",
        "'+ ?' says that part of an amount is unknown: unknown is not 0.",
    ]
