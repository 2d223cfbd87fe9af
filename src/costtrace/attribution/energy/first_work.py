"""Readings of a device's first work, held until the sensor's period, its lag and the energy model are known. Pure.

A sensor's period takes some 10 s of reads to find, its lag and the energy model some more. Until then readings would be
distributed by windows in the wrong place and by a prior. They wait instead, once in a device's life, and are placed and
learned from as a whole before any of them is distributed. Nothing here creates energy.

Under a steady load, or where no period is found, readings stay at the times at which they were made.
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
"""How long readings are held, from the first one under load."""
HOLD_BUSY_NS = 5 * NS_PER_S
"""If the device was busy for less than this meanwhile (a warm-up, a single request), the next work is held too."""
HOLDS = 3
"""How often a device's work is held at most."""
HOLD_PIECES = 10_000
"""With more pieces than this holding ends: the agent writes them with its state."""
QUIET_NS = 2 * NS_PER_S
"""If no engine has had the device, or nobody has read it, for this long, holding ends."""
LEARN_NS = 5 * NS_PER_S
"""Windows longer than this (a stalled sensor) are distributed, and not learned from."""
FINE_NS = 5 * NS_PER_MS
"""Steps in which the lag is looked for with the whole model, around where it was found coarsely."""
REACH = 2 * BIN_NS // FINE_NS
COUNTER = "nvml_counter"
_PLACED_READINGS = 16
"""So many placed readings are asked for the phase."""


class BusyStretch(NamedTuple):
    """A stretch of one engine's time on the device, and what the device did in it."""

    start_ns: int
    end_ns: int
    load: Load


class CounterWindow(NamedTuple):
    """Energy between two readings."""

    start_ns: int
    end_ns: int
    energy_uj: int


def placed(readings: Sequence[Reading]) -> list[Reading]:
    """The same readings, each at the time of its value, as far as later ones show the sensor's period and phase.

    A reading so close to an update that its value may be of either period is left out.
    """
    phase = _phase(readings)
    if phase is None:
        return list(readings)
    result: list[Reading] = []
    before_ns, before_uj = readings[0].at_ns - phase.period_ns, -1
    for reading in readings:
        same = reading.energy_uj is None or reading.energy_uj == before_uj
        if same or reading.fault or reading.period_ns or reading.source != COUNTER:
            result.append(reading)
        elif (at_ns := phase.updated(reading.at_ns, before_ns)) is not None:
            result.append(_at(reading, at_ns, phase.period_ns))
        before_ns = reading.at_ns + reading.lag_ns
        before_uj = -1 if reading.energy_uj is None else reading.energy_uj
    return result


def _at(reading: Reading, at_ns: int, period_ns: int) -> Reading:
    # Not `msgspec.structs.replace`, which is slower: these are hundreds at once.
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
    """When the sensor renewed its value, by readings that were placed. None: not known, or the driver says it."""
    if any(reading.lag_ns and not reading.period_ns for reading in readings):
        return None  # with the driver's own timestamps readings are in their place
    known = [r for r in readings if r.period_ns and r.lag_ns and r.source == COUNTER and not r.fault][:_PLACED_READINGS]
    if not known:
        return None
    period_ns = known[-1].period_ns
    close_ns = round(period_ns * CLOSE_SHARE)

    def agree(at_ns: int) -> int:
        return sum((r.at_ns - at_ns + close_ns) % period_ns <= 2 * close_ns for r in known)

    return Phase(period_ns, max((r.at_ns for r in known), key=agree))


class Learned(NamedTuple):
    """Lag and energy model of windows that are in their place."""

    lag_ns: int
    model: EnergyModel


def learn(readings: Sequence[Reading], stretches: Sequence[BusyStretch], lag_ns: int) -> Learned | None:
    """The lag and the energy model of placed readings; None: there are too few.

    *stretches*: sorted by their start; *lag_ns*: as known so far, kept where the load shows none.
    """
    windows = list(_windows(readings))
    if len(windows) < ENOUGH:
        return None
    done = _Done(stretches)
    coarse_ns = _coarse_lag(windows, stretches, lag_ns)
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


def _coarse_lag(windows: Sequence[CounterWindow], stretches: Sequence[BusyStretch], lag_ns: int) -> int | None:
    """The lag by `LagFinder`; None: the load shows none."""
    finder, chosen, seen = LagFinder(lag_ns), False, 0
    for window in windows:
        while seen < len(stretches) and stretches[seen].start_ns < window.end_ns:
            finder.expect(*stretches[seen])
            seen += 1
        chosen = finder.window(*window) or chosen
    return finder.lag_ns if chosen else None


def _fit(windows: Sequence[CounterWindow], done: "_Done", lag_ns: int) -> EnergyModel:
    model = EnergyModel()
    for window in windows:
        model.observe(done.between(window.start_ns - lag_ns, window.end_ns - lag_ns), window.energy_uj)
    return model


class _Done:
    """What the device had done by any instant: a sum of ramps, one for each stretch of work."""

    def __init__(self, stretches: Sequence[BusyStretch]) -> None:
        edges = sorted((at, sign, i) for i, each in enumerate(stretches) for at, sign in ((each[0], 1), (each[1], -1)))
        self._times: list[int] = []
        self._upto: list[Load] = []
        self._rates: list[Load] = []
        """Loads per ns, each from its time in `_times` on."""
        upto, rate, running, at_ns = NOTHING, NOTHING, 0, 0
        for edge_ns, sign, number in edges:
            start_ns, end_ns, load = stretches[number]
            if end_ns <= start_ns:
                continue
            upto = upto.plus(rate.times(edge_ns - at_ns))
            running += sign
            # Set to nothing where none is running: a sum of differences would keep its rounding errors for ever.
            rate = rate.plus(load.times(sign / (end_ns - start_ns))) if running else NOTHING
            at_ns = edge_ns
            self._times.append(at_ns)
            self._upto.append(upto)
            self._rates.append(rate)

    def between(self, start_ns: int, end_ns: int) -> Load:
        """Load of [start, end), time that no engine had included."""
        load = self._at(end_ns).plus(self._at(start_ns).times(-1.0))
        return load._replace(ns=max(load.ns, float(end_ns - start_ns)))

    def _at(self, at_ns: int) -> Load:
        place = bisect_right(self._times, at_ns) - 1
        if place < 0:
            return NOTHING
        return self._upto[place].plus(self._rates[place].times(at_ns - self._times[place]))
