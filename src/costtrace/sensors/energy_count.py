"""From what a sensor shows to a count of energy that can be trusted. Pure; integers throughout.

A count only grows. Where it cannot be continued (a counter that fell, samples too far apart, a device that was away)
the next value carries the fault ``reset``: what was drawn in between is unknown, never negative and never guessed.
"""

from collections.abc import Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.units import NS_PER_S

MAX_GAP_NS = 5 * NS_PER_S // 2
"""Power samples further apart than this are not joined: what was drawn between them is unknown."""
FROZEN_NS = 3 * NS_PER_S
"""A device that draws power moves its counter at least this often; one that does not is stuck."""
BREAKS = frozenset({"lost", "gone", "driver"})
"""Faults after which a counter may have begun anew, even if it shows more than before."""
RESET = "reset"
_DOUBLE_PJ_PER_UJ = 2 * 10**6


class Counted(NamedTuple):
    """A value of the count, or why there is none. With a value, ``reset`` is the only fault."""

    energy_uj: int | None
    fault: str = ""


class Gain:
    """A declared correction factor, applied exactly.

    The gained count is the floor of the exact product, so that differences of it are within 1 uJ of exact and add up.
    """

    def __init__(self, text: str = "1") -> None:
        self.text = text
        self._factor = Fraction(Decimal(text))

    def energy(self, raw: int, per_uj: int = 1) -> int:
        """Microjoules of *raw*, which counts parts of a microjoule of which *per_uj* make one."""
        return raw * self._factor.numerator // (self._factor.denominator * per_uj)

    def power(self, mw: int) -> int:
        """Milliwatts, rounded."""
        return round(mw * self._factor)


def gain_of(gains: Mapping[str, str], uuid: str, name: str) -> Gain:
    """The gain that is declared for a device: by its UUID, else by the first pattern that fits its name."""
    if uuid in gains:
        return Gain(gains[uuid])
    return Gain(next((gain for pattern, gain in gains.items() if fnmatchcase(name, pattern)), "1"))


class CounterTrack:
    """A device's own energy counter."""

    def __init__(self, gain: Gain) -> None:
        self._gain = gain
        self._last = -1
        self._moved_ns = 0
        self._fell = self._broken = self._frozen = False

    def take(self, at_ns: int, raw_uj: int, power_mw: int | None = None) -> Counted:
        """The counter showed *raw_uj* at *at_ns*, while the device drew *power_mw* (None: not known)."""
        if 0 <= raw_uj < self._last and not self._fell and not self._broken:
            # Some drivers show a 0 now and then when asked often: it has fallen if it says so twice.
            self._fell = True
            return Counted(None, "fell")
        anew = self._broken or raw_uj < self._last
        moved = raw_uj != self._last
        self._fell = self._broken = False
        self._last = raw_uj
        if moved or anew:
            anew, self._frozen = anew or self._frozen, False
            self._moved_ns = at_ns
        elif at_ns - self._moved_ns > FROZEN_NS and power_mw != 0:
            # Whether it will catch up or has lost what it did not count, nobody knows: it then begins anew.
            self._frozen = True
            return Counted(None, "frozen")
        return Counted(self._gain.energy(raw_uj), RESET if anew else "")

    def fail(self, fault: str) -> None:
        """It could not be read."""
        self._broken = self._broken or (fault in BREAKS and self._last >= 0)


class PowerTrack:
    """Energy integrated by us from samples of power (trapezoids), where a device has no counter."""

    def __init__(self, gain: Gain) -> None:
        self._gain = gain
        self._double_pj = 0
        self._last: tuple[int, int] | None = None

    def take(self, at_ns: int, power_mw: int) -> Counted:
        """The device drew *power_mw* at *at_ns*."""
        last, fault = self._last, RESET
        if last is not None and at_ns <= last[0]:
            return Counted(self._energy_uj())
        self._last = (at_ns, power_mw)
        if last is not None and at_ns - last[0] <= MAX_GAP_NS:
            self._double_pj += (power_mw + last[1]) * (at_ns - last[0])
            fault = ""
        return Counted(self._energy_uj(), fault)

    def fail(self, _fault: str) -> None:
        """It could not be read: nothing is integrated over that."""
        self._last = None

    def _energy_uj(self) -> int:
        return self._gain.energy(self._double_pj, _DOUBLE_PJ_PER_UJ)


class Shares:
    """A board's count split over its MIG instances by fixed parts, so that the instances add up to the board."""

    def __init__(self, parts: Mapping[str, Fraction]) -> None:
        self._bounds: list[tuple[str, Fraction]] = []
        total = Fraction(0)
        for uuid, part in parts.items():
            total += part
            self._bounds.append((uuid, total))
        if parts and total != 1:
            raise ValueError(f"the parts of a board add up to {total}, not to 1")
        self._board_uj = 0
        self._shares = dict.fromkeys(parts, 0)

    def split(self, board_uj: int) -> dict[str, int]:
        """Return each instance's part of the count."""
        # A step of less than this could take a microjoule from one instance to give it to another.
        if not 0 <= board_uj - self._board_uj < 2 * len(self._bounds) ** 2:
            below = 0
            for uuid, bound in self._bounds:
                upto = board_uj * bound.numerator // bound.denominator
                self._shares[uuid] = upto - below
                below = upto
            self._board_uj = board_uj
        return dict(self._shares)
