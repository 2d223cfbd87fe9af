"""From counter readings to the energy of each piece of time, exactly.

Between two readings of a device's counter lies a window. Its energy is distributed over the pieces of engines' time in
it (steps, idle, start-up) by the energy model, rescaled so that the window adds up to the counter to the microjoule. A
piece is complete once a reading lies beyond its end. Energy of time that no engine had is kept apart (`outside_uj`).

Readings of the first `HOLD_NS` of a device's work are held until their times are known (`first_work`): until then
nothing after the first of them is settled.

A counter that falls has been reset, and one whose declared gain has changed has begun a new count: the energy of that
window is unknown, never negative. A counter that does not move for longer than any sensor's period is not believed.
Time whose energy is unknown is counted in nanoseconds, beside the energy that is known.
"""

from heapq import heapify, heappop, heappush
from typing import NamedTuple

import msgspec

from costtrace.attribution.energy.cross_check import CrossCheck
from costtrace.attribution.energy.first_work import (
    HOLD_BUSY_NS,
    HOLD_NS,
    HOLD_PIECES,
    HOLDS,
    LEARN_NS,
    QUIET_NS,
    BusyStretch,
    learn,
    placed,
)
from costtrace.attribution.energy.lag import LagFinder
from costtrace.attribution.energy.model import NOTHING, EnergyModel, Load
from costtrace.core.apportion import largest_remainder
from costtrace.core.events import Reading
from costtrace.core.rows import EnergyProvenance
from costtrace.core.units import NS_PER_S

FROZEN_NS = 3 * NS_PER_S
"""A powered device draws something: a counter that has not moved for this long is stuck."""
FAULT_NS = 2 * NS_PER_S
"""Faults shorter than this are bridged by the counter's next value."""


class Piece(msgspec.Struct):
    """A stretch of one engine's time on one device, waiting for its energy."""

    start_ns: int
    end_ns: int
    device_ns: int
    """What the device gave the engine for it."""
    load: Load
    uj: int = 0
    done_ns: int = 0
    """Device time that has been given its energy; the rest is of unknown energy when the piece is taken."""
    coefficients: list[float] | None = None
    """Of the energy model that gave its end its energy; None: its end has none."""


class Result(NamedTuple):
    """A piece's energy in uJ, and the device time whose energy is not known."""

    uj: int
    energy_unknown_ns: int
    coefficients: list[float] | None
    """Of the energy model, as it was then: shares do not depend on when the piece is taken."""


class DeviceMeter(msgspec.Struct):
    """One device's counter, and the pieces that wait for it."""

    source: str = "none"
    """How energy is obtained, as rows name it; ``estimated:...`` where it is a share of a board's by rule."""
    scope: str = ""
    simulated: bool = False
    last_ns: int = -1
    last_uj: int = -1
    """Time and value of the reading with which the present window begins (-1: none)."""
    given_up_ns: int = -1
    """Time before this instant that has no energy yet gets none."""
    newest_ns: int = msgspec.field(default=-1, name="told_ns")
    """Time of the newest reading of any kind, less the lag."""
    pieces: dict[int, Piece] = {}
    coming: list[tuple[int, int]] | None = None
    """Start and number of the pieces that begin after the newest reading: a heap. None: from an older agent's state."""
    under_way: list[int] = []
    """Numbers of the pieces that have begun and lack the energy of their end, by their start."""
    first_busy_ns: int = -1
    """Start of the first piece in which something ran, after those that have been held. -1: there is none."""
    held: list[Reading] = []
    """Readings of the device's first work, whose times are not known yet."""
    holds: int = 0
    """How often readings have been held and released."""
    begun: bool = False
    """No more are held: readings are distributed as they come."""
    next_piece: int = 0
    model: EnergyModel = msgspec.field(default_factory=EnergyModel)
    queue: list[Reading] = []
    outside_uj: int = 0
    """Energy of time that no engine had, since the beginning."""
    attributed_uj: int = 0
    resets: int = 0
    lag: LagFinder = msgspec.field(default_factory=LagFinder)
    sensor: EnergyProvenance | None = None
    """How the newest reading was made; None: there was none."""
    host: str = ""
    """The node whose agent reads it, if it is another one."""
    clock_ns: int = 0
    """By how much that node's wall clock may differ from this one's, as declared."""
    read_ns: int = -1
    """The time of that reading before the lag is taken off."""
    read_mw: int | None = None
    """Its power."""
    period_known: bool = False
    """Readings carry the times at which the sensor renewed its value; before, those at which they were made."""
    check: CrossCheck = msgspec.field(default_factory=CrossCheck)

    def __post_init__(self) -> None:
        if self.coming is None:
            self.coming = [(piece.start_ns, number) for number, piece in self.pieces.items()]
            heapify(self.coming)

    def add(self, piece: Piece) -> int:
        """Take in a piece that waits for its energy. Returns its number."""
        number = self.next_piece
        self.next_piece += 1
        self.pieces[number] = piece
        assert self.coming is not None
        heappush(self.coming, (piece.start_ns, number))
        if piece.load.busy_ns and not 0 <= self.first_busy_ns <= piece.start_ns:
            self.first_busy_ns = piece.start_ns
        return number

    def take(self, number: int) -> Result | None:
        """Remove a piece whose energy is settled and return it; None: it is not settled yet."""
        piece = self.pieces[number]
        if piece.end_ns > self.settled_ns() and piece.end_ns > piece.start_ns:
            return None
        del self.pieces[number]
        return Result(piece.uj, piece.device_ns - piece.done_ns, piece.coefficients)

    def settled_ns(self) -> int:
        """Everything before this instant has its energy, or is known to have none."""
        return max(self.last_ns, self.given_up_ns)

    def heard_ns(self) -> int:
        """Time of the newest reading of any kind, distributed or held."""
        return max(self.newest_ns, self.held[-1].at_ns) if self.held else self.newest_ns

    def give_up(self, at_ns: int) -> None:
        """Settle the time before *at_ns*: what has no energy yet stays without."""
        if self.held:
            self._release()
        self.given_up_ns = max(self.given_up_ns, at_ns)
        self._advance(at_ns, self.given_up_ns)

    def read(self, reading: Reading) -> None:
        """Take the next reading. The pieces of all engines up to it must have been added."""
        if not self._hold(reading):
            self._read(reading, learn=True)

    def _hold(self, reading: Reading) -> bool:
        """Hold a reading of the device's first work; False: it is not held."""
        if self.begun or not 0 <= self.first_busy_ns < reading.at_ns or reading.source == "none":
            return False
        if self.held and sensor_of(reading, "", 0) != sensor_of(self.held[0], "", 0):
            self._release()  # this reading begins another count
            return False
        sparse = self.heard_ns() >= 0 and reading.at_ns - self.heard_ns() > QUIET_NS
        self._advance(reading.at_ns)
        self.held.append(reading)
        busy_until_ns = max((piece.end_ns for _, piece in self._under_way()), default=reading.at_ns)
        long = reading.at_ns - self.held[0].at_ns >= HOLD_NS or len(self.under_way) > HOLD_PIECES
        if sparse or long or reading.at_ns - busy_until_ns > QUIET_NS:
            self._release()
        return True

    def _release(self) -> None:
        """Place what was held, learn from all of it, then distribute it."""
        self.holds += 1
        readings, self.held = placed(self.held), []
        pieces = self._under_way()
        stretches = [BusyStretch(piece.start_ns, piece.end_ns, piece.load) for _, piece in pieces]
        learned = learn(readings, stretches, self.lag.lag_ns)
        self.lag = LagFinder(self.lag.lag_ns if learned is None else learned.lag_ns)
        self.model = self.model if learned is None else learned.model
        assert self.coming is not None
        self.coming += [(piece.start_ns, number) for number, piece in pieces]
        heapify(self.coming)
        self.under_way = []
        self.begun = self.holds >= HOLDS or sum(each.load.busy_ns for each in stretches) >= HOLD_BUSY_NS
        for reading in readings:
            self._read(reading, learn=learned is None)
        coming = (self.pieces.get(number) for _, number in self.coming)
        self.first_busy_ns = min((piece.start_ns for piece in coming if piece and piece.load.busy_ns), default=-1)

    def _under_way(self) -> list[tuple[int, Piece]]:
        """Pieces under way, without those that were taken before their energy was known."""
        return [(number, piece) for number in self.under_way if (piece := self.pieces.get(number)) is not None]

    def _advance(self, at_ns: int, settled_ns: int = -1) -> None:
        """Put pieces under way that begin before *at_ns*, and drop those that end by *settled_ns*."""
        assert self.coming is not None
        while self.coming and self.coming[0][0] < at_ns:
            number = heappop(self.coming)[1]
            if (piece := self.pieces.get(number)) is not None:
                self.under_way.append(number)
                if not self.held:
                    self.lag.expect(piece.start_ns, piece.end_ns, piece.load)
        if settled_ns >= 0:
            self.under_way = [number for number, piece in self._under_way() if piece.end_ns > settled_ns]

    def _read(self, reading: Reading, *, learn: bool) -> None:
        """Take a reading whose time is known. *learn*: False if the model has learned from its window already."""
        if reading.period_ns and not self.period_known:
            self.period_known = True
            self.lag.restart()
        at_ns, value = reading.at_ns - self.lag.lag_ns, reading.energy_uj
        if at_ns <= self.newest_ns and self.newest_ns >= 0 and not reading.fault:
            return
        self.newest_ns = max(self.newest_ns, at_ns)
        self._advance(reading.at_ns)
        if value is None:
            if (self.last_ns >= 0 and at_ns - self.last_ns > FAULT_NS) or self.last_ns < 0:
                self.give_up(at_ns)
            return
        another = self._of_another_count(reading)
        self.source = f"estimated:{reading.source}" if reading.share else reading.source
        self.scope, self.simulated = reading.scope, reading.simulated
        if another or self.sensor is None or (self.sensor.host, self.sensor.clock_ns) != (self.host, self.clock_ns):
            self.sensor = sensor_of(reading, self.host, self.clock_ns)
        if self.last_ns < 0:
            self.give_up(at_ns)
            self._begin_window(reading, at_ns, value)
        elif another or value < self.last_uj or reading.fault == "reset":
            self.resets += 1
            self.give_up(at_ns)
            self._begin_window(reading, at_ns, value)
        elif value == self.last_uj and at_ns - self.last_ns <= FROZEN_NS:
            return  # not renewed yet: the window goes on
        elif value == self.last_uj:
            self.give_up(at_ns)
        else:
            gained_uj = value - self.last_uj
            self._distribute(at_ns, gained_uj, learn=learn)
            if reading.source == "nvml_counter":
                self.check.window(reading.at_ns - self.read_ns, gained_uj, (self.read_mw, reading.power_mw))
            if self.lag.window(self.read_ns, reading.at_ns, gained_uj, choose=learn):
                self.model.restart()  # what it learned was from windows at another lag
            self._begin_window(reading, at_ns, value)

    def _of_another_count(self, reading: Reading) -> bool:
        """Whether a reading does not continue the last one's count: its gain, scope, share or source differs."""
        last = self.sensor
        return last is not None and sensor_of(reading, last.host, last.clock_ns) != last

    def _begin_window(self, reading: Reading, at_ns: int, value: int) -> None:
        """Begin the next window with a reading."""
        self.last_ns, self.last_uj = at_ns, value
        self.read_ns, self.read_mw = reading.at_ns, reading.power_mw
        self._advance(at_ns, at_ns)

    def _distribute(self, end_ns: int, energy_uj: int, *, learn: bool) -> None:
        """Give a window's energy to the pieces in it, in proportion to what the model expects of each."""
        start_ns = self.last_ns
        if self.given_up_ns > start_ns:
            # The window's beginning was given up: its even share of the energy goes to no piece.
            until_ns = min(self.given_up_ns, end_ns)
            given_up_uj = energy_uj * (until_ns - start_ns) // (end_ns - start_ns)
            self.outside_uj += given_up_uj
            energy_uj -= given_up_uj
            start_ns = until_ns
        numbers: list[int] = []
        loads: list[Load] = []
        covered_ns = 0
        coefficients = self.model.regression.coefficients()
        for number, piece in self._under_way():
            begin, end = max(piece.start_ns, start_ns), min(piece.end_ns, end_ns)
            if begin >= end:
                continue
            length = piece.end_ns - piece.start_ns
            numbers.append(number)
            loads.append(piece.load.times((end - begin) / length))
            # A difference of cumulative parts, so that the parts of a piece sum to it.
            device_ns = (
                piece.device_ns * (end - piece.start_ns) // length
                - piece.device_ns * (begin - piece.start_ns) // length
            )
            piece.done_ns += device_ns
            covered_ns += device_ns
            if piece.end_ns <= end_ns:
                piece.coefficients = coefficients
        uncovered = Load(float(max(0, end_ns - start_ns - covered_ns)), 0.0, 0.0, 0.0, 0.0)
        weights = [max(0, int(self.model.weight(load) * 1024)) for load in (*loads, uncovered)]
        if not any(weights):
            weights = [max(1, int(load.ns)) for load in (*loads, uncovered)]
        shares = largest_remainder(energy_uj, weights)
        for number, share in zip(numbers, shares, strict=False):
            self.pieces[number].uj += share
        self.outside_uj += shares[-1]
        self.attributed_uj += energy_uj - shares[-1]
        if learn and end_ns - start_ns <= LEARN_NS:
            total = uncovered
            for load in loads:
                total = total.plus(load)
            self.model.observe(total, energy_uj)


def piece_of(start_ns: int, end_ns: int, device_ns: int, load: Load = NOTHING) -> Piece:
    """A piece; without a load it is time in which the device idled for the engine."""
    return Piece(start_ns, end_ns, device_ns, load if any(load) else Load(float(device_ns), 0.0, 0.0, 0.0, 0.0))


def sensor_of(reading: Reading, host: str, clock_ns: int) -> EnergyProvenance:
    """How a reading was made; *host*, *clock_ns*: on which other node, and how uncertain its clock is."""
    return EnergyProvenance(
        source=reading.source,
        scope=reading.scope,
        gain=reading.gain,
        share=reading.share,
        host=host,
        clock_ns=clock_ns,
        simulated=reading.simulated,
    )
