"""Energy and its carbon by tenant and model: an estimate, of the energy that is known. Pure."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.units import show_joules
from costtrace.ledger.answers import Used
from costtrace.pricing.carbon import CarbonIntensity, show_grams
from costtrace.reports.output.tables import Column, Row, Table, text

EVERYTHING = "everything"
NOTES = (
    "An ESTIMATE: energy x PUE x the grid's mean intensity at that time (location-based, operational). Of the metered",
    "devices only: no hosts, no network, nothing of what it took to build them. `+ ?`: some of the energy is unknown.",
)


class Emitted(NamedTuple):
    """Energy, and the CO2e of the part of it whose grid intensity is known."""

    energy_uj: int = 0
    carbon_ug: Fraction = Fraction(0)
    unknown_ns: int = 0
    """Device time whose energy, or whose grid's intensity, is not known."""
    known: bool = False
    simulated: bool = False

    def plus(self, other: "Emitted") -> "Emitted":
        """The sum of both."""
        return Emitted(
            self.energy_uj + other.energy_uj,
            self.carbon_ug + other.carbon_ug,
            self.unknown_ns + other.unknown_ns,
            self.known or other.known,
            self.simulated or other.simulated,
        )


class CarbonLine(NamedTuple):
    """What the requests of some keys, or another kind of time, drew and emitted."""

    keys: tuple[str, ...]
    kind: str
    emitted: Emitted

    @property
    def energy_uj(self) -> int | None:
        """None: nothing of it is known."""
        return self.emitted.energy_uj if self.emitted.known or self.emitted.energy_uj else None

    @property
    def carbon_ug(self) -> int | None:
        """None: nothing of it is known."""
        return round(self.emitted.carbon_ug) if self.emitted.known else None


def carbon_table(by: Sequence[str], used: Iterable[Used], intensity: CarbonIntensity, title: str) -> Table[CarbonLine]:
    """One line for each of *by*, and one for everything. The last key of each row of *used* is its quarter hour."""
    sums: dict[tuple[tuple[str, ...], str], Emitted] = {}
    total = Emitted()
    for row in used:
        key = (row.keys[:-1], row.kind)
        emitted = _emitted(row, intensity)
        sums[key] = sums.get(key, Emitted()).plus(emitted)
        total = total.plus(emitted)
    lines = sorted((CarbonLine(keys, kind, emitted) for (keys, kind), emitted in sums.items()), key=_heaviest)
    lines.append(CarbonLine(("",) * len(by), EVERYTHING, total))

    def key_column(name: str, place: int) -> Column[CarbonLine]:
        return text(name, lambda line: line.keys[place])

    columns: list[Column[CarbonLine]] = [
        *(key_column(name, place) for place, name in enumerate(by)),
        text("", lambda line: "" if line.kind == "request" else line.kind),
        Column("energy", _energy),
        Column("gCO2e (estimate)", _grams),
    ]
    notes = (*NOTES, f"Intensity: {intensity.source}; PUE {intensity.pue}.")
    return Table("carbon", title, columns, lines, lambda line: _exact(by, line), notes)


def _emitted(row: Used, intensity: CarbonIntensity) -> Emitted:
    if row.energy_uj is None:
        return Emitted(unknown_ns=row.gpu_ns)
    carbon_ug = intensity.micrograms(row.energy_uj, int(row.keys[-1]))
    simulated = bool(row.simulated)
    if carbon_ug is None:
        return Emitted(row.energy_uj, unknown_ns=row.gpu_ns, simulated=simulated)
    return Emitted(row.energy_uj, carbon_ug, row.energy_unknown_ns, known=True, simulated=simulated)


def _heaviest(line: CarbonLine) -> tuple[object, ...]:
    return (line.kind != "request", -line.emitted.carbon_ug, line.kind, line.keys)


def _exact(by: Sequence[str], line: CarbonLine) -> Row:
    return {
        **dict(zip(by, line.keys, strict=True)),
        "kind": line.kind,
        "energy_uj": line.energy_uj,
        "carbon_ug": line.carbon_ug,
        "unknown_gpu_ns": line.emitted.unknown_ns,
        "estimate": True,
        "simulated": line.emitted.simulated,
    }


def _energy(line: CarbonLine) -> str:
    return _with_unknown(line, show_joules(line.energy_uj, simulated=line.emitted.simulated))


def _grams(line: CarbonLine) -> str:
    return _with_unknown(line, show_grams(line.carbon_ug, simulated=line.emitted.simulated))


def _with_unknown(line: CarbonLine, shown: str) -> str:
    return f"{shown} + ?" if line.emitted.unknown_ns and shown != "unknown" else shown
