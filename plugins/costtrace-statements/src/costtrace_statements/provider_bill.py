"""A provider's bill in FOCUS form as the origin: what it charged in a period, and what differs. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.errors import CosttraceError
from costtrace.core.numbers import exact
from costtrace.core.units import NANO_PER_UNIT
from costtrace.core.wall_time import wall_ns
from costtrace.ledger.answers import Period
from costtrace_statements.idle_policies import Pot
from costtrace_statements.settlement import Settlement, SettlementInput, SettlementLine, Tie, pot_of

COST_COLUMNS = ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost")
MOST = 10**15
"""Currency units; no row of a bill is near it."""


class BillRow(dict[str, object]):
    """A row of a bill that knows where it is: its file, and its line there."""

    def __init__(self, cells: Mapping[str, object], where: str) -> None:
        super().__init__(cells)
        self.where = where


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
    sums: dict[str, Fraction] = defaultdict(Fraction)
    used = skipped = 0
    for number, row in enumerate(rows, 1):
        at = row.where if isinstance(row, BillRow) else f"row {number} of the bill"
        if missing := [name for name in (column, "BillingCurrency", "ChargePeriodStart") if name not in row]:
            raise CosttraceError(f"{at}: the bill has no column {missing[0]}: is it a FOCUS Cost and Usage file?")
        for name, _ in where:
            if name not in row:
                raise CosttraceError(f"{at}: the bill has no column {name}, which a condition names")
        begin_ns = _begins(at, row["ChargePeriodStart"])
        chosen = all(str(row[name]) == value for name, value in where)
        if not chosen or not period.since_ns <= begin_ns < period.until_ns:
            skipped += 1
            continue
        currency = str(row["BillingCurrency"])
        if not (len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()):
            raise CosttraceError(f"{at}: BillingCurrency is no currency: {currency!r}. FOCUS has ISO 4217, as in: USD")
        sums[currency] += _cost(at, column, row[column])
        used += 1
    if not used:
        raise CosttraceError("the bill has no row in this period that meets the conditions")
    return Bill({currency: round(whole * NANO_PER_UNIT) for currency, whole in sorted(sums.items())}, used, skipped)


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


def _begins(where: str, value: object) -> int:
    try:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        form = "FOCUS has: 2026-11-01T00:00:00Z"
        raise CosttraceError(f"{where}: ChargePeriodStart is no time: {value!r:.100}. {form}") from None
    if at.tzinfo is None:
        raise CosttraceError(f"{where}: ChargePeriodStart says no time zone: {value!r}")
    return wall_ns(at)


def _cost(where: str, column: str, value: object) -> Fraction:
    cost = exact(str(value))
    if cost is None:
        raise CosttraceError(
            f"{where}: {column} is no number: {value!r:.100}. FOCUS has a decimal point, as in: 1234.5"
        )
    if abs(cost) > MOST:
        raise CosttraceError(f"{where}: {column} is no amount of a bill: {value!r:.100}. Is it a FOCUS file?")
    return Fraction(cost)
