"""Tables of Dynamo's forward-pass metrics: beside the attributed time of each worker, and split by estimate. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder
from costtrace.core.units import NANO_PER_UNIT, NS_PER_HOUR, show_amount, show_seconds
from costtrace.reports.output.row_tables import Column, Table, count, row_table, text
from costtrace.reports.output.tables import Row, Value
from costtrace_dynamo.passes.busy_query import AttributedTime
from costtrace_dynamo.passes.forward_passes import METHOD, Allocation, WorkerPasses

PER_MILLION = 1_000_000
UNASSIGNED = "unassigned"

ONE_METER = (
    "Residual: attributed less forward passes, of the passes. Both are wall time of steps with requests in them.",
    "Where passes are lost, or the device is shared with others that were busy, the two cannot be equal.",
)
ESTIMATED = (
    "ESTIMATED, not measured: each pass is split over the requests that the frontend's records place in it, by tokens.",
    "What is split are the passes that the workers reported. It is not booked, and is in no ledger.",
)


class Check(NamedTuple):
    """One worker by both sources; None: that source does not know it."""

    worker: str
    attributed: AttributedTime | None
    passes: WorkerPasses | None

    @property
    def residual_ns(self) -> int | None:
        """Attributed less passes; None where there is nothing to compare with."""
        if self.attributed is None or self.passes is None:
            return None
        return self.attributed.request_ns - self.passes.busy_ns

    @property
    def residual_ppm(self) -> int | None:
        """The residual, in millionths of the passes; None where there is nothing to compare with."""
        if self.residual_ns is None or self.passes is None or not self.passes.busy_ns:
            return None
        return self.residual_ns * PER_MILLION // self.passes.busy_ns


class EstimateRow(NamedTuple):
    """One row of the estimate: a request, or the time that is unassigned (its tokens and phases are None)."""

    request_id: str
    kind: str
    method: str
    prefill_worker: str
    decode_worker: str
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    prefill_ns: int | None
    decode_ns: int | None
    busy_ns: int
    cost_nano: int | None
    """None: no price is given."""
    currency: str


def compare(attributed: Mapping[str, AttributedTime], passes: Mapping[str, WorkerPasses]) -> list[Check]:
    """Each worker that either source knows."""
    names = sorted({*attributed, *passes})
    return [Check(name, attributed.get(name), passes.get(name)) for name in names]


def check_table(checks: Iterable[Check]) -> Table:
    """The attributed busy time of each worker against its own forward-pass metrics."""
    rows: list[Row] = [
        {
            "worker": check.worker,
            "role": check.attributed.role if check.attributed else None,
            "attributed_ns": check.attributed.request_ns if check.attributed else None,
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
    """The cost of a worker's time in nano-units of the currency, rounded to the nearest."""
    return int((per_hour * NANO_PER_UNIT * busy_ns / NS_PER_HOUR).to_integral_value())


def estimate_tables(allocation: Allocation, per_hour: Decimal | None, currency: str) -> list[Table]:
    """A row for each request and one for what is unassigned; they add up to the second table, the workers'.

    *per_hour* is the price of a worker's hour. With it, costs add up, too; None: costs are unknown.
    """
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
    rows: list[Row] = [row._asdict() for row in _estimate_rows(allocation, per_hour, currency)]
    title = "ESTIMATED from Dynamo's forward-pass metrics and request records"
    return [row_table("estimates", title, columns, rows, ESTIMATED), _workers_table(allocation.workers)]


def _estimate_rows(allocation: Allocation, per_hour: Decimal | None, currency: str) -> list[EstimateRow]:
    rows = [
        EstimateRow(
            request_id=each.served.request_id,
            kind="request",
            method=METHOD,
            prefill_worker=each.served.prefill_worker,
            decode_worker=each.served.decode_worker,
            input_tokens=each.served.input_tokens,
            cached_tokens=each.served.cached_tokens,
            output_tokens=each.served.output_tokens,
            prefill_ns=each.prefill_ns,
            decode_ns=each.decode_ns,
            busy_ns=each.gpu_ns,
            cost_nano=None,
            currency="",
        )
        for each in allocation.estimates
    ]
    rows.append(
        EstimateRow(
            *("", UNASSIGNED, METHOD, "", ""),
            *(None, None, None, None, None),
            busy_ns=allocation.unassigned_ns,
            cost_nano=None,
            currency="",
        )
    )
    if per_hour is None:
        return rows
    busy_ns = [row.busy_ns for row in rows]
    costs = _split(cost_nano(sum(busy_ns), per_hour), busy_ns)
    return [row._replace(cost_nano=cost, currency=currency) for row, cost in zip(rows, costs, strict=True)]


def _split(total: int, weights: Sequence[int]) -> list[int]:
    return largest_remainder(total, weights) if sum(weights) else [0] * len(weights)


def _cost(row: Row) -> str:
    value = row["cost_nano"]
    return show_amount(value if isinstance(value, int) else None, str(row["currency"]) or None)


def _workers_table(workers: Iterable[WorkerPasses]) -> Table:
    rows: list[Row] = [worker._asdict() for worker in workers]
    columns: tuple[Column, ...] = (
        text("worker", "worker"),
        count("passes", "passes"),
        count("lost", "lost"),
        Column("busy", lambda row: _time(row["busy_ns"])),
        Column("unassigned", lambda row: _time(row["unassigned_ns"])),
    )
    return row_table("workers", "The workers' own forward passes", columns, rows)
