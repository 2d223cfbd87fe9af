"""The budgets file (YAML).

currency: USD
budgets:
  - name: acme-november     # names must differ
    tenant: acme            # left out: all tenants together; likewise model
    model: llama-3.3-70b
    amount: 5000
    period: month           # day, month or year (UTC); or instead: rolling_days: 30
    soft_percent: 80        # optional, as is hard_percent: 100
"""

from decimal import Decimal
from pathlib import Path

from costtrace.config.yaml_fields import Fields
from costtrace.config.yaml_file import load_mapping
from costtrace.core.errors import ConfigError, PriceBookError
from costtrace.core.units import NANO_PER_UNIT, minor_digits
from costtrace.ledger.budgets.budget import Budget

PERIODS = ("day", "month", "year")
_FIELDS = ("name", "tenant", "model", "amount", "period", "rolling_days", "soft_percent", "hard_percent")


def load_budgets(path: Path) -> list[Budget]:
    """Read all budgets of the file. Raises: ConfigError."""
    raw = load_mapping(path, ConfigError, "the budgets file")
    try:
        fields = Fields(raw, str(path), ("currency", "budgets"))
        currency = fields.currency()
        budgets = [_budget(entry, currency) for entry in fields.entries("budgets", _FIELDS)]
        names = [budget.name for budget in budgets]
        if len(set(names)) != len(names):
            raise fields.wrong("budgets", "have a name twice")
    except PriceBookError as error:
        raise ConfigError(str(error)) from error
    return budgets


def _budget(fields: Fields, currency: str) -> Budget:
    rolling = fields.whole("rolling_days", "", most=3_660) if fields.has("rolling_days") else 0
    period = fields.choice("period", PERIODS)
    if rolling and period:
        raise fields.wrong("period", "and rolling_days exclude each other")
    soft, hard = (
        fields.whole(name, "", most=1_000) if fields.has(name) else default
        for name, default in (("soft_percent", 80), ("hard_percent", 100))
    )
    if soft > hard:
        raise fields.wrong("soft_percent", "is above hard_percent")
    least = Decimal(1).scaleb(-minor_digits(currency))
    amount = fields.number("amount", "what may be spent, as in: amount: 5000", least=least)
    return Budget(
        name=fields.text("name", "a name, as in: name: acme-november"),
        amount_nano=round(amount * NANO_PER_UNIT),
        currency=currency,
        tenant=fields.text("tenant") or None,
        model=fields.text("model") or None,
        period="" if rolling else period or "month",
        rolling_days=rolling,
        soft_percent=soft,
        hard_percent=hard,
    )
