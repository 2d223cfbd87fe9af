"""A provider's bill in FOCUS form as the origin: what it charged in a period, and what differs. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from costtrace.core.errors import CosttraceError
from costtrace.core.numbers import exact
from costtrace.core.wall_time import wall_ns
from costtrace.ledger.answers import Period
from costtrace.reports.statements.idle_policies import Pot
from costtrace.reports.statements.settlement import Settlement, SettlementInput, SettlementLine, Tie, pot_of

COST_COLUMNS = ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost")


class Bill(NamedTuple):
    """What a provider charged in a period."""

    nano: dict[str, int]
    """By currency; rounded half to even once, from the exact sum."""
    rows: int
    skipped: int
    """Rows of other periods, or that the conditions leave out."""


def read_bill(
    rows: Iterable[Mapping[str, object]], period: Period, column: str, where: Sequence[tuple[str, str]]
) -> Bill:
    """Sum a FOCUS file's *column* over the rows whose charge begins in *period* and that meet *where*.

    Raises: CosttraceError, naming the row.
    """
    sums: dict[str, Decimal] = defaultdict(Decimal)
    used = skipped = 0
    for number, row in enumerate(rows, 1):
        if missing := [name for name in (column, "BillingCurrency", "ChargePeriodStart") if name not in row]:
            raise CosttraceError(f"the bill has no column {missing[0]}: is it a FOCUS Cost and Usage file?")
        for name, _ in where:
            if name not in row:
                raise CosttraceError(f"the bill has no column {name}, which a condition names")
        begin_ns = _begins(number, row["ChargePeriodStart"])
        chosen = all(str(row[name]) == value for name, value in where)
        if not chosen or not period.since_ns <= begin_ns < period.until_ns:
            skipped += 1
            continue
        sums[str(row["BillingCurrency"])] += _cost(number, column, row[column])
        used += 1
    if not used:
        raise CosttraceError("the bill has no row in this period that meets the conditions")
    nano = {
        currency: int(whole.scaleb(9).to_integral_value(ROUND_HALF_EVEN)) for currency, whole in sorted(sums.items())
    }
    return Bill(nano, used, skipped)


def differences(inputs: SettlementInput, bill: Bill) -> list[SettlementLine]:
    """One line for each currency: the bill less what was rated. Raises: CosttraceError for a currency of one only."""
    rated: dict[str, int] = defaultdict(int)
    for row in inputs.totals:
        if row.currency:
            rated[row.currency] += pot_of(row).cost_nano or 0
    for currency in rated:
        if currency not in bill.nano:
            raise CosttraceError(
                f"the ledger has charges in {currency}, the bill has none: give the bill of that currency too"
            )
    return [
        SettlementLine("", "", "", "", "difference", "bill less rated", currency, Pot(cost_nano=nano - rated[currency]))
        for currency, nano in bill.nano.items()
    ]


def with_bill_ties(settlement: Settlement, bill: Bill) -> Settlement:
    """*settlement* with one more tie for each currency: all its lines against the bill."""
    ties = [
        Tie(
            f"the provider's bill, nano-{currency}",
            sum(line.pot.cost_nano or 0 for line in settlement.lines if line.currency == currency),
            nano,
        )
        for currency, nano in bill.nano.items()
    ]
    return settlement._replace(ties=[*settlement.ties, *ties])


def _begins(number: int, value: object) -> int:
    try:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise CosttraceError(f"row {number} of the bill: ChargePeriodStart is no time: {value!r}") from None
    if at.tzinfo is None:
        raise CosttraceError(f"row {number} of the bill: ChargePeriodStart says no time zone: {value!r}")
    return wall_ns(at)


def _cost(number: int, column: str, value: object) -> Decimal:
    cost = exact(str(value))
    if cost is None:
        raise CosttraceError(f"row {number} of the bill: {column} is no number: {value!r}")
    return cost
