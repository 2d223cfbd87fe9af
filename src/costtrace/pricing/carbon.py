"""Carbon of electricity: grams of CO2e from joules and the grid's intensity at that time. Pure; `carbon_file` reads it.

    grams = energy * PUE * intensity(time) / 3.6 MJ

It is an estimate: operational, location-based, of the metered devices only. Hosts, networks, storage and the making of
all of them are not in it, and an average intensity does not tell what one more request causes.
"""

from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.units import UJ_PER_KWH

UG_PER_G = 1_000_000


class Intensity(NamedTuple):
    """Intensity of a grid from a time on, until the next point."""

    from_ns: int
    grams_per_kwh: Decimal


class CarbonIntensity:
    """Grams of CO2e per kWh over time. *points* are in the order of their times."""

    def __init__(self, points: Sequence[Intensity], *, pue: Decimal = Decimal(1), source: str = "") -> None:
        self.points = tuple(points)
        self.pue = pue
        self.source = source
        self._times = [point.from_ns for point in points]

    @property
    def method(self) -> str:
        """How an estimate by it is made: a text to show with the figure."""
        return f"estimate: operational, location-based, devices only; {self.source}; PUE {self.pue}"

    def at(self, wall_ns: int) -> Decimal | None:
        """Grams per kWh at a time; None before the first point."""
        place = bisect_right(self._times, wall_ns)
        return self.points[place - 1].grams_per_kwh if place else None

    def micrograms(self, energy_uj: int, wall_ns: int) -> Fraction | None:
        """CO2e of an energy that was drawn at a time, exact; None where the intensity is not known."""
        grams_per_kwh = self.at(wall_ns)
        if grams_per_kwh is None:
            return None
        return Fraction(grams_per_kwh) * Fraction(self.pue) * energy_uj * UG_PER_G / UJ_PER_KWH


def request_ug(
    intensity: CarbonIntensity | None, energy_uj: int | None, energy_unknown_ns: int, ended_ns: int
) -> int | None:
    """CO2e of a request in micrograms, by the intensity when it ended.

    None where the intensity is not set or not known, and where any of its energy is not known: a part would look like
    the whole.
    """
    if intensity is None or energy_uj is None or energy_unknown_ns > 0:
        return None
    exact_ug = intensity.micrograms(energy_uj, ended_ns)
    return None if exact_ug is None else round(exact_ug)


def show_grams(ug: int | None, *, simulated: bool = False) -> str:
    """A mass for people: ``12.3 mg``, ``4.560 g``, ``7.890 kg``; ``unknown``."""
    if ug is None:
        return "unknown"
    label = " SIMULATED" if simulated else ""
    if ug < UG_PER_G:
        return f"{ug / 1_000:.3f} mg{label}"
    return f"{ug / UG_PER_G:.3f} g{label}" if ug < 1_000 * UG_PER_G else f"{ug / UG_PER_G / 1_000:.3f} kg{label}"
