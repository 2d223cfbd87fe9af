"""One period under several policies, side by side. Pure."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.units import CENTS, minor_digits
from costtrace.reports.output.tables import AnyTable, Column, Row, Table, Value, text
from costtrace_statements.settlement import Settlement
from costtrace_statements.statement import name_period, name_rest, used_table
from costtrace_statements.statement_columns import shown_cents


class Cost(NamedTuple):
    """A cost, exact and in the currency's smallest unit."""

    nano: int = 0
    cents: int = 0


class PolicyLine(NamedTuple):
    """A tenant, a rest or the total: its cost in one currency under each policy."""

    name: str
    currency: str
    base: str
    """The policy that the others are compared with."""
    costs: Mapping[str, Cost]
    """By policy."""


def compare(settlements: Mapping[str, Settlement], base: str) -> list[PolicyLine]:
    """One line for each tenant, rest and currency whose cost is known under any policy; the total last."""
    keys: dict[tuple[int, str, str], dict[str, Cost]] = {}
    for policy, settlement in settlements.items():
        for line in settlement.lines:
            place, name = (0, line.tenant) if line.tenant else (1, name_rest(line))
            for key in ((place, name, line.currency), (2, "total", line.currency)):
                costs = keys.setdefault(key, {})
                if line.pot.cost_nano is not None and line.cost_cents is not None:
                    so_far = costs.get(policy, Cost())
                    costs[policy] = Cost(so_far.nano + line.pot.cost_nano, so_far.cents + line.cost_cents)
    return [
        PolicyLine(name, currency, base, {policy: costs.get(policy, Cost()) for policy in settlements})
        for (_, name, currency), costs in sorted(keys.items())
        if costs
    ]


def whatif_tables(lines: Sequence[PolicyLine], settlement: Settlement) -> list[AnyTable]:
    """The comparison, and where the device time went (the same under every policy)."""
    columns: list[Column[PolicyLine]] = [text("", lambda line: line.name)]
    columns += [_cost_column(policy) for policy in (lines[0].costs if lines else ())]
    base = lines[0].base if lines else ""
    note = f"In brackets: the difference to `{base}`. Every column adds up to the same total."
    title = f"Cost under each policy, {name_period(settlement)}"
    return [Table("policies", title, columns, lines, _exact, (note,)), used_table(settlement)]


def _cost_column(policy: str) -> Column[PolicyLine]:
    def show(line: PolicyLine) -> str:
        cents = line.costs[policy].cents
        shown = shown_cents(cents, line.currency)
        if policy == line.base:
            return shown
        return f"{shown} ({shown_cents(cents - line.costs[line.base].cents, line.currency, named=False)})"

    return Column(policy, show)


def _exact(line: PolicyLine) -> Row:
    row: dict[str, Value] = {"what": line.name, "currency": line.currency, "compared_with": line.base}
    digits = minor_digits(line.currency)
    for policy, cost in line.costs.items():
        row[f"{policy}_cost_nano"] = cost.nano
        row[f"{policy}_cost_cents"] = cost.cents if digits == CENTS else None
        row[f"{policy}_cost_rounded"] = Decimal(cost.cents).scaleb(-digits)
    return row
