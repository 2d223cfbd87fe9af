"""How often does a sensor renew its value? Found from the times at which it was read. Pure.

A read tells only that the value has changed since the read before, or has not. Reads at irregular intervals cut the
sensor's time in many places: a period (and phase) is right if an update lies in every interval that saw a change and
none in those that saw none. That is looked for, from few intervals and coarse steps to many and fine ones.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from costtrace.core.sensor_phase import Phase
from costtrace.core.units import NS_PER_MS, NS_PER_S

KEEP = 192
"""Intervals that are looked at."""
ENOUGH = 48
LEAST_STILL = 4
"""Of them, so many that saw the same value as the read before."""
FINE = 1 + 1e-4
"""Periods are told apart to about this factor."""
FIT = 0.97
"""A period that explains less than this share of the intervals is none."""
CLOSE = 1.01
"""Periods that fit equally well and lie further apart than this are guesses."""
LONGEST_NS = NS_PER_S
EVERY_NS = 20 * NS_PER_S
"""A finder looks this often once it has found one; before, it has less and less hope."""
LONGEST_PATIENCE_NS = 600 * NS_PER_S


class Interval(NamedTuple):
    """Two reads that follow each other, and whether the value differed."""

    from_ns: int
    to_ns: int
    changed: bool


class Period(NamedTuple):
    """What was found."""

    period_ns: int
    phase_ns: int
    """The last update among the intervals; the others are whole periods from it."""
    share: float
    """Of the intervals, those that it explains."""


def find_period(intervals: Sequence[Interval], near_ns: int = 0) -> Period | None:
    """Find the update period. None: shorter than the reads are apart, or there is none, or too little is known.

    *near_ns*: it was this not long ago; only its neighbourhood is looked at, which takes a tenth of the time.
    """
    intervals = intervals[-KEEP:]
    still = sorted(i.to_ns - i.from_ns for i in intervals if not i.changed)
    if len(intervals) < ENOUGH or len(still) < LEAST_STILL or len(still) == len(intervals):
        return None
    if near_ns:
        width, count = 1 + 2e-4, len(intervals)
        candidates = [near_ns * (1 + 2e-4 * step) for step in range(-4, 5)]
    else:
        width, count = 1.006, ENOUGH  # so fine that a wrong phase cannot hide within the first intervals
        candidates = _steps(still[-2] * 0.95, LONGEST_NS, width)
    while True:
        some = intervals[-count:]
        best = sorted((_fit(some, period) for period in candidates), key=lambda p: -p.share)
        best = best[: 40 if count < len(intervals) else 10]
        if count >= len(intervals) and width < FINE:
            break
        # Twice the time tells periods apart that are half as far from each other.
        count, width = min(2 * count, len(intervals)), 1 + (width - 1) / 2
        candidates = [p.period_ns * factor for p in best for factor in (1 / width, 1, width)]
    # Those that fit equally well lie side by side: the middle one is the least wrong.
    fits = sorted(p for p in best if p.share == best[0].share)
    if best[0].share < FIT or fits[-1].period_ns > fits[0].period_ns * CLOSE:
        return None
    around = [_fit(intervals, fits[len(fits) // 2].period_ns * (1 + step * 1.5e-4)) for step in range(-10, 11)]
    fits = [p for p in around if p.share >= best[0].share]
    return fits[len(fits) // 2]


def _steps(low: float, high: float, factor: float) -> list[float]:
    found = [low]
    while found[-1] < high:
        found.append(found[-1] * factor)
    return found


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
        # Inside the arc an update is explained by a change, outside by none.
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
        """Of an update; 0: not known, or the driver says itself when its values held."""
        self._intervals: deque[Interval] = deque(maxlen=KEEP)
        self._stamps: deque[int] = deque(maxlen=KEEP)
        self._late: deque[bool] = deque(maxlen=KEEP)
        """Whether the stamps were older than the reads: they are the sensor's own, then."""
        self._last: tuple[int, int] | None = None
        self._due_ns = 0
        self._patience_ns = EVERY_NS // 4

    def see(self, at_ns: int, read_ns: int, value: int) -> None:
        """A read at *read_ns* gave *value*, which held at *at_ns* by the driver's own word."""
        self._stamps.append(at_ns)
        self._late.append(read_ns - at_ns > NS_PER_MS)
        if self._last is not None:
            self._intervals.append(Interval(self._last[0], read_ns, value != self._last[1]))
        self._last = (read_ns, value)

    def forget(self) -> None:
        """A read failed: what comes next does not follow what was before."""
        self._last = None

    def updated(self, read_ns: int) -> int | None:
        """When the value that was read at *read_ns* had been renewed, as far as that is known; else *read_ns*.

        A read that saw a change bounds it: the update came after the read before. None: the read was so close to an
        update that its value may be that one's or the one's before, a whole period apart. The next read will tell.
        """
        if not self._phase_ns or self._last is None:
            return read_ns
        return Phase(self.period_ns, self._phase_ns).updated(read_ns, self._last[0])

    def due(self, now_ns: int) -> bool:
        """Whether `look` is worth its while: it takes some milliseconds."""
        return now_ns >= self._due_ns and len(self._intervals) >= ENOUGH

    def look(self, now_ns: int) -> None:
        """Look at what has been seen."""
        self._due_ns = now_ns + EVERY_NS
        if 2 * sum(self._late) > len(self._late):
            self.period_ns, self._phase_ns = _stamped_period(list(self._stamps)), 0
            return
        near_ns = self.period_ns if self._phase_ns else 0
        found = find_period(list(self._intervals), near_ns)
        if found is not None:
            self.period_ns, self._phase_ns, self._patience_ns = found.period_ns, found.phase_ns, EVERY_NS
        else:
            self._phase_ns = 0
            self._due_ns = now_ns + self._patience_ns
            # Reads that are too rare to see the same value twice (an idle device's) are no reason to lose hope.
            if sum(not interval.changed for interval in self._intervals) >= LEAST_STILL:
                self._patience_ns = min(2 * self._patience_ns, LONGEST_PATIENCE_NS)


def _stamped_period(stamps: Sequence[int]) -> int:
    """The period of updates whose own times are known, of which some may have been missed."""
    apart = sorted(b - a for a, b in pairwise(stamps) if b > a)
    if not apart:
        return 0
    shortest = apart[len(apart) // 32]
    whole = [round(each / shortest) for each in apart]
    return round(sum(apart) / sum(whole))
