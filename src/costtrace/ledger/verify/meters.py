"""Time and energy of devices: meter rows tile the clock, and the postings are the meter rows."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from costtrace.core.rows import KINDS, is_known
from costtrace.ledger.verify.lines import Discrepancy, EngineLine, MeterLine, WindowSums, paired, shown, window


def check_windows(
    posted: Iterable[WindowSums], metered: Iterable[WindowSums], still_open: Mapping[str, int]
) -> Iterator[Discrepancy]:
    """Per engine and window: the postings of each kind are the meter rows of that kind; energy too. Sorted streams.

    *still_open* names the window that an engine is filling: requests that ended in it are posted, its meter is not.
    """
    for bill, meter in paired(posted, metered, lambda sums: sums[:2], lambda sums: sums[:2]):
        engine_id, window_ns, *_ = bill or meter or ("", 0)
        row = f"engine {engine_id}, window {window(window_ns)}"
        for kind in KINDS:
            due = getattr(meter, f"{kind}_ns", 0)
            found = getattr(bill, f"{kind}_ns", 0)
            if kind == "request" and found > due and still_open.get(engine_id) == window_ns:
                continue
            if due != found:
                yield Discrepancy(
                    "postings = meter",
                    row,
                    f"sum of posting.gpu_ns where kind = '{kind}'",
                    str(due),
                    str(found),
                    f"the postings hold {found - due:+d} ns of {kind} time against the engine's meter rows",
                )
        if meter is not None or still_open.get(engine_id) != window_ns:
            yield from _check_energy(row, bill, meter)


_ENERGY_SUMS = (
    ("energy_uj", "energy_uj", "uJ", "energy"),
    ("energy_unknown_ns", "gap_ns", "ns", "time whose energy is unknown"),
)
"""Field, column of the ledger, unit, and what it is."""


def _check_energy(row: str, bill: WindowSums | None, meter: WindowSums | None) -> Iterator[Discrepancy]:
    for field, column, unit, what in _ENERGY_SUMS:
        due, found = getattr(meter, field, 0), getattr(bill, field, 0)
        if due != found:
            yield Discrepancy(
                "energy = meter",
                row,
                f"sum of posting.{column}",
                str(due),
                str(found),
                f"the postings hold {found - due:+d} {unit} of {what} against the engine's meter rows",
            )


def check_tiling(meter: Iterable[MeterLine], engines: Mapping[str, EngineLine]) -> Iterator[Discrepancy]:
    """Per engine and device: rows follow each other from its start to its end. Sorted by engine, device, start."""
    seen: dict[str, dict[str, MeterLine]] = {}
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
        seen.setdefault(engine_id, {})[device] = previous
        if device not in engine.devices:
            yield _stray(previous, engine)
    for engine in engines.values():
        yield from _check_ends(engine, seen.get(engine.engine_id, {}))


def _gap(line: MeterLine, due: int, *, first: bool) -> Discrepancy:
    what = "the engine's start" if first else "the end of the row before"
    kind = "a gap: time that nobody metered" if line.start_ns > due else "an overlap: time that is metered twice"
    return Discrepancy("meter tiles the clock", line.name, "start_ns", f"{due} ({what})", str(line.start_ns), kind)


def _stray(line: MeterLine, engine: EngineLine) -> Discrepancy:
    return Discrepancy(
        "meter tiles the clock",
        line.name,
        "device",
        f"one of {', '.join(engine.devices)}",
        line.device,
        "the engine has no such device: its time would be billed twice",
    )


def _check_row(line: MeterLine) -> Iterator[Discrepancy]:
    for kind in KINDS:
        value = getattr(line, f"{kind}_ns")
        if value < 0:
            yield Discrepancy(
                "no negative", line.name, f"{kind}_ns", "0 or more", str(value), "no device runs backwards"
            )
    length = line.end_ns - line.start_ns
    if line.given_ns > length:
        yield Discrepancy(
            "meter row = wall time",
            line.name,
            "request + idle + overhead + unobserved",
            f"at most {length} (end - start)",
            str(line.given_ns),
            f"{line.given_ns - length} ns more than all of the device's time in this window",
        )
    yield from _check_row_energy(line)


def _check_row_energy(line: MeterLine) -> Iterator[Discrepancy]:
    energy_uj = line.energy_uj
    if energy_uj is not None and (energy_uj < 0 or line.energy_source in {"", "none"}):
        yield Discrepancy(
            "energy has a source",
            line.name,
            "energy_uj",
            "0 or more, with its source",
            f"{energy_uj} from {line.energy_source or 'nowhere'}",
            "a counter never runs backwards, and an energy that was not measured is unknown",
        )
    if (energy_uj is not None) != is_known(line.given_ns, energy_uj or 0, line.energy_unknown_ns):
        due = "known" if energy_uj is None else shown(None)
        meaning = f"the energy of {line.energy_unknown_ns} ns out of {line.given_ns} ns is unknown"
        yield Discrepancy("unknown is not 0", line.name, "energy_uj", due, shown(energy_uj), meaning)
    if not 0 <= line.energy_unknown_ns <= line.given_ns:
        due, meaning = f"0 to {line.given_ns}", "it is a part of the time that the device gave"
        yield Discrepancy("unknown is not 0", line.name, "gap_ns", due, str(line.energy_unknown_ns), meaning)


def _check_ends(engine: EngineLine, last: Mapping[str, MeterLine]) -> Iterator[Discrepancy]:
    """All devices are metered to the engine's end, or, while it runs, to the same moment."""
    row = f"engine {engine.engine_id}"
    end_ns = engine.ended_ns or max((line.end_ns for line in last.values()), default=engine.started_ns)
    what = "the engine's end" if engine.ended_ns else "where its other devices are"
    for device in engine.devices:
        found = last[device].end_ns if device in last else engine.started_ns
        if found != end_ns:
            yield Discrepancy(
                "meter tiles the clock",
                last[device].name if device in last else f"{row}, device {device}",
                "end_ns",
                f"{end_ns} ({what})",
                str(found),
                "time of the engine that nobody metered" if found < end_ns else "metered beyond the engine's end",
            )
    if engine.done and not engine.ended_ns:
        yield Discrepancy(
            "positions", row, "position.done", "0 while the engine runs", "1", "its journal is not read any further"
        )
    if engine.done is None:
        yield Discrepancy(
            "positions", row, "position", "a row", "none", "the agent would read the journal again and bill it twice"
        )


class Device(NamedTuple):
    """What a device gave in all: the wall time that any engine had it, and what they were given."""

    device: str
    engines: tuple[str, ...]
    wall_ns: int
    given_ns: int
    off_ns: int
    """By how much that differs, where it can be judged."""
    open_ns: int
    """Of `wall_ns`: newest time, for which an engine that shares the device has no row yet."""


class DeviceCheck:
    """No device bills more or less than its wall time, however many engines share it.

    The rows of a device are cut where no row goes across: one row where an engine has the device to itself, the rows
    of one window where several share it. What such a stretch gives must be its length.
    """

    def __init__(self, engines: Mapping[str, EngineLine]) -> None:
        self._engines = engines
        self._known_ns: dict[tuple[str, str], int] = {}
        self.devices: list[Device] = []

    def check(self, meter: Iterable[MeterLine]) -> Iterator[Discrepancy]:
        """Compare time given with wall time. *meter* is sorted by device, clock and start."""
        for (_, clock), group in groupby(meter, lambda line: (line.device, self._clock(line))):
            wall_ns = given_ns = off_ns = open_ns = 0
            names: set[str] = set()
            for stretch in _stretches(group):
                length = stretch.end_ns - stretch.start_ns
                wall_ns += length
                given_ns += stretch.given_ns
                names |= stretch.engines
                if stretch.given_ns == length:
                    continue
                if stretch.end_ns > self._horizon(stretch.first.device, clock):
                    open_ns += length
                else:
                    off_ns += stretch.given_ns - length
                    yield _uneven(stretch)
            self.devices.append(Device(stretch.first.device, tuple(sorted(names)), wall_ns, given_ns, off_ns, open_ns))

    def known(self, tails: Mapping[str, int]) -> None:
        """Say up to where each engine has rows; for engines that run, others' time beyond cannot be judged."""
        for engine in self._engines.values():
            if not engine.ended_ns:
                for device in engine.devices:
                    key = (device, engine.clock)
                    until_ns = tails.get(engine.engine_id, engine.started_ns)
                    self._known_ns[key] = min(self._known_ns.get(key, until_ns), until_ns)

    def _horizon(self, device: str, clock: str) -> int:
        return self._known_ns.get((device, clock), 1 << 63)

    def _clock(self, line: MeterLine) -> str:
        engine = self._engines.get(line.engine_id)
        return engine.clock if engine else ""


class _Stretch:
    """Rows of one device that overlap each other."""

    def __init__(self, first: MeterLine) -> None:
        self.first = first
        self.start_ns, self.end_ns, self.given_ns = first.start_ns, first.end_ns, first.given_ns
        self.engines = {first.engine_id}
        self.rows = 1

    def add(self, line: MeterLine) -> None:
        self.end_ns = max(self.end_ns, line.end_ns)
        self.given_ns += line.given_ns
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


def _uneven(stretch: _Stretch) -> Discrepancy:
    length, first = stretch.end_ns - stretch.start_ns, stretch.first
    row = first.name
    if stretch.rows > 1:
        row = (
            f"device {first.device}, {stretch.rows} meter rows from {stretch.start_ns} to {stretch.end_ns}, "
            f"first window {window(first.window_ns)}, engines {', '.join(sorted(stretch.engines))}"
        )
    return Discrepancy(
        "device = wall time",
        row,
        "request + idle + overhead + unobserved",
        f"{length} (wall time)",
        str(stretch.given_ns),
        f"the device gives {stretch.given_ns - length:+d} ns against its wall time",
    )
