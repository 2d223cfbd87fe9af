"""The trial balance as tables: what the meter gave, what the postings hold, and the difference, which is 0."""

from collections.abc import Iterable, Mapping, Sequence

from costtrace.core.rows import KINDS
from costtrace.core.units import seconds, show_amount, show_joules
from costtrace.ledger.verify.audit import Audit
from costtrace.ledger.verify.lines import DeviceLine, Discrepancy, EngineTotals
from costtrace.ledger.verify.meters import Device
from costtrace.ledger.verify.money import Account
from costtrace.reports.output.tables import Column, Row, Table, count, text

EVERY_ENGINE = "(all engines)"


def _duration(heading: str, key: str) -> Column:
    """Seconds to the nanosecond: a trial balance hides nothing behind a rounding."""

    def show(row: Row) -> str:
        value = row[key]
        return f"{value // 10**9:,}.{value % 10**9:09d}" if isinstance(value, int) and value >= 0 else str(value or "")

    return Column(heading, show)


def time_table(lines: Sequence[DeviceLine], devices: Iterable[Device]) -> Table:
    """Per device and engine: where the wall time went."""
    rows: list[Row] = []
    notes: list[str] = []
    apart = {(line.device, line.engine_id) for line in lines if line.metered_ns < line.wall_ns}
    shared = [
        device
        for device in devices
        if len(device.engines) > 1 and any((device.device, engine) in apart for engine in device.engines)
    ]
    together = {(device.device, engine) for device in shared for engine in device.engines}
    for line in lines:
        key = (line.device, line.engine_id)
        difference = None if key in apart & together else line.metered_ns - line.wall_ns
        rows.append(_time_row(line.device, line.engine_id, line.wall_ns, [line], difference))
    for device in shared:
        parts = [line for line in lines if line.device == device.device and line.engine_id in device.engines]
        rows.append(_time_row(device.device, EVERY_ENGINE, device.wall_ns, parts, device.off_ns))
    if shared:
        notes.append("A device of several engines: each has a part of its time, the difference stands on its own line.")
    if open_ns := sum(device.open_ns for device in shared):
        notes.append(f"Still open: {seconds(open_ns):.3f} s of shared devices, until every engine has its rows there.")
    columns = (
        text("device", "device"),
        text("engine", "engine"),
        _duration("wall s", "wall_ns"),
        _duration("requests s", "request_ns"),
        _duration("idle s", "idle_ns"),
        _duration("overhead s", "overhead_ns"),
        _duration("unobserved s", "unobserved_ns"),
        count("difference ns", "difference_ns"),
    )
    return Table("time", "Time: what each device gave, in seconds", columns, rows, notes)


def _time_row(device: str, engine: str, wall_ns: int, parts: Sequence[DeviceLine], difference: int | None) -> Row:
    return {
        "device": device,
        "engine": engine,
        "wall_ns": wall_ns,
        **{f"{kind}_ns": sum(getattr(part, f"{kind}_ns") for part in parts) for kind in KINDS},
        "difference_ns": difference,
    }


def posted_table(totals: Iterable[EngineTotals]) -> Table:
    """Per engine: device time and energy, metered and posted."""
    rows: list[Row] = [
        {
            "engine": total.engine_id,
            "meter_ns": total.meter_ns,
            "posted_ns": total.posted_ns,
            "difference_ns": total.posted_ns - total.meter_ns,
            "meter_uj": total.meter_uj,
            "posted_uj": total.posted_uj,
            "simulated": total.simulated,
            "difference_uj": None
            if total.meter_uj is None and total.posted_uj is None
            else (total.posted_uj or 0) - (total.meter_uj or 0),
        }
        for total in totals
    ]
    columns = (
        text("engine", "engine"),
        _duration("metered s", "meter_ns"),
        _duration("posted s", "posted_ns"),
        count("difference ns", "difference_ns"),
        Column("energy metered", lambda row: _joules(row, "meter_uj")),
        Column("energy posted", lambda row: _joules(row, "posted_uj")),
        count("difference uJ", "difference_uj"),
    )
    return Table("posted", "Postings against the meter, by engine", columns, rows)


def money_table(accounts: Iterable[Account], cost_unknown_ns: Mapping[str, int]) -> Table:
    """Per engine and rate: what was charged, and what gpu_ns x rate and energy_uj x tariff come to."""
    rows: list[Row] = []
    for account in accounts:
        charged, due = account.device_nano + account.energy_nano, account.device_due_nano + account.energy_due_nano
        rows.append(
            {
                "engine": account.engine_id,
                "rate_id": account.rate_id,
                "currency": account.currency,
                "gpu_ns": account.gpu_ns,
                "charged_nano": charged,
                "due_nano": due,
                "difference_nano": charged - due,
            }
        )
    unknown = {"rate_id": "(no price)", "currency": "", "charged_nano": None, "due_nano": None, "difference_nano": None}
    rows.extend({"engine": engine, **unknown, "gpu_ns": ns} for engine, ns in sorted(cost_unknown_ns.items()) if ns)
    columns = (
        text("engine", "engine"),
        text("rate", "rate_id"),
        _duration("device s", "gpu_ns"),
        Column("charged", lambda row: show_amount(_int(row, "charged_nano"), str(row["currency"]))),
        Column("due", lambda row: show_amount(_int(row, "due_nano"), str(row["currency"]))),
        count("difference nano", "difference_nano"),
    )
    return Table("money", "Money, by engine and rate", columns, rows)


def discrepancy_table(discrepancies: Iterable[Discrepancy]) -> Table:
    """The rows that do not add up."""
    rows: list[Row] = [found._asdict() for found in discrepancies]
    names = ("check", "row", "field", "expected", "found", "meaning")
    return Table("discrepancies", "What does not add up", tuple(text(name, name) for name in names), rows, fields=names)


def _joules(row: Row, key: str) -> str:
    return show_joules(_int(row, key), simulated=bool(row["simulated"]))


def _int(row: Row, key: str) -> int | None:
    value = row[key]
    return value if isinstance(value, int) else None


def balance_tables(audit: Audit, *, damaged: bool) -> list[Table]:
    """The trial balance, after `audit.discrepancies` was read to its end; nothing where a row is damaged."""
    if damaged:
        return []  # a row is so large that sums overflow
    return [
        time_table(audit.devices(), audit.totals()),
        posted_table(audit.engine_totals()),
        money_table(audit.accounts(), audit.cost_unknown_ns()),
    ]
