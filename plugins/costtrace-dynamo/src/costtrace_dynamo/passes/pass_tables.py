"""Tables of Dynamo's forward-pass metrics: held against the ledger, and handed out by estimate. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder
from costtrace.core.units import NANO_PER_UNIT, NS_PER_HOUR, show_amount, show_seconds
from costtrace.reports.output.row_tables import Column, Table, count, row_table, text
from costtrace.reports.output.tables import Row, Value
from costtrace_dynamo.passes.forward_passes import METHOD, Allocation, Worker

PER_MILLION = 1_000_000
UNASSIGNED = "unassigned"

ONE_METER = (
    "Residual: attributed less forward passes, of the passes. Both are wall time of steps with requests in them.",
    "Where passes are lost, or the device is shared with others that were busy, the two cannot be equal.",
)
ESTIMATED = (
    "ESTIMATED, not measured: each pass is split over the requests that the frontend's records place in it, by tokens.",
    "What is split is what the workers said of themselves. It is not booked, and stands in no ledger.",
)


class Attributed(NamedTuple):
    """What costtrace has a worker busy for."""

    role: str
    wall_ns: int
    shared: bool


class Check(NamedTuple):
    """One worker by both; None: the one or the other knows nothing of it."""

    worker: str
    attributed: Attributed | None
    passes: Worker | None

    @property
    def residual_ns(self) -> int | None:
        """Attributed less passes."""
        if self.attributed is None or self.passes is None:
            return None
        return self.attributed.wall_ns - self.passes.busy_ns

    @property
    def residual_ppm(self) -> int | None:
        """The residual, in millionths of the passes; None where there is nothing to compare with."""
        if self.residual_ns is None or self.passes is None or not self.passes.busy_ns:
            return None
        return self.residual_ns * PER_MILLION // self.passes.busy_ns


def compare(attributed: Mapping[str, Attributed], passes: Mapping[str, Worker]) -> list[Check]:
    """Each worker that one of both knows."""
    names = sorted({*attributed, *passes})
    return [Check(name, attributed.get(name), passes.get(name)) for name in names]


def check_table(checks: Iterable[Check]) -> Table:
    """The attributed busy time of each worker against its own forward-pass metrics."""
    rows: list[Row] = [
        {
            "worker": check.worker,
            "role": check.attributed.role if check.attributed else None,
            "attributed_ns": check.attributed.wall_ns if check.attributed else None,
            "passes_ns": check.passes.busy_ns if check.passes else None,
            "residual_ns": check.residual_ns,
            "residual_ppm": check.residual_ppm,
            "passes": check.passes.passes if check.passes else None,
            "lost_passes": check.passes.lost if check.passes else None,
            "shared_device": check.attributed.shared if check.attributed else None,
        }
        for check in checks
    ]
    columns: tuple[Column, ...] = (
        text("worker", "worker"),
        Column("role", lambda row: str(row["role"] or ""), right=False),
        Column("attributed", lambda row: _time(row["attributed_ns"])),
        Column("forward passes", lambda row: _time(row["passes_ns"])),
        Column("residual", lambda row: _time(row["residual_ns"])),
        Column("", lambda row: _per_cent(row["residual_ppm"])),
        count("passes", "passes"),
        count("lost", "lost_passes"),
        Column("device", lambda row: "shared" if row["shared_device"] else "", right=False),
    )
    return row_table("workers", "Attributed busy time against Dynamo's forward-pass metrics", columns, rows, ONE_METER)


def _time(value: Value) -> str:
    return show_seconds(value) if isinstance(value, int) else "unknown"


def _per_cent(value: Value) -> str:
    return f"{value / 10_000:+.2f} %" if isinstance(value, int) else ""


def cost_nano(busy_ns: int, per_hour: Decimal) -> int:
    """What so much time of a worker costs, in nano-units, rounded to the nearest."""
    return int((per_hour * NANO_PER_UNIT * busy_ns / NS_PER_HOUR).to_integral_value())


def estimate_tables(found: Allocation, per_hour: Decimal | None, currency: str) -> list[Table]:
    """A line a request and one for what is unassigned, which add up to the workers' table; with a price, in money too.

    *per_hour* is the price of a worker's hour. None: costs are unknown.
    """
    rows: list[dict[str, Value]] = [
        {
            "request_id": one.served.request_id,
            "kind": "request",
            "method": METHOD,
            "prefill_worker": one.served.prefill_worker,
            "decode_worker": one.served.decode_worker,
            "input_tokens": one.served.input_tokens,
            "cached_tokens": one.served.cached_tokens,
            "output_tokens": one.served.output_tokens,
            "prefill_ns": one.prefill_ns,
            "decode_ns": one.decode_ns,
            "busy_ns": one.gpu_ns,
        }
        for one in found.estimates
    ]
    blank: dict[str, Value] = {"request_id": "", "kind": UNASSIGNED, "method": METHOD}
    blank |= dict.fromkeys(("prefill_worker", "decode_worker"), "")
    blank |= dict.fromkeys(("input_tokens", "cached_tokens", "output_tokens", "prefill_ns", "decode_ns"))
    rows.append({**blank, "busy_ns": found.unassigned_ns})
    times = [ns for row in rows if isinstance(ns := row["busy_ns"], int)]
    whole = None if per_hour is None else cost_nano(sum(times), per_hour)
    costs: Sequence[int | None] = [None] * len(rows) if whole is None else _split(whole, times)
    for row, cost in zip(rows, costs, strict=True):
        row |= {"cost_nano": cost, "currency": currency if cost is not None else ""}
    columns: tuple[Column, ...] = (
        Column("request", lambda row: str(row["request_id"] or row["kind"]), right=False),
        count("input tok", "input_tokens"),
        count("cached", "cached_tokens"),
        count("output tok", "output_tokens"),
        Column("prefill", lambda row: _time(row["prefill_ns"]) if row["kind"] == "request" else ""),
        Column("decode", lambda row: _time(row["decode_ns"]) if row["kind"] == "request" else ""),
        Column("time, estimated", lambda row: _time(row["busy_ns"])),
        Column("cost, estimated", _cost),
    )
    title = "ESTIMATED from Dynamo's forward-pass metrics and request records"
    return [row_table("estimates", title, columns, rows, ESTIMATED), _workers_table(found.workers)]


def _split(whole: int, times: Sequence[int]) -> list[int]:
    return largest_remainder(whole, times) if sum(times) else [0] * len(times)


def _cost(row: Row) -> str:
    value = row["cost_nano"]
    return show_amount(value if isinstance(value, int) else None, str(row["currency"]) or None)


def _workers_table(workers: Iterable[Worker]) -> Table:
    rows: list[Row] = [worker._asdict() for worker in workers]
    columns: tuple[Column, ...] = (
        text("worker", "worker"),
        count("passes", "passes"),
        count("lost", "lost"),
        Column("busy", lambda row: _time(row["busy_ns"])),
        Column("unassigned", lambda row: _time(row["unassigned_ns"])),
    )
    return row_table("workers", "The workers' own forward passes", columns, rows)
