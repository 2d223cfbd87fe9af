"""The first seconds of a device's work: held until it is found when its readings hold and what its power follows. Pure.

A sensor's period takes some 10 s of reads to find, its lag and the energy model some more. What was read in these
seconds would be distributed by windows in the wrong place and by a prior. It waits instead, once in a device's life,
and is then placed and learned from as a whole before any of it is distributed. Nothing here creates energy.

Under a steady load, or where no period is found, readings stay where they were made, as they would without.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from costtrace.attribution.energy.lag import BIN_NS, ENOUGH, LONGEST_LAG_NS, LagFinder
from costtrace.attribution.energy.model import NOTHING, EnergyModel, Load
from costtrace.core.events import Reading
from costtrace.core.sensor_phase import CLOSE_SHARE, Phase
from costtrace.core.units import NS_PER_MS, NS_PER_S

HOLD_NS = 20 * NS_PER_S
"""How long, from the first reading under load."""
HOLD_BUSY_NS = 5 * NS_PER_S
"""Where less than this was worked in it (a warm-up, a single request), the next work is held too..."""
HOLDS = 3
"""... but no more often than this."""
HOLD_PIECES = 10_000
"""More pieces than this are not held: the agent keeps them with its state."""
QUIET_NS = 2 * NS_PER_S
"""Nobody has had the device for this long, or nobody has read it: there is nothing more to wait for."""
LEARN_NS = 5 * NS_PER_S
"""Windows longer than this (a stalled sensor) are distributed, and not learned from."""
FINE_NS = 5 * NS_PER_MS
"""Steps in which the lag is looked for with the whole model, around where it was found coarsely."""
REACH = 2 * BIN_NS // FINE_NS
COUNTER = "nvml_counter"
_WITNESSES = 16


class BusyStretch(NamedTuple):
    """A stretch of one engine's time on the device, and what it did."""

    start_ns: int
    end_ns: int
    load: Load


class CounterWindow(NamedTuple):
    """Energy between two readings."""

    start_ns: int
    end_ns: int
    energy_uj: int


def placed(readings: Sequence[Reading]) -> list[Reading]:
    """The same readings, each when its value held, as far as the later ones tell the sensor's period and phase."""
    phase = _phase(readings)
    if phase is None:
        return list(readings)
    found: list[Reading] = []
    before_ns, before_uj = readings[0].at_ns - phase.period_ns, -1
    for reading in readings:
        same = reading.energy_uj is None or reading.energy_uj == before_uj
        if same or reading.fault or reading.period_ns or reading.source != COUNTER:
            found.append(reading)
        elif (at_ns := phase.updated(reading.at_ns, before_ns)) is not None:
            found.append(_at(reading, at_ns, phase.period_ns))
        before_ns = reading.at_ns + reading.lag_ns
        before_uj = -1 if reading.energy_uj is None else reading.energy_uj
    return found


def _at(reading: Reading, at_ns: int, period_ns: int) -> Reading:
    # Not `structs.replace`: the type is known, and these are hundreds at once.
    return Reading(
        reading.device,
        at_ns,
        reading.energy_uj,
        reading.power_mw,
        reading.source,
        reading.scope,
        reading.fault,
        reading.gain,
        reading.share,
        reading.simulated,
        period_ns,
        reading.at_ns - at_ns,
    )


def _phase(readings: Sequence[Reading]) -> Phase | None:
    """When the sensor renewed its value, by the readings that were placed. None: nobody knows, or the driver says."""
    if any(reading.lag_ns and not reading.period_ns for reading in readings):
        return None  # the driver's own timestamps: they stand where they belong
    told = [r for r in readings if r.period_ns and r.lag_ns and r.source == COUNTER and not r.fault][:_WITNESSES]
    if not told:
        return None
    period_ns = told[-1].period_ns
    close_ns = round(period_ns * CLOSE_SHARE)

    def agree(at_ns: int) -> int:
        return sum((r.at_ns - at_ns + close_ns) % period_ns <= 2 * close_ns for r in told)

    return Phase(period_ns, max((r.at_ns for r in told), key=agree))


class Learned(NamedTuple):
    """What was found in windows that are in their place."""

    lag_ns: int
    model: EnergyModel


def learn(readings: Sequence[Reading], works: Sequence[BusyStretch], lag_ns: int) -> Learned | None:
    """The lag, and the energy model, of readings that are placed; None: there are too few.

    *works* by their begin; *lag_ns*: as known so far, and kept where the load shows none.
    """
    windows = list(_windows(readings))
    if len(windows) < ENOUGH:
        return None
    done = _Done(works)
    coarse_ns = _coarse_lag(windows, works, lag_ns)
    if coarse_ns is not None:
        lags = [coarse_ns + step * FINE_NS for step in range(-REACH, REACH + 1)]
        lags = [lag for lag in lags if 0 <= lag <= LONGEST_LAG_NS]
        lag_ns = min(lags, key=lambda lag: _fit(windows, done, lag).unexplained())
    return Learned(lag_ns, _fit(windows, done, lag_ns))


def _windows(readings: Iterable[Reading]) -> Iterable[CounterWindow]:
    last: Reading | None = None
    for reading in readings:
        if reading.energy_uj is None:
            continue
        if last is None or not reading.continues(last):
            last = reading
        elif reading.at_ns > last.at_ns and reading.energy_uj > (last.energy_uj or 0):
            if reading.at_ns - last.at_ns <= LEARN_NS:
                yield CounterWindow(last.at_ns, reading.at_ns, reading.energy_uj - (last.energy_uj or 0))
            last = reading


def _coarse_lag(windows: Sequence[CounterWindow], works: Sequence[BusyStretch], lag_ns: int) -> int | None:
    """By `LagFinder`, or None if there is nothing to see."""
    finder, found, seen = LagFinder(lag_ns), False, 0
    for window in windows:
        while seen < len(works) and works[seen].start_ns < window.end_ns:
            finder.expect(*works[seen])
            seen += 1
        found = finder.window(*window) or found
    return finder.lag_ns if found else None


def _fit(windows: Sequence[CounterWindow], done: "_Done", lag_ns: int) -> EnergyModel:
    model = EnergyModel()
    for window in windows:
        model.observe(done.between(window.start_ns - lag_ns, window.end_ns - lag_ns), window.energy_uj)
    return model


class _Done:
    """What the device had done by any instant: a sum of ramps, one for each stretch of work."""

    def __init__(self, works: Sequence[BusyStretch]) -> None:
        edges = sorted((at, sign, i) for i, work in enumerate(works) for at, sign in ((work[0], 1), (work[1], -1)))
        self._times: list[int] = []
        self._upto: list[Load] = []
        self._rates: list[Load] = []
        """From each time on, per ns."""
        upto, rate, running, at_ns = NOTHING, NOTHING, 0, 0
        for edge_ns, sign, number in edges:
            start_ns, end_ns, load = works[number]
            if end_ns <= start_ns:
                continue
            upto = upto.plus(rate.times(edge_ns - at_ns))
            running += sign
            # Sums of differences would keep what was rounded off for ever.
            rate = rate.plus(load.times(sign / (end_ns - start_ns))) if running else NOTHING
            at_ns = edge_ns
            self._times.append(at_ns)
            self._upto.append(upto)
            self._rates.append(rate)

    def between(self, start_ns: int, end_ns: int) -> Load:
        """Load of a stretch; time that no engine had is in it."""
        load = self._at(end_ns).plus(self._at(start_ns).times(-1.0))
        return load._replace(ns=max(load.ns, float(end_ns - start_ns)))

    def _at(self, at_ns: int) -> Load:
        place = bisect_right(self._times, at_ns) - 1
        if place < 0:
            return NOTHING
        return self._upto[place].plus(self._rates[place].times(at_ns - self._times[place]))
