"""The status of a budget by a ledger."""

from collections import defaultdict
from datetime import UTC

from costtrace.core.errors import ConfigError
from costtrace.core.units import NS_PER_HOUR
from costtrace.core.wall_time import moment
from costtrace.ledger.answers import Period
from costtrace.ledger.budgets.budget import Budget, BudgetStatus, status_at
from costtrace.ledger.periods.close import parse_period
from costtrace.ledger.queries import used
from costtrace.ledger.reader import Filter, Store

DAY_NS = 24 * NS_PER_HOUR
_FORMS = {"day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}


def budget_status(store: Store, budget: Budget, now_ns: int) -> BudgetStatus:
    """What is spent of *budget* in the period of *now_ns* (wall): the cost of requests, adjustments included.

    Raises: LedgerError, ConfigError (the ledger has such costs in another currency).
    """
    if budget.rolling_days:
        period = Period(now_ns - budget.rolling_days * DAY_NS, now_ns)
    else:
        period = parse_period(moment(now_ns).strftime(_FORMS[budget.period]), UTC)
    by_day: defaultdict[int, int] = defaultdict(int)
    unknown_ns = 0
    for row in used(store, period, ("day",), Filter(budget.tenant, budget.model)):
        if row.kind != "request":
            continue
        if row.device_nano is None or row.energy_nano is None:
            unknown_ns += row.gpu_ns
        elif row.currency == budget.currency:
            by_day[int(row.keys[0]) // DAY_NS * DAY_NS] += row.device_nano + row.energy_nano
        else:
            raise ConfigError(f"budget {budget.name} is in {budget.currency}, and costs of it are in {row.currency}")
    return status_at(budget, period, now_ns, by_day, unknown_ns, DAY_NS)
