"""From counter readings to the energy of each piece of time, exactly.

Between two readings of a device's counter lies a window. Its energy is distributed over the pieces of engines' time in
it (steps, idle, start-up) by the energy model, rescaled so that the window adds up to the counter to the microjoule. A
piece is complete once a reading lies beyond its end. What no engine had is the device's own (`outside_uj`).

The first `HOLD_NS` of a device's work are held, and distributed once it has been found when their readings hold
(`energy_hold`): until then nothing that lies behind their begin is settled.

A counter that falls has been reset, and one whose declared gain has changed counts anew: what that window took is
unknown, never negative. A counter that stands still for
longer than any sensor's period is not believed. Unknown is a gap, in nanoseconds, beside what is known.
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
    """Device time that has been given its energy; the rest is a gap when the piece is taken."""
    coefficients: list[float] | None = None
    """Of the energy model by which its end was distributed; None: it has not been."""


class Result(NamedTuple):
    """A piece's energy. `energy_unknown_ns` of its device time has none that is known."""

    uj: int
    energy_unknown_ns: int
    coefficients: list[float] | None
    """Of the energy model, as it was then: what is shared by it does not depend on when somebody looks."""


class DeviceMeter(msgspec.Struct):
    """One device's counter, and the pieces that wait for it."""

    source: str = "none"
    """As rows name it; ``estimated:...`` where it is a part of a board by rule."""
    scope: str = ""
    simulated: bool = False
    last_ns: int = -1
    last_uj: int = -1
    """The newest reading that stands (-1: none)."""
    given_up_ns: int = -1
    """What has no energy by now and lies before this instant gets none."""
    told_ns: int = -1
    """Time of the newest reading of any kind."""
    pieces: dict[int, Piece] = {}
    coming: list[tuple[int, int]] | None = None
    """Begin and number of the pieces behind the newest reading: a heap. None: a state of before there was one."""
    under_way: list[int] = []
    """Numbers of the others that have not been distributed to their end, by their begin."""
    first_busy_ns: int = -1
    """Begin of the first piece in which something ran, of those after what has been held. -1: there was none."""
    held: list[Reading] = []
    """Readings of the device's first work, that wait for their place."""
    holds: int = 0
    begun: bool = False
    """That is over: readings are distributed as they come."""
    next_piece: int = 0
    model: EnergyModel = msgspec.field(default_factory=EnergyModel)
    queue: list[Reading] = []
    outside_uj: int = 0
    """Since the beginning, energy of time that no engine had."""
    attributed_uj: int = 0
    resets: int = 0
    lag: LagFinder = msgspec.field(default_factory=LagFinder)
    sensor: EnergyProvenance | None = None
    """How it was read last; None: it has not been."""
    host: str = ""
    """Whose agent reads it, where that is another node's."""
    clock_ns: int = 0
    """... and by how much that node's wall clock may differ from this one's, as declared."""
    read_ns: int = -1
    """When the newest reading that stands was made; it holds `lag` earlier."""
    read_mw: int | None = None
    period_known: bool = False
    """Readings hold when the sensor renewed its value; before its period was known, when they were made."""
    check: CrossCheck = msgspec.field(default_factory=CrossCheck)

    def __post_init__(self) -> None:
        if self.coming is None:
            self.coming = [(piece.start_ns, number) for number, piece in self.pieces.items()]
            heapify(self.coming)

    def add(self, piece: Piece) -> int:
        """A piece waits from now on; returns its number."""
        number = self.next_piece
        self.next_piece += 1
        self.pieces[number] = piece
        assert self.coming is not None
        heappush(self.coming, (piece.start_ns, number))
        if piece.load.busy_ns and not 0 <= self.first_busy_ns <= piece.start_ns:
            self.first_busy_ns = piece.start_ns
        return number

    def take(self, number: int) -> Result | None:
        """A piece's energy, if all of it is settled; the piece is then forgotten."""
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
        return max(self.told_ns, self.held[-1].at_ns) if self.held else self.told_ns

    def give_up(self, at_ns: int) -> None:
        """Nothing more will be learned about the time before *at_ns*."""
        if self.held:
            self._release()
        self.given_up_ns = max(self.given_up_ns, at_ns)
        self._see(at_ns, self.given_up_ns)

    def read(self, reading: Reading) -> None:
        """Take the next reading. All engines' time up to it has been added."""
        if not self._hold(reading):
            self._read(reading, learn=True)

    def _hold(self, reading: Reading) -> bool:
        """Whether the reading waits, as it is of the device's first work."""
        if self.begun or not 0 <= self.first_busy_ns < reading.at_ns or reading.source == "none":
            return False
        if self.held and sensor_of(reading, "", 0) != sensor_of(self.held[0], "", 0):
            self._release()  # what comes now is another count
            return False
        sparse = self.heard_ns() >= 0 and reading.at_ns - self.heard_ns() > QUIET_NS
        self._see(reading.at_ns)
        self.held.append(reading)
        newest_ns = max((piece.end_ns for _, piece in self._under_way()), default=reading.at_ns)
        long = reading.at_ns - self.held[0].at_ns >= HOLD_NS or len(self.under_way) > HOLD_PIECES
        if sparse or long or reading.at_ns - newest_ns > QUIET_NS:
            self._release()
        return True

    def _release(self) -> None:
        """Place what was held, learn from all of it, then distribute it."""
        self.holds += 1
        readings, self.held = placed(self.held), []
        pieces = self._under_way()
        works = [BusyStretch(piece.start_ns, piece.end_ns, piece.load) for _, piece in pieces]
        learned = learn(readings, works, self.lag.lag_ns)
        self.lag = LagFinder(self.lag.lag_ns if learned is None else learned.lag_ns)
        self.model = self.model if learned is None else learned.model
        assert self.coming is not None
        self.coming += [(piece.start_ns, number) for number, piece in pieces]
        heapify(self.coming)
        self.under_way = []
        self.begun = self.holds >= HOLDS or sum(work.load.busy_ns for work in works) >= HOLD_BUSY_NS
        for reading in readings:
            self._read(reading, learn=learned is None)
        coming = (self.pieces.get(number) for _, number in self.coming)
        self.first_busy_ns = min((piece.start_ns for piece in coming if piece and piece.load.busy_ns), default=-1)

    def _under_way(self) -> list[tuple[int, Piece]]:
        """Without those that were taken before their energy came."""
        return [(number, piece) for number in self.under_way if (piece := self.pieces.get(number)) is not None]

    def _see(self, at_ns: int, settled_ns: int = -1) -> None:
        """Pieces that begin before *at_ns* are under way; those that end by *settled_ns* are no longer."""
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
        """Take a reading at its place. *learn*: or its window has been learned from already."""
        if reading.period_ns and not self.period_known:
            self.period_known = True
            self.lag.restart()
        at_ns, value = reading.at_ns - self.lag.lag_ns, reading.energy_uj
        if at_ns <= self.told_ns and self.told_ns >= 0 and not reading.fault:
            return
        self.told_ns = max(self.told_ns, at_ns)
        self._see(reading.at_ns)
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
            self._stand(reading, at_ns, value)
        elif another or value < self.last_uj or reading.fault == "reset":
            self.resets += 1
            self.give_up(at_ns)
            self._stand(reading, at_ns, value)
        elif value == self.last_uj and at_ns - self.last_ns <= FROZEN_NS:
            return  # it has not moved yet: the window goes on
        elif value == self.last_uj:
            self.give_up(at_ns)
        else:
            gained_uj = value - self.last_uj
            self._distribute(at_ns, gained_uj, learn=learn)
            if reading.source == "nvml_counter":
                self.check.window(reading.at_ns - self.read_ns, gained_uj, (self.read_mw, reading.power_mw))
            if self.lag.window(self.read_ns, reading.at_ns, gained_uj, choose=learn):
                self.model.begin_anew()  # what it had learned was of windows in the wrong place
            self._stand(reading, at_ns, value)

    def _of_another_count(self, reading: Reading) -> bool:
        """The reading is of a count that does not go on from the last one: its gain, its scope, ... is another."""
        known = self.sensor
        return known is not None and sensor_of(reading, known.host, known.clock_ns) != known

    def _stand(self, reading: Reading, at_ns: int, value: int) -> None:
        self.last_ns, self.last_uj = at_ns, value
        self.read_ns, self.read_mw = reading.at_ns, reading.power_mw
        self._see(at_ns, at_ns)

    def _distribute(self, end_ns: int, energy_uj: int, *, learn: bool) -> None:
        """Give a window's energy to the pieces in it, by the model's expectation of each."""
        start_ns = self.last_ns
        if self.given_up_ns > start_ns:
            # Part of the window is over for its pieces: its even share of the energy is the device's own.
            gone_until_ns = min(self.given_up_ns, end_ns)
            gone_uj = energy_uj * (gone_until_ns - start_ns) // (end_ns - start_ns)
            self.outside_uj += gone_uj
            energy_uj -= gone_uj
            start_ns = gone_until_ns
        names: list[int] = []
        loads: list[Load] = []
        covered_ns = 0
        coefficients = self.model.regression.coefficients()
        for number, piece in self._under_way():
            begin, end = max(piece.start_ns, start_ns), min(piece.end_ns, end_ns)
            if begin >= end:
                continue
            length = piece.end_ns - piece.start_ns
            names.append(number)
            loads.append(piece.load.times((end - begin) / length))
            # Cumulative, so that the windows of a piece sum to it.
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
        for number, share in zip(names, shares, strict=False):
            self.pieces[number].uj += share
        self.outside_uj += shares[-1]
        self.attributed_uj += energy_uj - shares[-1]
        if learn and end_ns - start_ns <= LEARN_NS:
            whole = uncovered
            for load in loads:
                whole = whole.plus(load)
            self.model.observe(whole, energy_uj)


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
