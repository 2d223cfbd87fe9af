"""A budget, what is spent of it, and a forecast of what will be at the end of its period. Pure.

The forecast is what was spent plus the mean day times the days that are left. Its interval takes days as independent
draws of one distribution: half-width = 1.96 x s x sqrt(r + r^2 / k), with s the standard deviation of the k whole days
so far and r the days left (the second term is the uncertainty of the mean).

When it is wrong: with weekends, trends and jumps, days are not independent draws. With fewer than three whole days
there is no forecast.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

LEAST_DAYS = 3
"""Whole days that a forecast needs."""
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
    """``day``, ``month`` or ``year`` of the calendar (UTC); '' where it is rolling."""
    rolling_days: int = 0
    """The budget is for this many days up to now; 0: for a calendar period."""
    soft_percent: int = 80
    hard_percent: int = 100


class BudgetStatus(NamedTuple):
    """A budget at one moment. Times are wall ns, money is in nano-units of the budget's currency."""

    budget: Budget
    since_ns: int
    until_ns: int
    spent_nano: int
    unknown_ns: int
    """Device time whose cost is unknown: more than `spent_nano` may be spent."""
    forecast_nano: int | None
    """At the end of the period, in 19 of 20 cases from `low_nano` to `high_nano`. None: too few days, or rolling."""
    low_nano: int | None
    high_nano: int | None

    @property
    def state(self) -> str:
        """``hard`` or ``soft`` where that limit is reached, else ``unknown`` if some cost is unknown, else ``ok``."""
        spent = self.spent_nano * 100
        if spent >= self.budget.amount_nano * self.budget.hard_percent:
            return HARD
        if spent >= self.budget.amount_nano * self.budget.soft_percent:
            return SOFT
        return UNKNOWN if self.unknown_ns else OK


def status_at(
    budget: Budget, bounds: tuple[int, int], now_ns: int, spent_by_day: Mapping[int, int], unknown_ns: int, day_ns: int
) -> BudgetStatus:
    """The status of *budget* at *now_ns*. *spent_by_day*: nano-units by the wall ns at which each day begins."""
    since_ns, until_ns = bounds
    spent = sum(spent_by_day.values())
    forecast: tuple[int, int, int] | tuple[None, None, None] = (None, None, None)
    if not budget.rolling_days:
        days = range(since_ns, min(now_ns, until_ns) - day_ns + 1, day_ns)
        whole_days = [spent_by_day.get(day, 0) for day in days]
        forecast = _forecast(spent, whole_days, max(0, until_ns - now_ns) / day_ns)
    return BudgetStatus(budget, since_ns, until_ns, spent, unknown_ns, *forecast)


def _forecast(spent: int, days: Sequence[int], days_left: float) -> tuple[int, int, int] | tuple[None, None, None]:
    """Forecast, low and high end of its interval. *days*: what was spent on each whole day."""
    if not days_left:
        return spent, spent, spent
    if len(days) < LEAST_DAYS:
        return None, None, None
    forecast = spent + fmean(days) * days_left
    half_width = _TWO_SIDED_95 * stdev(days) * sqrt(days_left + days_left * days_left / len(days))
    return round(forecast), max(spent, round(forecast - half_width)), round(forecast + half_width)
