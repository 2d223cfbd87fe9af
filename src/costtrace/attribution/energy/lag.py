"""How old is what a counter shows? Found by comparing its windows with what the device was given to do.

Drivers smooth and publish late (60 ms on A100, 100 ms on GA10x, 600 ms where power is a one-second average) and do
not say so. A window that is taken as it was read then pays for steps before it. What the device was given to do (busy
time, tokens) is kept in bins. Each counter window is compared with the bins a candidate lag earlier; the lag wins
whose bins explain most of the power's variance, once it is clearly better than the present one. No fitted model takes
part in that: one that had been fitted at a wrong lag would find it right.

Wrong where load is steady (nothing to see: the lag stays what it was) and where it repeats faster than readings come.
"""

import msgspec

from costtrace.attribution.energy.model import Load
from costtrace.core.units import NS_PER_MS

BIN_NS = 20 * NS_PER_MS
CANDIDATES = 41
"""Lags of 0 to 800 ms, in steps of a bin."""
LONGEST_LAG_NS = (CANDIDATES - 1) * BIN_NS
BINS = CANDIDATES + 60
"""How far back the bins reach: the longest lag and the longest window."""
LONGEST_NS = 500 * NS_PER_MS
"""Windows longer than this say nothing about a lag."""
FORGETTING = 0.9995
ENOUGH = 60
"""Windows needed before a lag is chosen."""
EVERY = 10
"""A lag is chosen once every so many windows."""
LEAST = 0.2
"""Share of the power's variance that a lag has to explain."""
BETTER = 0.03
"""How much more than the present lag it has to explain, as a share of what that leaves unexplained."""
LITTLE = 0.005
"""The same as a share of all variance: where a load repeats, several lags explain nearly everything."""
STEADY = 1e-6
"""Relative variance below this counts as none."""


class Sums(msgspec.Struct, array_like=True):
    """Sums over windows for one candidate lag: of busy share b, tokens per ns t and power p (uJ per ns)."""

    b: float = 0.0
    t: float = 0.0
    bb: float = 0.0
    tt: float = 0.0
    bt: float = 0.0
    bp: float = 0.0
    tp: float = 0.0

    def take(self, b: float, t: float, power: float) -> None:
        """Add a window."""
        keep = FORGETTING
        self.b = self.b * keep + b
        self.t = self.t * keep + t
        self.bb = self.bb * keep + b * b
        self.tt = self.tt * keep + t * t
        self.bt = self.bt * keep + b * t
        self.bp = self.bp * keep + b * power
        self.tp = self.tp * keep + t * power

    def explained(self, count: float, power: float, spread: float) -> float:
        """Share of the power's variance (*spread*) that b and t explain, with coefficients that are not negative."""
        bb, tt = self.bb - self.b * self.b / count, self.tt - self.t * self.t / count
        bt = self.bt - self.b * self.t / count
        bp, tp = self.bp - self.b * power / count, self.tp - self.t * power / count
        bb, tt = bb if bb > STEADY * self.bb else 0.0, tt if tt > STEADY * self.tt else 0.0
        alone = max(bp * bp / bb if bb and bp > 0 else 0.0, tp * tp / tt if tt and tp > 0 else 0.0)
        determinant = bb * tt - bt * bt
        if determinant > STEADY * bb * tt:
            of_b, of_t = (bp * tt - tp * bt) / determinant, (tp * bb - bp * bt) / determinant
            if of_b >= 0 and of_t >= 0:
                alone = max(alone, of_b * bp + of_t * tp)
        return alone / spread


class LagFinder(msgspec.Struct):
    """One device's lag."""

    lag_ns: int = 0
    first_bin: int = 0
    busy: list[float] = []
    """Busy ns in each bin, from `first_bin` on."""
    tokens: list[float] = []
    """Tokens in each bin."""
    seen: int = 0
    count: float = 0.0
    power: float = 0.0
    square: float = 0.0
    """Sums over windows, with forgetting: of 1, of power and of its square."""
    sums: list[Sums] = []
    """By candidate lag."""

    def expect(self, start_ns: int, end_ns: int, load: Load) -> None:
        """Note what the device was given to do, evenly over [start, end)."""
        if not load.busy_ns or end_ns <= start_ns:
            return
        newest = (end_ns - 1) // BIN_NS
        if not self.busy or newest + 1 - self.first_bin >= 2 * BINS:
            self.first_bin, self.busy, self.tokens = newest + 1 - BINS, [0.0] * BINS, [0.0] * BINS
        missing = newest + 1 - self.first_bin - len(self.busy)
        for bins in (self.busy, self.tokens) if missing > 0 else ():
            bins.extend([0.0] * missing)
            del bins[:missing]
        self.first_bin += max(0, missing)
        for number in range(max(start_ns // BIN_NS, self.first_bin), newest + 1):
            begin, end = max(start_ns, number * BIN_NS), min(end_ns, (number + 1) * BIN_NS)
            share = (end - begin) / (end_ns - start_ns)
            self.busy[number - self.first_bin] += load.busy_ns * share
            self.tokens[number - self.first_bin] += load.tokens * share

    def window(self, start_ns: int, end_ns: int, energy_uj: int, *, choose: bool = True) -> bool:
        """Take a counter window at the times at which it was read. True if that has changed the lag.

        *choose*: whether it may change it.
        """
        length_ns = end_ns - start_ns
        if not 0 < length_ns <= LONGEST_NS or start_ns // BIN_NS - CANDIDATES < self.first_bin or not self.busy:
            return False
        if not self.sums:
            self.sums = [Sums() for _ in range(CANDIDATES)]
        power = energy_uj / length_ns
        self.seen += 1
        self.count = self.count * FORGETTING + 1
        self.power = self.power * FORGETTING + power
        self.square = self.square * FORGETTING + power * power
        busy, tokens = _running(self.busy), _running(self.tokens)
        first_ns = self.first_bin * BIN_NS
        for candidate, sums in enumerate(self.sums):
            begin, end = start_ns - candidate * BIN_NS - first_ns, end_ns - candidate * BIN_NS - first_ns
            b = (_at(busy, end) - _at(busy, begin)) / length_ns
            sums.take(b, (_at(tokens, end) - _at(tokens, begin)) / length_ns, power)
        return choose and self.seen >= ENOUGH and self.seen % EVERY == 0 and self._choose()

    def restart(self) -> None:
        """Forget all windows, but not the lag: readings are placed at other times from now on."""
        self.seen, self.count, self.power, self.square, self.sums = 0, 0.0, 0.0, 0.0, []

    def _choose(self) -> bool:
        spread = self.square - self.power * self.power / self.count
        if spread <= STEADY * self.square:
            return False
        explained = [sums.explained(self.count, self.power, spread) for sums in self.sums]
        best = max(range(CANDIDATES), key=explained.__getitem__)
        now = explained[round(min(self.lag_ns, LONGEST_LAG_NS) / BIN_NS)]
        if explained[best] < LEAST or explained[best] - now < max(BETTER * (1 - now), LITTLE):
            return False
        self.lag_ns = best * BIN_NS + _peak_offset_ns(explained, best)
        return True


def _running(bins: list[float]) -> list[float]:
    """Sums of the bins before each boundary."""
    upto = [0.0]
    for value in bins:
        upto.append(upto[-1] + value)
    return upto


def _at(upto: list[float], after_ns: int) -> float:
    """A running sum at a time after the first bin's start, interpolated."""
    number, rest_ns = divmod(after_ns, BIN_NS)
    if number >= len(upto) - 1:
        return upto[-1]
    return upto[number] + (upto[number + 1] - upto[number]) * rest_ns / BIN_NS


def _peak_offset_ns(explained: list[float], best: int) -> int:
    """How far the top of the parabola through the best candidate and its neighbours lies from the best."""
    if not 0 < best < len(explained) - 1:
        return 0
    before, top, after = explained[best - 1 : best + 2]
    bend = before - 2 * top + after
    return round(BIN_NS * (before - after) / (2 * bend)) if bend < 0 else 0
