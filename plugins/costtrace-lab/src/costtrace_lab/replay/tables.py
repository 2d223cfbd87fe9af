"""Tables that compare attribution methods: sums by tenant, and the distance of each method from the first."""

from collections.abc import Sequence

from costtrace.core.units import show_amount, show_seconds
from costtrace.reports.output.row_tables import Column, Table, count, row_table, text
from costtrace.reports.output.tables import Row, Value, per_cent
from costtrace_lab.replay.attribute import Bill, Total

KINDS = ("request", "idle", "overhead", "unobserved")


def comparison(bills: Sequence[Bill], title: str) -> list[Table]:
    """The sums by tenant and kind for each method, and how far each method is from the first."""
    label = "SIMULATED: " if bills[0].simulated else ""
    notes = [
        "GPU time is device time; the per cent are of all requests. Idle and overhead do not depend on the method."
    ]
    notes += [warning for bill in bills[:1] for warning in bill.warnings]
    if bills[0].simulated:
        notes.append("SIMULATED: times come from an instrument of costtrace's and not from a machine.")
    rows = _rows(bills)
    lines = row_table("comparison", f"{label}{title}", _columns(bills), rows, notes, fields=_fields(bills))
    return [lines, _distances(bills)]


def _fields(bills: Sequence[Bill]) -> tuple[str, ...]:
    known = ("tenant", "kind", "requests", "input_tokens", "output_tokens")
    return (*known, *(f"{name}_{b.method}" for b in bills for name in ("gpu_ns", "cost_nano")), "currency", "simulated")


def _rows(bills: Sequence[Bill]) -> list[Row]:
    first = bills[0]
    keys = {key for bill in bills for key in bill.lines}

    def order(key: tuple[str, str]) -> tuple[int, int, str]:
        line = first.lines.get(key, Total())
        return KINDS.index(key[1]), -line.gpu_ns, key[0]

    rows: list[Row] = []
    for key in sorted(keys, key=order):
        line = first.lines.get(key, Total())
        row: dict[str, Value] = {
            "tenant": key[0],
            "kind": key[1],
            "requests": line.requests,
            "input_tokens": line.input_tokens,
            "output_tokens": line.output_tokens,
        }
        for bill in bills:
            total = bill.lines.get(key, Total())
            row[f"gpu_ns_{bill.method}"] = total.gpu_ns
            row[f"cost_nano_{bill.method}"] = total.cost_nano if bill.currency else None
        row["currency"] = first.currency or None
        row["simulated"] = first.simulated
        rows.append(row)
    return rows


def _columns(bills: Sequence[Bill]) -> list[Column]:
    all_ns = {b.method: sum(line.gpu_ns for (_, kind), line in b.lines.items() if kind == "request") for b in bills}

    def share(method: str) -> Column:
        def show(row: Row) -> str:
            value = row[f"gpu_ns_{method}"]
            assert isinstance(value, int)
            part = f" {per_cent(value, all_ns[method]):>7}" if row["kind"] == "request" else " " * 8
            return f"{show_seconds(value)}{part}"

        return Column(method, show)

    def cost(method: str) -> Column:
        def show(row: Row) -> str:
            value, currency = row[f"cost_nano_{method}"], row["currency"]
            return show_amount(value if isinstance(value, int) else None, str(currency) if currency else None)

        return Column(f"cost ({method})", show)

    return [
        text("tenant", "tenant"),
        Column("", lambda row: "" if row["kind"] == "request" else str(row["kind"]), right=False),
        count("requests", "requests"),
        count("input tok", "input_tokens"),
        count("output tok", "output_tokens"),
        *(share(bill.method) for bill in bills),
        *(cost(bill.method) for bill in bills if bill.currency),
    ]


def moved_ppm(bill: Bill, first: Bill) -> int:
    """The part of all requests' device time (ppm) that *bill* has on other requests than *first* has."""
    all_ns = sum(first.request_ns.values())
    differences_ns = sum(abs(bill.request_ns.get(record, 0) - ns) for record, ns in first.request_ns.items())
    return differences_ns * 500_000 // all_ns if all_ns else 0


def tenants_off_ppm(bill: Bill, first: Bill) -> int:
    """The largest relative difference of a tenant's device time from *first*'s (ppm)."""
    lines = [
        (bill.lines.get(key, Total()).gpu_ns, line.gpu_ns) for key, line in first.lines.items() if key[1] == "request"
    ]
    return max(
        (abs(gpu_ns - first_gpu_ns) * 1_000_000 // first_gpu_ns for gpu_ns, first_gpu_ns in lines if first_gpu_ns),
        default=0,
    )


def _distances(bills: Sequence[Bill]) -> Table:
    first = bills[0]
    rows: list[Row] = [
        {
            "method": bill.method,
            "against": first.method,
            "moved_ppm": moved_ppm(bill, first),
            "worst_tenant_ppm": tenants_off_ppm(bill, first),
        }
        for bill in bills[1:]
    ]

    def parts(heading: str, key: str) -> Column:
        return Column(heading, lambda row: f"{int(str(row[key])) / 10_000:.2f} %")

    columns: list[Column] = [
        text("method", "method"),
        text("against", "against"),
        parts("time on other requests", "moved_ppm"),
        parts("worst tenant off by", "worst_tenant_ppm"),
    ]
    fields = ("method", "against", "moved_ppm", "worst_tenant_ppm")
    return row_table("distances", f"How far from {first.method}", columns, rows, fields=fields)
