"""The trial balance as tables: what the meter gave, what the postings hold, and the difference, which is 0."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from costtrace.core.rows import KINDS
from costtrace.core.units import seconds, show_amount, show_joules
from costtrace.ledger.verify.audit import Audit
from costtrace.ledger.verify.lines import DeviceLine, Discrepancy, EngineTotals
from costtrace.ledger.verify.meters import Device
from costtrace.ledger.verify.money import Account
from costtrace.reports.output.tables import AnyTable, Column, Line, Row, Table, count, text

EVERY_ENGINE = "(all engines)"


class TimeLine(NamedTuple):
    """Where the wall time of a device went while an engine (or each of several) had it."""

    device: str
    engine: str
    wall_ns: int
    request_ns: int
    idle_ns: int
    overhead_ns: int
    unobserved_ns: int
    difference_ns: int | None
    """None: the device is shared; the difference is on the line of all its engines."""


class MoneyLine(NamedTuple):
    """Charges of an engine at one rate, and what its time and energy come to at that rate. None: there is no price."""

    engine: str
    rate_id: str
    currency: str
    charged_nano: int | None
    due_nano: int | None
    gpu_ns: int

    @property
    def difference_nano(self) -> int | None:
        """0, or the charge is wrong."""
        return None if self.charged_nano is None or self.due_nano is None else self.charged_nano - self.due_nano


def _duration(heading: str, ns: Callable[[Line], int]) -> Column[Line]:
    """Seconds to the nanosecond: a trial balance hides nothing behind a rounding."""

    def show(line: Line) -> str:
        value = ns(line)
        return f"{value // 10**9:,}.{value % 10**9:09d}" if value >= 0 else str(value)

    return Column(heading, show)


def time_table(lines: Sequence[DeviceLine], devices: Iterable[Device]) -> Table[TimeLine]:
    """Per device and engine: where the wall time went."""
    notes: list[str] = []
    apart = {(line.device, line.engine_id) for line in lines if line.metered_ns < line.wall_ns}
    shared = [
        device
        for device in devices
        if len(device.engines) > 1 and any((device.device, engine) in apart for engine in device.engines)
    ]
    together = {(device.device, engine) for device in shared for engine in device.engines}
    times: list[TimeLine] = []
    for line in lines:
        key = (line.device, line.engine_id)
        difference = None if key in apart & together else line.metered_ns - line.wall_ns
        times.append(_time_line(line.device, line.engine_id, line.wall_ns, [line], difference))
    for device in shared:
        parts = [line for line in lines if line.device == device.device and line.engine_id in device.engines]
        times.append(_time_line(device.device, EVERY_ENGINE, device.wall_ns, parts, device.off_ns))
    if shared:
        notes.append("A device of several engines: each has a part of its time, the difference has a line of its own.")
    if open_ns := sum(device.open_ns for device in shared):
        notes.append(f"Still open: {seconds(open_ns):.3f} s of shared devices, until every engine has its rows there.")
    columns: tuple[Column[TimeLine], ...] = (
        text("device", lambda line: line.device),
        text("engine", lambda line: line.engine),
        _duration("wall s", lambda line: line.wall_ns),
        _duration("requests s", lambda line: line.request_ns),
        _duration("idle s", lambda line: line.idle_ns),
        _duration("overhead s", lambda line: line.overhead_ns),
        _duration("unobserved s", lambda line: line.unobserved_ns),
        count("difference ns", lambda line: line.difference_ns),
    )
    return Table("time", "Time: what each device gave, in seconds", columns, times, TimeLine._asdict, notes)


def _time_line(
    device: str, engine: str, wall_ns: int, parts: Sequence[DeviceLine], difference_ns: int | None
) -> TimeLine:
    kinds = [sum(getattr(part, f"{kind}_ns") for part in parts) for kind in KINDS]
    return TimeLine._make([device, engine, wall_ns, *kinds, difference_ns])


def posted_table(totals: Iterable[EngineTotals]) -> Table[EngineTotals]:
    """Per engine: device time and energy, metered and posted."""
    columns: tuple[Column[EngineTotals], ...] = (
        text("engine", lambda line: line.engine_id),
        _duration("metered s", lambda line: line.meter_ns),
        _duration("posted s", lambda line: line.posted_ns),
        count("difference ns", lambda line: line.posted_ns - line.meter_ns),
        Column("energy metered", lambda line: show_joules(line.meter_uj, simulated=bool(line.simulated))),
        Column("energy posted", lambda line: show_joules(line.posted_uj, simulated=bool(line.simulated))),
        count("difference uJ", _energy_difference_uj),
    )
    return Table("posted", "Postings against the meter, by engine", columns, list(totals), _exact_posted)


def _energy_difference_uj(line: EngineTotals) -> int | None:
    if line.meter_uj is None and line.posted_uj is None:
        return None
    return (line.posted_uj or 0) - (line.meter_uj or 0)


def _exact_posted(line: EngineTotals) -> Row:
    return {
        "engine": line.engine_id,
        "meter_ns": line.meter_ns,
        "posted_ns": line.posted_ns,
        "difference_ns": line.posted_ns - line.meter_ns,
        "meter_uj": line.meter_uj,
        "posted_uj": line.posted_uj,
        "simulated": line.simulated,
        "difference_uj": _energy_difference_uj(line),
    }


def money_table(accounts: Iterable[Account], cost_unknown_ns: Mapping[str, int]) -> Table[MoneyLine]:
    """Per engine and rate: what was charged, and what gpu_ns x rate and energy_uj x tariff come to."""
    lines = [
        MoneyLine(
            account.engine_id,
            account.rate_id,
            account.currency,
            account.device_nano + account.energy_nano,
            account.device_due_nano + account.energy_due_nano,
            account.gpu_ns,
        )
        for account in accounts
    ]
    unpriced = sorted((engine, ns) for engine, ns in cost_unknown_ns.items() if ns)
    lines += [MoneyLine(engine, _NO_PRICE, "", None, None, ns) for engine, ns in unpriced]
    columns: tuple[Column[MoneyLine], ...] = (
        text("engine", lambda line: line.engine),
        text("rate", lambda line: line.rate_id),
        _duration("device s", lambda line: line.gpu_ns),
        Column("charged", lambda line: show_amount(line.charged_nano, line.currency)),
        Column("due", lambda line: show_amount(line.due_nano, line.currency)),
        count("difference nano", lambda line: line.difference_nano),
    )
    return Table("money", "Money, by engine and rate", columns, lines, _exact_money)


_NO_PRICE = "(no price)"


def _exact_money(line: MoneyLine) -> Row:
    amounts: dict[str, int | None] = {
        "charged_nano": line.charged_nano,
        "due_nano": line.due_nano,
        "difference_nano": line.difference_nano,
    }
    names = {"engine": line.engine, "rate_id": line.rate_id, "currency": line.currency}
    if line.rate_id == _NO_PRICE:  # released JSON has `gpu_ns` last here
        return {**names, **amounts, "gpu_ns": line.gpu_ns}
    return {**names, "gpu_ns": line.gpu_ns, **amounts}


def discrepancy_table(discrepancies: Iterable[Discrepancy]) -> Table[Discrepancy]:
    """The rows that do not add up."""
    columns: tuple[Column[Discrepancy], ...] = (
        text("check", lambda line: line.check),
        text("row", lambda line: line.row),
        text("field", lambda line: line.field),
        text("expected", lambda line: line.expected),
        text("found", lambda line: line.found),
        text("meaning", lambda line: line.meaning),
    )
    title, fields = "What does not add up", ("check", "row", "field", "expected", "found", "meaning")
    return Table("discrepancies", title, columns, list(discrepancies), Discrepancy._asdict, fields=fields)


def balance_tables(audit: Audit, *, damaged: bool) -> list[AnyTable]:
    """The trial balance, after `audit.discrepancies` was read to its end; nothing where a row is damaged."""
    if damaged:
        return []  # a row is so large that sums overflow
    return [
        time_table(audit.devices(), audit.totals()),
        posted_table(audit.engine_totals()),
        money_table(audit.accounts(), audit.cost_unknown_ns()),
    ]
