"""How often a sensor renews its value, found from the times at which it was read. Pure.

A read shows only whether the value has changed since the read before. Reads at irregular intervals cut the sensor's
time in many places: a period and a phase are right if an update is in every interval with a change and in none without.
The search goes from few intervals and coarse steps to many and fine ones.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from costtrace.core.sensor_phase import Phase
from costtrace.core.units import NS_PER_MS, NS_PER_S

KEEP = 192
"""Intervals that are searched at most."""
ENOUGH = 48
"""The fewest intervals for a search."""
LEAST_STILL = 4
"""Of these, the fewest in which the value did not change."""
FINE = 1 + 1e-4
"""The search ends when neighbouring periods differ by less than this factor."""
FIT = 0.97
"""A period must explain at least this share of the intervals."""
CLOSE = 1.01
"""If periods that fit equally well differ by more than this factor, none is taken."""
LONGEST_NS = NS_PER_S
EVERY_NS = 20 * NS_PER_S
"""A finder searches this often once it has found a period; until then less and less often."""
LONGEST_PATIENCE_NS = 600 * NS_PER_S
"""The longest time between two searches."""


class Interval(NamedTuple):
    """Two reads that follow each other, and whether the value differed."""

    from_ns: int
    to_ns: int
    changed: bool


class Period(NamedTuple):
    """A period with its best phase."""

    period_ns: int
    phase_ns: int
    """Time of the last update in the intervals; other updates are whole periods from it."""
    share: float
    """Share of the intervals that it explains."""


def find_period(intervals: Sequence[Interval], near_ns: int = 0) -> Period | None:
    """Find the update period. None: too few intervals, or no period explains them (it may be shorter than they are).

    *near_ns*: a period found before; only its neighbourhood is searched, which takes a tenth of the time.
    """
    intervals = intervals[-KEEP:]
    still = sorted(i.to_ns - i.from_ns for i in intervals if not i.changed)
    if len(intervals) < ENOUGH or len(still) < LEAST_STILL or len(still) == len(intervals):
        return None
    if near_ns:
        width, count = 1 + 2e-4, len(intervals)
        candidates = [near_ns * (1 + 2e-4 * step) for step in range(-4, 5)]
    else:
        width, count = 1.006, ENOUGH  # fine enough for the first intervals: the right phase is not stepped over
        candidates = _steps(still[-2] * 0.95, LONGEST_NS, width)
    while True:
        some = intervals[-count:]
        best = sorted((_fit(some, period) for period in candidates), key=lambda p: -p.share)
        best = best[: 40 if count < len(intervals) else 10]
        if count >= len(intervals) and width < FINE:
            break
        # Twice the time can distinguish periods that are half as far apart.
        count, width = min(2 * count, len(intervals)), 1 + (width - 1) / 2
        candidates = [p.period_ns * factor for p in best for factor in (1 / width, 1, width)]
    # Several neighbours fit equally well: the middle one has the smallest error.
    fits = sorted(p for p in best if p.share == best[0].share)
    if best[0].share < FIT or fits[-1].period_ns > fits[0].period_ns * CLOSE:
        return None
    around = [_fit(intervals, fits[len(fits) // 2].period_ns * (1 + step * 1.5e-4)) for step in range(-10, 11)]
    fits = [p for p in around if p.share >= best[0].share]
    return fits[len(fits) // 2]


def _steps(low: float, high: float, factor: float) -> list[float]:
    steps = [low]
    while steps[-1] < high:
        steps.append(steps[-1] * factor)
    return steps


def _fit(intervals: Sequence[Interval], period: float) -> Period:
    """The phase that explains most of the intervals with this period."""
    origin = intervals[0].from_ns
    edges: list[tuple[float, int]] = []
    level = 0
    for interval in intervals:
        length = interval.to_ns - interval.from_ns
        if length >= period:
            level += interval.changed
            continue
        # A phase inside the interval explains a change; one outside it explains that there was none.
        gain = 1 if interval.changed else -1
        level += not interval.changed
        begin, end = (interval.from_ns - origin) % period, (interval.to_ns - origin) % period
        edges += [(begin, gain), (end, -gain)]
        if end < begin:
            level += gain
    edges.sort()
    best, phase = level, 0.0
    for number, (at, gain) in enumerate(edges):
        level += gain
        if level > best:
            following = edges[number + 1][0] if number + 1 < len(edges) else period
            best, phase = level, (at + following) / 2
    updates = (intervals[-1].to_ns - origin - phase) // period
    return Period(round(period), origin + round(phase + updates * period), best / len(intervals))


class PeriodFinder:
    """Finds a sensor's period as it is read."""

    def __init__(self) -> None:
        self.period_ns = 0
        """0: not found (yet)."""
        self._phase_ns = 0
        """Time of an update; 0: not known, or not needed because the driver gives its values' own times."""
        self._intervals: deque[Interval] = deque(maxlen=KEEP)
        self._stamps: deque[int] = deque(maxlen=KEEP)
        self._late: deque[bool] = deque(maxlen=KEEP)
        """Whether each stamp was older than its read, and so the sensor's own."""
        self._last: tuple[int, int] | None = None
        self._due_ns = 0
        self._patience_ns = EVERY_NS // 4

    def see(self, at_ns: int, read_ns: int, value: int) -> None:
        """Take a read at *read_ns* of *value*, which by the driver held at *at_ns*."""
        self._stamps.append(at_ns)
        self._late.append(read_ns - at_ns > NS_PER_MS)
        if self._last is not None:
            self._intervals.append(Interval(self._last[0], read_ns, value != self._last[1]))
        self._last = (read_ns, value)

    def forget(self) -> None:
        """A read failed: the next one makes no interval with the one before."""
        self._last = None

    def updated(self, read_ns: int) -> int | None:
        """When the value read at *read_ns* was renewed, if the phase is known; else *read_ns*.

        To be asked of reads that saw a change: the update came after the read before. None: the read was so close to
        an update that its value may be from the one before, a whole period earlier. The next read decides.
        """
        if not self._phase_ns or self._last is None:
            return read_ns
        return Phase(self.period_ns, self._phase_ns).updated(read_ns, self._last[0])

    def due(self, now_ns: int) -> bool:
        """Whether to call `look`, which takes some milliseconds."""
        return now_ns >= self._due_ns and len(self._intervals) >= ENOUGH

    def look(self, now_ns: int) -> None:
        """Search for the period in the reads so far."""
        self._due_ns = now_ns + EVERY_NS
        if 2 * sum(self._late) > len(self._late):
            self.period_ns, self._phase_ns = _stamped_period(list(self._stamps)), 0
            return
        near_ns = self.period_ns if self._phase_ns else 0
        period = find_period(list(self._intervals), near_ns)
        if period is not None:
            self.period_ns, self._phase_ns, self._patience_ns = period.period_ns, period.phase_ns, EVERY_NS
        else:
            self._phase_ns = 0
            self._due_ns = now_ns + self._patience_ns
            # Not where the reads were too rare to see a value twice (an idle device): soon they may be frequent.
            if sum(not interval.changed for interval in self._intervals) >= LEAST_STILL:
                self._patience_ns = min(2 * self._patience_ns, LONGEST_PATIENCE_NS)


def _stamped_period(stamps: Sequence[int]) -> int:
    """The period of updates with known times, some of which may have been missed. 0: not known."""
    apart = sorted(b - a for a, b in pairwise(stamps) if b > a)
    if not apart:
        return 0
    shortest = apart[len(apart) // 32]
    whole = [round(each / shortest) for each in apart]
    return round(sum(apart) / sum(whole))
