"""Time and energy of devices: meter rows tile the clock, and the postings are the meter rows."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from costtrace.core.rows import KINDS
from costtrace.ledger.verify.lines import (
    Discrepancy,
    EngineLine,
    MeterLine,
    WindowSums,
    energy_must_be_known,
    paired,
    shown,
    window,
)

_ALL_KINDS = "request + idle + overhead + unobserved"


def check_windows(
    posted: Iterable[WindowSums], metered: Iterable[WindowSums], still_open: Mapping[str, int]
) -> Iterator[Discrepancy]:
    """Per engine and window: postings and meter rows have the same time of each kind, and the same energy.

    Both streams are sorted by engine and window. *still_open*: the window that a running engine has not filled yet;
    requests that ended in it are posted already, its meter rows are not.
    """
    for bill, meter in paired(posted, metered, lambda sums: sums[:2], lambda sums: sums[:2]):
        engine_id, window_ns, *_ = bill or meter or ("", 0)
        row = f"engine {engine_id}, window {window(window_ns)}"
        for kind in KINDS:
            due = getattr(meter, f"{kind}_ns", 0)
            posted_ns = getattr(bill, f"{kind}_ns", 0)
            if kind == "request" and posted_ns > due and still_open.get(engine_id) == window_ns:
                continue
            if due != posted_ns:
                field = f"sum of posting.gpu_ns where kind = '{kind}'"
                meaning = f"the postings hold {posted_ns - due:+d} ns of {kind} time against the engine's meter rows"
                yield Discrepancy("postings = meter", row, field, str(due), str(posted_ns), meaning)
        if meter is not None or still_open.get(engine_id) != window_ns:
            yield from _check_energy(row, bill, meter)


_ENERGY_SUMS = (
    ("energy_uj", "energy_uj", "uJ", "energy"),
    ("energy_unknown_ns", "gap_ns", "ns", "time whose energy is unknown"),
)
"""Field, column of the ledger, unit, and its name for people."""


def _check_energy(row: str, bill: WindowSums | None, meter: WindowSums | None) -> Iterator[Discrepancy]:
    for field, column, unit, name in _ENERGY_SUMS:
        due, posted = getattr(meter, field, 0), getattr(bill, field, 0)
        if due != posted:
            meaning = f"the postings hold {posted - due:+d} {unit} of {name} against the engine's meter rows"
            yield Discrepancy("energy = meter", row, f"sum of posting.{column}", str(due), str(posted), meaning)


def check_tiling(meter: Iterable[MeterLine], engines: Mapping[str, EngineLine]) -> Iterator[Discrepancy]:
    """Per engine and device: rows follow each other, without a gap, from the engine's start to its end.

    *meter* is sorted by engine, device and start.
    """
    last: dict[str, dict[str, MeterLine]] = {}
    for (engine_id, device), group in groupby(meter, lambda line: (line.engine_id, line.device)):
        engine = engines.get(engine_id)
        previous: MeterLine | None = None
        for line in group:
            due = previous.end_ns if previous else engine.started_ns if engine else line.start_ns
            if line.start_ns != due:
                yield _gap(line, due, first=previous is None)
            yield from _check_row(line)
            previous = line
        if previous is None or engine is None:
            continue
        last.setdefault(engine_id, {})[device] = previous
        if device not in engine.devices:
            yield _foreign_device(previous, engine)
    for engine in engines.values():
        yield from _check_ends(engine, last.get(engine.engine_id, {}))


def _gap(line: MeterLine, due: int, *, first: bool) -> Discrepancy:
    where = "the engine's start" if first else "the end of the row before"
    meaning = "a gap: time that nobody metered" if line.start_ns > due else "an overlap: time that is metered twice"
    return Discrepancy("meter tiles the clock", line.name, "start_ns", f"{due} ({where})", str(line.start_ns), meaning)


def _foreign_device(line: MeterLine, engine: EngineLine) -> Discrepancy:
    due = f"one of {', '.join(engine.devices)}"
    meaning = "the engine has no such device: its time would be billed twice"
    return Discrepancy("meter tiles the clock", line.name, "device", due, line.device, meaning)


def _check_row(line: MeterLine) -> Iterator[Discrepancy]:
    for kind in KINDS:
        value = getattr(line, f"{kind}_ns")
        if value < 0:
            meaning = "no device runs backwards"
            yield Discrepancy("no negative", line.name, f"{kind}_ns", "0 or more", str(value), meaning)
    length = line.end_ns - line.start_ns
    if line.metered_ns > length:
        due = f"at most {length} (end - start)"
        meaning = f"{line.metered_ns - length} ns more than all of the device's time in this window"
        yield Discrepancy("meter row = wall time", line.name, _ALL_KINDS, due, str(line.metered_ns), meaning)
    yield from _check_row_energy(line)


def _check_row_energy(line: MeterLine) -> Iterator[Discrepancy]:
    energy_uj = line.energy_uj
    if energy_uj is not None and (energy_uj < 0 or line.energy_source in {"", "none"}):
        due, actual = "0 or more, with its source", f"{energy_uj} from {line.energy_source or 'nowhere'}"
        meaning = "a counter never runs backwards, and an energy that was not measured is unknown"
        yield Discrepancy("energy has a source", line.name, "energy_uj", due, actual, meaning)
    if (energy_uj is not None) != energy_must_be_known(line.metered_ns, energy_uj, line.energy_unknown_ns):
        due = "known" if energy_uj is None else shown(None)
        meaning = f"the energy of {line.energy_unknown_ns} ns out of {line.metered_ns} ns is unknown"
        yield Discrepancy("unknown is not 0", line.name, "energy_uj", due, shown(energy_uj), meaning)
    if not 0 <= line.energy_unknown_ns <= line.metered_ns:
        due, meaning = f"0 to {line.metered_ns}", "it is a part of the time that the device gave"
        yield Discrepancy("unknown is not 0", line.name, "gap_ns", due, str(line.energy_unknown_ns), meaning)


def _check_ends(engine: EngineLine, last: Mapping[str, MeterLine]) -> Iterator[Discrepancy]:
    """Check that all devices are metered to the engine's end, or, while it runs, to the same moment."""
    row = f"engine {engine.engine_id}"
    end_ns = engine.ended_ns or max((line.end_ns for line in last.values()), default=engine.started_ns)
    where = "the engine's end" if engine.ended_ns else "where its other devices are"
    for device in engine.devices:
        until_ns = last[device].end_ns if device in last else engine.started_ns
        if until_ns != end_ns:
            name = last[device].name if device in last else f"{row}, device {device}"
            early = until_ns < end_ns
            meaning = "time of the engine that nobody metered" if early else "metered beyond the engine's end"
            yield Discrepancy("meter tiles the clock", name, "end_ns", f"{end_ns} ({where})", str(until_ns), meaning)
    if engine.done and not engine.ended_ns:
        due, meaning = "0 while the engine runs", "its journal is not read any further"
        yield Discrepancy("positions", row, "position.done", due, "1", meaning)
    if engine.done is None:
        meaning = "the agent would read the journal again and bill it twice"
        yield Discrepancy("positions", row, "position", "a row", "none", meaning)


class Device(NamedTuple):
    """One device over the whole ledger: the wall time that any engine had it, and the time on their meter rows."""

    device: str
    engines: tuple[str, ...]
    wall_ns: int
    metered_ns: int
    off_ns: int
    """By how much `metered_ns` differs from `wall_ns`, without `open_ns`."""
    open_ns: int
    """The newest part of `wall_ns`, for which an engine that shares the device has no row yet."""


class DeviceCheck:
    """No device bills more or less than its wall time, however many engines share it.

    A stretch is a longest run of rows that overlap: one row where an engine has the device to itself, about the rows of
    one window where several share it. The time on the rows of a stretch must be its length.
    """

    def __init__(self, engines: Mapping[str, EngineLine]) -> None:
        self._engines = engines
        self._metered_until_ns: dict[tuple[str, str], int] = {}
        self.devices: list[Device] = []

    def check(self, meter: Iterable[MeterLine]) -> Iterator[Discrepancy]:
        """Compare metered time with wall time. *meter* is sorted by device, clock and start."""
        for (_, clock), group in groupby(meter, lambda line: (line.device, self._clock(line))):
            wall_ns = metered_ns = off_ns = open_ns = 0
            names: set[str] = set()
            for stretch in _stretches(group):
                length = stretch.end_ns - stretch.start_ns
                wall_ns += length
                metered_ns += stretch.metered_ns
                names |= stretch.engines
                if stretch.metered_ns == length:
                    continue
                if stretch.end_ns > self._horizon(stretch.first.device, clock):
                    open_ns += length
                else:
                    off_ns += stretch.metered_ns - length
                    yield _not_its_length(stretch)
            device, engines = stretch.first.device, tuple(sorted(names))
            self.devices.append(Device(device, engines, wall_ns, metered_ns, off_ns, open_ns))

    def set_metered_until(self, until: Mapping[str, int]) -> None:
        """Set the monotonic ns to which each engine has rows: beyond, time on a device that it shares is open."""
        for engine in self._engines.values():
            if not engine.ended_ns:
                for device in engine.devices:
                    key = (device, engine.clock)
                    until_ns = until.get(engine.engine_id, engine.started_ns)
                    self._metered_until_ns[key] = min(self._metered_until_ns.get(key, until_ns), until_ns)

    def _horizon(self, device: str, clock: str) -> int:
        return self._metered_until_ns.get((device, clock), 1 << 63)

    def _clock(self, line: MeterLine) -> str:
        engine = self._engines.get(line.engine_id)
        return engine.clock if engine else ""


class _Stretch:
    """Rows of one device that overlap each other."""

    def __init__(self, first: MeterLine) -> None:
        self.first = first
        self.start_ns, self.end_ns, self.metered_ns = first.start_ns, first.end_ns, first.metered_ns
        self.engines = {first.engine_id}
        self.rows = 1

    def add(self, line: MeterLine) -> None:
        self.end_ns = max(self.end_ns, line.end_ns)
        self.metered_ns += line.metered_ns
        self.engines.add(line.engine_id)
        self.rows += 1


def _stretches(lines: Iterable[MeterLine]) -> Iterator[_Stretch]:
    stretch: _Stretch | None = None
    for line in lines:
        if stretch is not None and line.start_ns < stretch.end_ns:
            stretch.add(line)
            continue
        if stretch is not None:
            yield stretch
        stretch = _Stretch(line)
    if stretch is not None:
        yield stretch


def _not_its_length(stretch: _Stretch) -> Discrepancy:
    length, first = stretch.end_ns - stretch.start_ns, stretch.first
    row = first.name
    if stretch.rows > 1:
        row = (
            f"device {first.device}, {stretch.rows} meter rows from {stretch.start_ns} to {stretch.end_ns}, "
            f"first window {window(first.window_ns)}, engines {', '.join(sorted(stretch.engines))}"
        )
    meaning = f"the device gives {stretch.metered_ns - length:+d} ns against its wall time"
    return Discrepancy("device = wall time", row, _ALL_KINDS, f"{length} (wall time)", str(stretch.metered_ns), meaning)
