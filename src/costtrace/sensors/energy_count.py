"""From a sensor's values to a count of energy whose differences can be billed. Pure; integers throughout.

A count only grows. Where it cannot be continued (a counter that fell, samples too far apart, a device that was away)
the next value has the fault ``reset``: what was drawn in between is unknown, never negative and never guessed.
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
"""A device that draws power renews its counter at least this often; otherwise the counter is stuck."""
BREAKS = frozenset({"lost", "gone", "driver"})
"""Faults after which a counter may have restarted, even if it shows more than before."""
RESET = "reset"
_TWICE_PJ_PER_UJ = 2 * 10**6


class Counted(NamedTuple):
    """A value of the count (uJ), or why there is none. With a value, ``reset`` is the only fault."""

    energy_uj: int | None
    fault: str = ""


class Gain:
    """A declared correction factor. Raises: decimal.InvalidOperation.

    The corrected count is the floor of the exact product: its differences are within 1 uJ of exact, and add up.
    """

    def __init__(self, text: str = "1") -> None:
        self.text = text
        self._factor = Fraction(Decimal(text))

    def energy(self, raw: int, per_uj: int = 1) -> int:
        """Corrected microjoules of *raw*, a count in units of 1/*per_uj* uJ."""
        return raw * self._factor.numerator // (self._factor.denominator * per_uj)

    def power(self, mw: int) -> int:
        """Corrected milliwatts, rounded."""
        return round(mw * self._factor)


def gain_of(gains: Mapping[str, str], uuid: str, name: str) -> Gain:
    """The declared gain of a device: by its UUID, else by the first pattern that fits its name, else 1."""
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
            # Some drivers show a 0 now and then when asked often: only a second lower value counts as a fall.
            self._fell = True
            return Counted(None, "fell")
        restarted = self._broken or raw_uj < self._last
        moved = raw_uj != self._last
        self._fell = self._broken = False
        self._last = raw_uj
        if moved or restarted:
            restarted, self._frozen = restarted or self._frozen, False
            self._moved_ns = at_ns
        elif at_ns - self._moved_ns > FROZEN_NS and power_mw != 0:
            # It may catch up, or have lost what it did not count: when it moves again the count is reset.
            self._frozen = True
            return Counted(None, "frozen")
        return Counted(self._gain.energy(raw_uj), RESET if restarted else "")

    def fail(self, fault: str) -> None:
        """The counter could not be read, for this reason."""
        self._broken = self._broken or (fault in BREAKS and self._last >= 0)


class PowerTrack:
    """The energy of a device without a counter, integrated from samples of its power (trapezoids)."""

    def __init__(self, gain: Gain) -> None:
        self._gain = gain
        self._twice_pj = 0
        """Twice the picojoules: a trapezoid's area is then whole."""
        self._last: tuple[int, int] | None = None

    def take(self, at_ns: int, power_mw: int) -> Counted:
        """The device drew *power_mw* at *at_ns*."""
        last, fault = self._last, RESET
        if last is not None and at_ns <= last[0]:
            return Counted(self._energy_uj())
        self._last = (at_ns, power_mw)
        if last is not None and at_ns - last[0] <= MAX_GAP_NS:
            self._twice_pj += (power_mw + last[1]) * (at_ns - last[0])
            fault = ""
        return Counted(self._energy_uj(), fault)

    def fail(self, _fault: str) -> None:
        """The power could not be read: the interval is not integrated."""
        self._last = None

    def _energy_uj(self) -> int:
        return self._gain.energy(self._twice_pj, _TWICE_PJ_PER_UJ)


class Shares:
    """Splits a board's count over its MIG instances by fixed parts, so that the instances add up to the board.

    Raises: ValueError (the parts do not add up to 1).
    """

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
        """Each instance's part of the count."""
        # A smaller increase could lower one instance's count by a microjoule: then the counts stay as they are.
        if not 0 <= board_uj - self._board_uj < 2 * len(self._bounds) ** 2:
            below = 0
            for uuid, bound in self._bounds:
                upto = board_uj * bound.numerator // bound.denominator
                self._shares[uuid] = upto - below
                below = upto
            self._board_uj = board_uj
        return dict(self._shares)
