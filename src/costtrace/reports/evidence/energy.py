"""How each device's energy was read, and what of it is estimated, unknown or pending. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

from costtrace.core.units import NS_PER_MS, show_joules, show_seconds
from costtrace.reports.output.tables import Column, Row, Table, text

SCOPES = {
    "gpu": "GPU",
    "module": "module (CPU, GPU and memory)",
    "board_shared_by_mig": "board, shared by MIG",
    "package": "CPU package",
}
NOTES = (
    "estimate: a MIG instance has no meter; it is given a fixed part of its board's joules by declared rule.",
    "unknown: device time whose energy is in no joule here. pending: device time that is on no row yet, because the",
    "readings of a device on another node have not arrived.",
)


class Metered(NamedTuple):
    """Windows of one engine on one device that were read in one way."""

    engine_id: str
    device: str
    source: str
    """``pending``: these readings have not arrived."""
    scope: str
    gain: str
    share: str
    host: str
    """Whose agent read it, where that is another node's."""
    clock_ns: int
    """The declared uncertainty of where its windows are in time."""
    simulated: int
    energy_uj: int | None
    device_ns: int
    unknown_ns: int
    pending_ns: int


def energy_table(lines: Iterable[Metered], when: str) -> Table[Metered]:
    """One line for each device of an engine and way of reading it."""
    columns: list[Column[Metered]] = [
        text("engine", lambda line: line.engine_id),
        text("device", lambda line: line.device),
        Column("device time", lambda line: _time(line.device_ns)),
        Column("energy", _energy),
        Column("unknown", lambda line: _time(line.unknown_ns)),
        Column("pending", lambda line: _time(line.pending_ns)),
        text("source", lambda line: line.source),
        text("scope", lambda line: SCOPES.get(line.scope, line.scope)),
        text("gain", lambda line: line.gain),
        text("estimate", lambda line: f"{line.share} of its board" if line.share else ""),
        text("read by", _host),
    ]
    title = f"Energy by device, {when}"
    return Table("energy", title, columns, list(lines), _exact, NOTES, Metered._fields)


def _exact(line: Metered) -> Row:
    return {**line._asdict(), "simulated": bool(line.simulated)}


def _energy(line: Metered) -> str:
    return "pending" if line.source == "pending" else show_joules(line.energy_uj, simulated=bool(line.simulated))


def _time(ns: int) -> str:
    return show_seconds(ns) if ns else ""


def _host(line: Metered) -> str:
    if not line.host:
        return "this node"
    return f"{line.host}, placed to {line.clock_ns / NS_PER_MS:g} ms" if line.clock_ns else line.host
