"""Internal list prices: what tenants who are billed by price pay per million tokens of a model. Pure.

    price = (input - cached) x per_million_input + cached x per_million_cached + output x per_million_output

Price, cost and margin (price - cost) are shown beside each other; a price is never used as a cost.
"""

from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from costtrace.core.units import NANO_PER_UNIT, TOKENS_PER_MILLION


class ListPrice(NamedTuple):
    """One dated list price of models. Times are wall ns since the epoch."""

    match: str
    """Model name, or a pattern with ``*`` and ``?``; without regard to case."""
    per_million_input: Decimal
    per_million_output: Decimal
    from_ns: int
    until_ns: int | None = None
    per_million_cached: Decimal | None = None
    """None: a cached input token costs what any input token costs."""
    source: str = ""
    tier: str = ""
    kind: str = "model"

    @property
    def name(self) -> str:
        """What messages call this entry."""
        return f"the list price of {self.match}"

    def exact(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> Fraction:
        """The price of a number of tokens in nano-units, exact. *cached_tokens* are among *input_tokens*."""
        cached = self.per_million_input if self.per_million_cached is None else self.per_million_cached
        units = (
            (input_tokens - cached_tokens) * Fraction(self.per_million_input)
            + cached_tokens * Fraction(cached)
            + output_tokens * Fraction(self.per_million_output)
        )
        return units * NANO_PER_UNIT / TOKENS_PER_MILLION


def cuts(prices: Iterable[ListPrice], since_ns: int, until_ns: int) -> list[tuple[int, int]]:
    """Cut a period wherever a list price begins or ends: within each piece one price holds for each model."""
    bounds = {since_ns, until_ns}
    for price in prices:
        bounds |= {at for at in (price.from_ns, price.until_ns) if at is not None and since_ns < at < until_ns}
    ordered = sorted(bounds)
    return list(pairwise(ordered))
