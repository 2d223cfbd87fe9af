"""Statements as rows and documents: what a tenant used, what it pays of idle and overhead, how it ties out. Pure.

Files hold exact integers; documents show money in the currency's smallest unit, and it adds up (`settlement.to_cents`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.rows import KINDS
from costtrace.core.units import CENTS, minor_digits, show_seconds
from costtrace.core.wall_time import moment
from costtrace.reports.output.tables import AnyTable, Column, Row, Table, Value, count, per_cent, text
from costtrace.reports.usage.summary import REQUESTS
from costtrace.reports.usage.summary_tables import Share
from costtrace_statements.idle_policies import Pot
from costtrace_statements.output.document import Document
from costtrace_statements.settlement import Settlement, SettlementLine, Tie
from costtrace_statements.statement_columns import (
    Carbon,
    StatementLine,
    carbon_ug,
    charge_columns,
    day_columns,
    model_columns,
    reconciliation_columns,
    share_columns,
    time_column,
)

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


class Frame(NamedTuple):
    """What every statement has of the whole fleet, summed once."""

    whole: dict[str, SettlementLine]
    nobody: dict[str, SettlementLine]
    """By currency: all lines, and those that no tenant pays."""
    used: Table[Share]


def lines_table(settlement: Settlement, lines: Sequence[SettlementLine], carbon: Carbon) -> Table[SettlementLine]:
    """Lines of a settlement for CSV, JSON and Parquet."""

    def exact(line: SettlementLine) -> Row:
        return _exact(settlement, line, carbon)

    return Table("lines", "Lines", (), lines, exact, fields=tuple(exact(_blank())))


def _exact(settlement: Settlement, line: SettlementLine, carbon: Carbon) -> Row:
    names = ("tenant", "day", "pool", "model", "kind", "reason", "currency")
    counts = ("requests", "input_tokens", "cached_tokens", "output_tokens", "prefill_ns", "decode_ns", "wasted_ns")
    row: dict[str, Value] = {name: getattr(line, name) for name in names}
    row |= {name: getattr(line, name) for name in counts}
    return {
        **row,
        "gpu_ns": line.pot.gpu_ns,
        "energy_uj": line.pot.energy_uj,
        "energy_unknown_gpu_ns": line.pot.energy_unknown_ns,
        "carbon_ug": carbon_ug(line.pot.energy_uj, carbon.grams_per_kwh),
        "cost_nano": line.pot.cost_nano,
        "cost_unknown_gpu_ns": line.pot.cost_unknown_ns,
        "cost_cents": line.cost_cents if minor_digits(line.currency) == CENTS else None,
        "cost_rounded": line.rounded,
        "share_basis": line.basis,
        "share_ratio": round(Decimal(line.weight) / line.weights, 12) if line.weights else None,
        "policy": settlement.policy.name,
        "since_ns": settlement.period.since_ns,
        "until_ns": settlement.period.until_ns,
    }


def tenant_document(
    settlement: Settlement, tenant: str, lines: Sequence[SettlementLine], carbon: Carbon, around: Frame
) -> Document:
    """The statement of one tenant, made of its lines."""
    usage = [line for line in lines if line.kind == REQUESTS]
    shares = [line for line in lines if line.kind != REQUESTS]
    share_lines = [StatementLine((name_rest(line),), line, has_tokens=False) for line in shares]
    models = _grouped(usage, lambda line: (line.model,))
    days = _grouped(usage, lambda line: (line.day, line.model))
    tables: list[AnyTable] = [
        _table("charges", "Charges", charge_columns(carbon), _charges(usage, shares)),
        _table("models", "Usage by model", model_columns(carbon), models),
        _table("shares", "Share of idle and overhead", share_columns(), share_lines),
        _table("days", "Usage by day and model", day_columns(carbon), days),
        _reconciliation(lines, around),
        around.used,
    ]
    title = "Statement of " + (tenant or "(no tenant)")
    return Document(title, name_period(settlement), _facts(settlement, tenant, carbon), tables, _notes())


def fleet_document(settlement: Settlement, carbon: Carbon) -> Document:
    """All tenants, all that nobody pays, and the tie-out."""
    tenants = [
        StatementLine((tenant or "(no tenant)",), total)
        for tenant, lines in settlement.by_tenant().items()
        for total in _sums(lines)
    ]
    rests = [StatementLine((name_rest(line),), line, has_tokens=False) for line in settlement.rests()]
    totals = [StatementLine(("total",), total, is_total=True) for total in _sums(settlement.lines)]
    tables: list[AnyTable] = [
        _table("tenants", "Tenants", charge_columns(carbon), [*tenants, *rests, *totals]),
        tie_table(settlement),
        used_table(settlement),
    ]
    facts = _facts(settlement, None, carbon)
    return Document("Statements of all tenants", name_period(settlement), facts, tables, _notes())


def name_rest(line: SettlementLine) -> str:
    """What a line that no tenant pays is called."""
    reason = f": {line.reason}" if line.reason else ""
    pool = f" ({line.pool})" if line.pool else ""
    return f"{_WHAT.get(line.kind, line.kind)}{reason}{pool}"


def name_period(settlement: Settlement) -> str:
    """The period, for headings."""
    begin, end = (moment(at, settlement.zone).strftime("%Y-%m-%d %H:%M") for at in settlement.period)
    return f"{begin} to {end} {settlement.zone.tzname(None) or settlement.zone}"


def tie_table(settlement: Settlement) -> Table[Tie]:
    """The tie-out: lines against the total, and by how much they are off."""
    columns: list[Column[Tie]] = [
        text("", lambda tie: tie.what),
        count("all lines", lambda tie: tie.lines),
        count("the ledger's total", lambda tie: tie.total),
        count("off by", lambda tie: tie.off),
    ]
    notes = ("The total is asked of the ledger by itself, without tenants, models or days.",)
    return Table("tie_out", "Tie-out", columns, settlement.ties, lambda tie: {**tie._asdict(), "off": tie.off}, notes)


def _table(
    name: str, title: str, columns: Sequence[Column[StatementLine]], lines: Sequence[StatementLine]
) -> Table[StatementLine]:
    return Table(name, title, columns, lines, is_total=lambda line: line.is_total)


def _sums(lines: Iterable[SettlementLine]) -> list[SettlementLine]:
    """The lines added up, by currency."""
    return [_sum(group) for group in _by(lines, lambda line: (line.currency,)).values()]


def _sum(lines: Sequence[SettlementLine]) -> SettlementLine:
    """Lines of one currency, added up."""
    total = lines[0]
    for line in lines[1:]:
        total = total.plus(line)
    return total


def _by(
    lines: Iterable[SettlementLine], key: Callable[[SettlementLine], tuple[str, ...]]
) -> dict[tuple[str, ...], list[SettlementLine]]:
    groups: dict[tuple[str, ...], list[SettlementLine]] = defaultdict(list)
    for line in lines:
        groups[key(line)].append(line)
    return dict(sorted(groups.items()))


def _grouped(
    lines: Sequence[SettlementLine], names: Callable[[SettlementLine], tuple[str, ...]]
) -> list[StatementLine]:
    """One line for each of *names* and currency, then the totals by currency."""
    groups = _by(lines, lambda line: (*names(line), line.currency))
    named = [StatementLine(key[:-1], _sum(group)) for key, group in groups.items()]
    return named + [StatementLine(("total", ""), total, is_total=True) for total in _sums(lines)]


def _charges(usage: Sequence[SettlementLine], shares: Sequence[SettlementLine]) -> list[StatementLine]:
    charges = [StatementLine(("own requests",), total) for total in _sums(usage)]
    for (kind, _), group in _by(shares, lambda line: (line.kind, line.currency)).items():
        charges.append(StatementLine((f"share of {kind}",), _sum(group), has_tokens=False))
    return charges + [StatementLine(("total",), total, is_total=True) for total in _sums([*usage, *shares])]


def frame(settlement: Settlement) -> Frame:
    """Sum what all statements of *settlement* share."""
    rests = [line for line in settlement.lines if not line.tenant and line.kind != REQUESTS]
    return Frame(_by_currency(settlement.lines), _by_currency(rests), used_table(settlement))


def _by_currency(lines: Iterable[SettlementLine]) -> dict[str, SettlementLine]:
    return {total.currency: total for total in _sums(lines)}


def _reconciliation(lines: Sequence[SettlementLine], around: Frame) -> Table[StatementLine]:
    """A statement, the others, and what nobody pays: together the fleet. By currency."""
    parts: list[StatementLine] = []
    totals = _by_currency(lines)
    for currency, whole in around.whole.items():
        nothing = _blank(currency)._replace(cost_cents=0)
        this, nobody = totals.get(currency, nothing), around.nobody.get(currency, nothing)
        pot = Pot(
            gpu_ns=whole.pot.gpu_ns - this.pot.gpu_ns - nobody.pot.gpu_ns,
            cost_unknown_ns=whole.pot.cost_unknown_ns - this.pot.cost_unknown_ns - nobody.pot.cost_unknown_ns,
        )
        known_cents = (this.cost_cents or 0) + (nobody.cost_cents or 0)
        cents = None if whole.cost_cents is None else whole.cost_cents - known_cents
        others = nothing._replace(pot=pot, cost_cents=cents)
        named = {"this statement": this, "all other tenants": others, "paid by no tenant": nobody, "fleet": whole}
        parts += [StatementLine((name,), part, is_total=name == "fleet") for name, part in named.items()]
    return _table("reconciliation", "Reconciliation to the fleet", reconciliation_columns(), parts)


def _blank(currency: str = "") -> SettlementLine:
    return SettlementLine("", "", "", "", "", "", currency, Pot())


_ALL_TIME = "all device time"


def used_table(settlement: Settlement) -> Table[Share]:
    """Used, wasted, idle, overhead and unobserved time: always shown, no matter who pays for it."""
    uses = dict.fromkeys(("used", "wasted", *KINDS[1:]), 0)
    for line in settlement.lines:
        if line.kind == REQUESTS:
            uses["used"] += line.pot.gpu_ns - line.wasted_ns
            uses["wasted"] += line.wasted_ns
        elif line.kind in uses:
            uses[line.kind] += line.pot.gpu_ns
    whole_ns = sum(uses.values())
    shares = [Share(name, gpu_ns, whole_ns) for name, gpu_ns in uses.items()]
    shares.append(Share(_ALL_TIME, whole_ns, whole_ns))
    columns: list[Column[Share]] = [
        text("", lambda share: share.name),
        time_column("GPU time", lambda share: share.gpu_ns),
        Column("share", lambda share: per_cent(share.gpu_ns, share.whole_ns)),
    ]
    title = "Where the fleet's device time went"
    return Table("used", title, columns, shares, _exact_share, is_total=_is_all_time)


def _is_all_time(share: Share) -> bool:
    return share.name == _ALL_TIME


def _exact_share(share: Share) -> Row:
    of_all = per_cent(share.gpu_ns, share.whole_ns)
    row: dict[str, Value] = {"what": share.name, "gpu_ns": share.gpu_ns, "share": of_all}
    return {**row, "strong": True} if _is_all_time(share) else row


def _facts(settlement: Settlement, tenant: str | None, carbon: Carbon) -> list[tuple[str, str]]:
    chosen = [facts for name, facts in settlement.facts.items() if tenant is None or name == tenant]
    methods: dict[str, int] = defaultdict(int)
    books: dict[str, int] = defaultdict(int)
    for facts in chosen:
        for name, ns in facts.methods.items():
            methods[name] += ns
        for name, ns in facts.price_books.items():
            books[name] += ns
    handed_out = " and ".join(settlement.policy.shares) if settlement.policy.name != "separate" else ""
    named = [
        ("Policy", POLICY_TEXT[settlement.policy.name] + (f"; handed out: {handed_out}" if handed_out else "")),
        ("Attribution", _named(methods, "no requests") + " (share of device time by method; docs/method.md)"),
        ("Price book", _named(books, "none", "no price")),
        (
            "Carbon",
            f"{carbon.grams_per_kwh} g/kWh at the device: {carbon.source}"
            if carbon.grams_per_kwh is not None
            else "unknown: no carbon intensity was declared",
        ),
    ]
    if settlement.closing:
        named.insert(0, ("Books", settlement.closing))
    if simulated := sum(facts.simulated_ns for facts in chosen):
        named.insert(0, ("SIMULATED", f"{show_seconds(simulated)} of this device time are of a simulated engine"))
    return named


def _named(amounts: dict[str, int], nothing: str, empty: str = "") -> str:
    whole = sum(amounts.values())
    names = sorted(amounts, key=lambda name: -amounts[name])
    return ", ".join(f"{name or empty} {per_cent(amounts[name], whole)}" for name in names) or nothing


def _notes() -> list[str]:
    return [
        "GPU time is device time: each device counts. Wasted time is part of it.",
        "Time, energy and cost are of the windows that begin in the period.",
        "Requests and tokens are of the requests that ended in it.",
        "Lines are rounded to their currency's smallest unit so that they add up to the fleet's total, none by a unit.",
        "'+ ?' says that part of an amount is unknown: unknown is not 0.",
    ]
