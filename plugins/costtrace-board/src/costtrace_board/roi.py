"""Return on investment as a calculator: a few assumptions, each named, and what they come to. Exact.

revenue of year y = tokens sold in a year x price x (1 - decline)^y        (y from 0)
over purchase price = revenue / purchase price        over total cost = revenue / total cost
"""

from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

HOURS_PER_YEAR = 8_766
"""365.25 days."""
SECONDS_PER_YEAR = HOURS_PER_YEAR * 3_600


class Assumptions(NamedTuple):
    """What a return depends on."""

    purchase_price: Decimal = Decimal(5_000_000)
    gpus: int = 72
    per_gpu_hour: Decimal = Decimal("2.21")
    """All-in cost of a GPU-hour: purchase, site, power, staff."""
    tokens_per_s: Decimal = Decimal(289_712)
    """Of all GPUs together, of the token basis that the price is for, while they are busy."""
    price_per_million: Decimal = Decimal("2.05")
    years: int = 4
    utilisation: Decimal = Decimal(1)
    """Part of the time in which that throughput is sold."""
    price_decline: Decimal = Decimal(0)
    """Yearly fall of the price of a token, 0 to 1."""


class Return(NamedTuple):
    """What the assumptions come to."""

    tokens: Fraction
    revenue: Fraction
    total_cost: Fraction
    over_purchase_price: Fraction | None
    over_total_cost: Fraction | None
    cost_per_million: Fraction | None
    margin: Fraction
    """Revenue less total cost."""


def tokens_sold(tokens_per_s: Fraction, years: Fraction, utilisation: Fraction) -> Fraction:
    """Tokens in so many years of 365.25 days."""
    return tokens_per_s * years * SECONDS_PER_YEAR * utilisation


def compute(given: Assumptions) -> Return:
    """Work the calculator. A ratio over nothing is None."""
    yearly = tokens_sold(Fraction(given.tokens_per_s), Fraction(1), Fraction(given.utilisation))
    kept = 1 - Fraction(given.price_decline)
    revenue = sum(
        (yearly * Fraction(given.price_per_million) / 1_000_000 * kept**y for y in range(given.years)), Fraction(0)
    )
    tokens = yearly * given.years
    total = Fraction(given.per_gpu_hour) * given.gpus * HOURS_PER_YEAR * given.years
    return Return(
        tokens,
        revenue,
        total,
        revenue / Fraction(given.purchase_price) if given.purchase_price else None,
        revenue / total if total else None,
        total * 1_000_000 / tokens if tokens else None,
        revenue - total,
    )
