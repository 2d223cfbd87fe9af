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
    """Energy of one line, and the CO2e of it that can be told."""

    energy_uj: int = 0
    carbon_ug: Fraction = Fraction(0)
    unknown_ns: int = 0
    """Device time whose energy, or whose grid's intensity, is not known."""
    known: bool = False
    simulated: bool = False

    def plus(self, other: "Emitted") -> "Emitted":
        """Both."""
        return Emitted(
            self.energy_uj + other.energy_uj,
            self.carbon_ug + other.carbon_ug,
            self.unknown_ns + other.unknown_ns,
            self.known or other.known,
            self.simulated or other.simulated,
        )


def carbon_table(by: Sequence[str], used: Iterable[Used], intensity: CarbonIntensity, title: str) -> Table:
    """One line for each of *by*, and one for everything. The last key of each row of *used* is its quarter hour."""
    lines: dict[tuple[tuple[str, ...], str], Emitted] = {}
    total = Emitted()
    for row in used:
        key = (row.keys[:-1], row.kind)
        one = _emitted(row, intensity)
        lines[key] = lines.get(key, Emitted()).plus(one)
        total = total.plus(one)
    rows: list[Row] = [_row(by, keys, kind, line) for (keys, kind), line in sorted(lines.items(), key=_heaviest)]
    rows.append(_row(by, ("",) * len(by), EVERYTHING, total))
    columns = [
        *(text(name, name) for name in by),
        Column("", lambda row: "" if row["kind"] == "request" else str(row["kind"]), right=False),
        Column(
            "energy", lambda row: _known(row, show_joules(_int(row, "energy_uj"), simulated=bool(row["simulated"])))
        ),
        Column(
            "gCO2e (estimate)",
            lambda row: _known(row, show_grams(_int(row, "carbon_ug"), simulated=bool(row["simulated"]))),
        ),
    ]
    notes = (*NOTES, f"Intensity: {intensity.source}; PUE {intensity.pue}.")
    return Table("carbon", title, columns, rows, notes)


def _emitted(row: Used, intensity: CarbonIntensity) -> Emitted:
    if row.energy_uj is None:
        return Emitted(unknown_ns=row.gpu_ns)
    carbon_ug = intensity.micrograms(row.energy_uj, int(row.keys[-1]))
    simulated = bool(row.simulated)
    if carbon_ug is None:
        return Emitted(row.energy_uj, unknown_ns=row.gpu_ns, simulated=simulated)
    return Emitted(row.energy_uj, carbon_ug, row.energy_unknown_ns, known=True, simulated=simulated)


def _heaviest(item: tuple[tuple[tuple[str, ...], str], Emitted]) -> tuple[object, ...]:
    (keys, kind), line = item
    return (kind != "request", -line.carbon_ug, kind, keys)


def _row(by: Sequence[str], keys: tuple[str, ...], kind: str, line: Emitted) -> Row:
    return {
        **dict(zip(by, keys, strict=True)),
        "kind": kind,
        "energy_uj": line.energy_uj if line.known or line.energy_uj else None,
        "carbon_ug": round(line.carbon_ug) if line.known else None,
        "unknown_gpu_ns": line.unknown_ns,
        "estimate": True,
        "simulated": line.simulated,
    }


def _known(row: Row, shown: str) -> str:
    return f"{shown} + ?" if row["unknown_gpu_ns"] and shown != "unknown" else shown


def _int(row: Row, key: str) -> int | None:
    value = row[key]
    return value if isinstance(value, int) else None
