"""Budgets: what may be spent, what was, and where it is going. Pure.

The forecast of a period's end is what was spent plus the mean day times the days that are left. Its interval takes
the days as independent draws of one distribution: half-width = 1.96 x s x sqrt(r + r^2 / k), with s the standard
deviation of the k whole days so far and r the days left (the second term is the uncertainty of the mean itself).

When it is wrong: weekends, trends and jumps are no independent draws. With fewer than three whole days there is none.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

LEAST_DAYS = 3
_TWO_SIDED_95 = 1.96
OK, SOFT, HARD, UNKNOWN = "ok", "soft", "hard", "unknown"


class Budget(NamedTuple):
    """What a tenant may spend. Money in nano-units of the currency."""

    name: str
    amount_nano: int
    currency: str
    tenant: str | None = None
    """None: all tenants together; likewise `model`."""
    model: str | None = None
    period: str = "month"
    """``day``, ``month`` or ``year`` of the calendar; '' where it is rolling."""
    rolling_days: int = 0
    soft_percent: int = 80
    hard_percent: int = 100


class BudgetStatus(NamedTuple):
    """A budget at a moment."""

    budget: Budget
    since_ns: int
    until_ns: int
    spent_nano: int
    unknown_ns: int
    """Device time whose cost is not known: what was spent may be more."""
    forecast_nano: int | None
    """At the end of the period; None where it cannot be said. `low_nano` and `high_nano` hold it in 19 of 20 cases."""
    low_nano: int | None
    high_nano: int | None

    @property
    def state(self) -> str:
        """``hard`` and ``soft`` where that much is spent. ``unknown`` where it is not, but some cost is unknown."""
        spent = self.spent_nano * 100
        if spent >= self.budget.amount_nano * self.budget.hard_percent:
            return HARD
        if spent >= self.budget.amount_nano * self.budget.soft_percent:
            return SOFT
        return UNKNOWN if self.unknown_ns else OK


def stand(
    budget: Budget, bounds: tuple[int, int], now_ns: int, spent_by_day: Mapping[int, int], unknown_ns: int, day_ns: int
) -> BudgetStatus:
    """Where *budget* stands. *spent_by_day*: nano-units by the beginning of each day (wall ns) within *bounds*."""
    since_ns, until_ns = bounds
    spent = sum(spent_by_day.values())
    forecast: tuple[int, int, int] | tuple[None, None, None] = (None, None, None)
    if not budget.rolling_days:
        days = range(since_ns, min(now_ns, until_ns) - day_ns + 1, day_ns)
        whole = [spent_by_day.get(day, 0) for day in days]
        forecast = _forecast(spent, whole, max(0, until_ns - now_ns) / day_ns)
    return BudgetStatus(budget, since_ns, until_ns, spent, unknown_ns, *forecast)


def _forecast(spent: int, days: Sequence[int], left: float) -> tuple[int, int, int] | tuple[None, None, None]:
    if not left:
        return spent, spent, spent
    if len(days) < LEAST_DAYS:
        return None, None, None
    middle = spent + fmean(days) * left
    half = _TWO_SIDED_95 * stdev(days) * sqrt(left + left * left / len(days))
    return round(middle), max(spent, round(middle - half)), round(middle + half)
