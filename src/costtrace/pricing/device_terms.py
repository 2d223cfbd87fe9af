"""What an hour of a device costs that has no price per hour: one that is owned, or one that is reserved. Pure.

    owned      per hour = (capital charge a year + support a year) / (8,760 h x utilisation) + facility per hour
               capital charge = (purchase - residual / (1 + i)^n) x i / (1 - (1 + i)^-n),  or (purchase - residual) / n
    reserved   per hour = per_gpu_hour + upfront / (8,760 h x term)

i is the cost of capital a year and n the life in whole years. The result is exact, then rounded to nano-units of the
currency an hour, half to even.

When it is wrong: every hour in which an engine has the device is billed, idle ones too. A utilisation below 1 is right
only if the device has no engine at all in some hours, and the others are to carry their cost.
"""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from typing import NamedTuple

HOURS_A_YEAR = 8_760
_NANO = Decimal("1e-9")


class Owned(NamedTuple):
    """A device that was bought. Money in units of the currency."""

    purchase: Decimal
    life_years: int
    residual: Decimal = Decimal(0)
    """What it will be sold for at the end of its life."""
    cost_of_capital: Decimal = Decimal(0)
    """Interest a year: 0.08 is 8 %."""
    utilisation: Decimal = Decimal(1)
    """Part of all hours in which engines have the device."""
    facility_per_hour: Decimal = Decimal(0)
    """Space, cooling and network, an hour."""
    support_per_year: Decimal = Decimal(0)

    def per_gpu_hour(self) -> Decimal:
        """What an hour costs, to the nano-unit."""
        interest, years = Fraction(self.cost_of_capital), self.life_years
        purchase, residual = Fraction(self.purchase), Fraction(self.residual)
        if interest:
            growth = (1 + interest) ** years
            capital = (purchase - residual / growth) * interest / (1 - 1 / growth)
        else:
            capital = (purchase - residual) / years
        hours = HOURS_A_YEAR * Fraction(self.utilisation)
        return _rounded((capital + Fraction(self.support_per_year)) / hours + Fraction(self.facility_per_hour))


class Reserved(NamedTuple):
    """A device that is paid for a term, used or not."""

    per_gpu_hour: Decimal
    """What each hour of the term costs on top of `upfront`."""
    upfront: Decimal
    term_years: int

    def hourly(self) -> Decimal:
        """What an hour of the term costs, to the nano-unit."""
        return _rounded(Fraction(self.per_gpu_hour) + Fraction(self.upfront) / (HOURS_A_YEAR * self.term_years))


def _rounded(exact: Fraction) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        quotient = Decimal(exact.numerator) / Decimal(exact.denominator)
        return quotient.quantize(_NANO, ROUND_HALF_EVEN)
