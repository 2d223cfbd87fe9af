"""Return on investment: a calculator over a few named assumptions, in exact arithmetic.

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
    """The calculator's inputs, with the published claim's values as defaults."""

    purchase_price: Decimal = Decimal(5_000_000)
    gpus: int = 72
    per_gpu_hour: Decimal = Decimal("2.21")
    """All-in cost of a GPU-hour: purchase, site, power, staff."""
    tokens_per_s: Decimal = Decimal(289_712)
    """Of all GPUs together while busy, in tokens of the basis that the price is for."""
    price_per_million: Decimal = Decimal("2.05")
    years: int = 4
    utilisation: Decimal = Decimal(1)
    """Part of the time in which that throughput is sold, 0 to 1."""
    price_decline: Decimal = Decimal(0)
    """Yearly fall of the price of a token, 0 to 1."""


class Return(NamedTuple):
    """The calculator's results."""

    tokens: Fraction
    revenue: Fraction
    total_cost: Fraction
    over_purchase_price: Fraction | None
    over_total_cost: Fraction | None
    cost_per_million: Fraction | None
    margin: Fraction
    """Revenue less total cost."""


def tokens_sold(tokens_per_s: Fraction, years: Fraction, utilisation: Fraction) -> Fraction:
    """Tokens sold in *years* of 365.25 days."""
    return tokens_per_s * years * SECONDS_PER_YEAR * utilisation


def compute(inputs: Assumptions) -> Return:
    """Compute the return. A ratio with denominator 0 is None."""
    yearly = tokens_sold(Fraction(inputs.tokens_per_s), Fraction(1), Fraction(inputs.utilisation))
    kept = 1 - Fraction(inputs.price_decline)
    revenue = sum(
        (yearly * Fraction(inputs.price_per_million) / 1_000_000 * kept**y for y in range(inputs.years)),
        Fraction(0),
    )
    tokens = yearly * inputs.years
    total = Fraction(inputs.per_gpu_hour) * inputs.gpus * HOURS_PER_YEAR * inputs.years
    return Return(
        tokens,
        revenue,
        total,
        revenue / Fraction(inputs.purchase_price) if inputs.purchase_price else None,
        revenue / total if total else None,
        total * 1_000_000 / tokens if tokens else None,
        revenue - total,
    )
