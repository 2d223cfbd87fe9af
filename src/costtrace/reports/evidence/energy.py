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
    """``pending``: the rows are not there yet."""
    scope: str
    gain: str
    share: str
    host: str
    """Whose agent read it, where that is another node's."""
    clock_ns: int
    """... and how uncertain its windows' places are, as declared."""
    simulated: int
    energy_uj: int | None
    device_ns: int
    unknown_ns: int
    pending_ns: int


def energy_table(found: Iterable[Metered], when: str) -> Table:
    """One line for each device of an engine and way of reading it."""
    columns = [
        text("engine", "engine_id"),
        text("device", "device"),
        Column("device time", lambda row: _time(row, "device_ns")),
        Column("energy", _energy),
        Column("unknown", lambda row: _time(row, "unknown_ns")),
        Column("pending", lambda row: _time(row, "pending_ns")),
        text("source", "source"),
        Column("scope", lambda row: SCOPES.get(str(row["scope"]), str(row["scope"])), right=False),
        text("gain", "gain"),
        Column("estimate", lambda row: f"{row['share']} of its board" if row["share"] else "", right=False),
        Column("read by", _host, right=False),
    ]
    rows: list[Row] = [{**each._asdict(), "simulated": bool(each.simulated)} for each in found]
    return Table("energy", f"Energy by device, {when}", columns, rows, NOTES, Metered._fields)


def _energy(row: Row) -> str:
    uj = row["energy_uj"]
    if row["source"] == "pending":
        return "pending"
    return show_joules(uj if isinstance(uj, int) else None, simulated=bool(row["simulated"]))


def _time(row: Row, key: str) -> str:
    value = row[key]
    return show_seconds(value) if isinstance(value, int) and value else ""


def _host(row: Row) -> str:
    if not row["host"]:
        return "this node"
    clock_ns = row["clock_ns"]
    uncertain = f", placed to {clock_ns / NS_PER_MS:g} ms" if isinstance(clock_ns, int) and clock_ns else ""
    return f"{row['host']}{uncertain}"
