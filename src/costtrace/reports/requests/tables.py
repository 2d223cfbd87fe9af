"""Tables of single requests: a list, the dearest with the reason, and one in full."""

from collections.abc import Sequence
from datetime import tzinfo

from costtrace.core.units import per_million_tokens, show_amount, show_joules, show_seconds
from costtrace.core.wall_time import show_time
from costtrace.ledger.answers import Request
from costtrace.pricing.carbon import CarbonIntensity, request_ug, show_grams
from costtrace.reports.output.tables import Column, Row, Table, Value, count, text
from costtrace.reports.requests.why import Peers, why

TIMES = ("arrived_ns", "scheduled_ns", "decode_ns_at", "ended_ns")


def request_fields(request: Request) -> dict[str, Value]:
    """All fields of a request under the names that JSON and CSV have had from the first: the ledger's columns."""
    return {"gap_ns" if name == "energy_unknown_ns" else name: value for name, value in request._asdict().items()}


def as_row(request: Request, peers: Peers | None, carbon: CarbonIntensity | None = None) -> Row:
    """A request with all its fields; with *peers*, why it cost what it did; with *carbon*, an estimate of its CO2e."""
    row = request_fields(request)
    tokens = {"input": request.input_tokens, "output": request.output_tokens}
    for basis, number in {"total": sum(tokens.values()), **tokens}.items():
        price = None if request.cost_nano is None else per_million_tokens(request.cost_nano, number)
        row[f"cost_per_million_{basis}_tokens"] = None if price is None else round(price, 9)
    row["cost_includes_idle"] = False
    if carbon is not None:
        row["carbon_ug"] = request_ug(carbon, request.energy_uj, request.energy_unknown_ns, request.ended_ns)
        row["carbon_method"] = carbon.method
    if peers is not None:
        row["why"] = why(request, peers.get((request.tenant, request.model)))
    return row


def list_table(
    requests: Sequence[Request],
    peers: Peers | None,
    title: str,
    zone: tzinfo,
    carbon: CarbonIntensity | None = None,
) -> Table:
    """One line a request."""
    columns = [
        Column("ended", lambda row: show_time(_int(row, "ended_ns"), zone), right=False),
        text("tenant", "tenant"),
        text("model", "model"),
        text("request", "request_id"),
        count("input tok", "input_tokens"),
        count("cached", "cached_tokens"),
        count("output tok", "output_tokens"),
        Column("queue", _queue),
        Column("GPU time", lambda row: show_seconds(_int(row, "gpu_ns"))),
        Column("energy", _energy),
        Column("cost", lambda row: show_amount(_known(row, "cost_nano"), str(row["currency"]) or None)),
        Column("end", _joined, right=False),
    ]
    if carbon is not None:
        columns.insert(10, Column("gCO2e (estimate)", _grams))
    rerated = any(request.rerated for request in requests)
    if rerated:
        columns.insert(-1, Column("at first", _first))
    if peers is not None:
        columns.append(text("why", "why"))
    notes = ["Cost without idle. Tokens: input as the client is told, cached is part of input."]
    if rerated:
        notes.append("At first: the cost before it was re-rated, where it was. Spans and metrics keep that one.")
    if peers is not None:
        notes.append("Why: against the median request of the same tenant and model in the period.")
    if carbon is not None:
        notes.append(f"gCO2e: {carbon.method}. unknown: where any of its energy is.")
    fields = (
        *Request._fields,
        *(("carbon_ug", "carbon_method") if carbon is not None else ()),
        *(("why",) if peers is not None else ()),
    )
    return Table("requests", title, columns, [as_row(request, peers, carbon) for request in requests], notes, fields)


def detail_table(request: Request, zone: tzinfo, carbon: CarbonIntensity | None = None) -> Table:
    """All of one part, a line a field."""
    row = as_row(request, None, carbon)
    lines: list[Row] = [
        {"field": key, "value": _shown(key, value, _currency(row, key), zone, simulated=bool(request.simulated))}
        for key, value in row.items()
        if request.rerated or not key.startswith(("first_", "rerated"))
    ]
    columns = (text("field", "field"), text("value", "value"))
    title = f"Request {request.request_id}, on engine {request.engine_id}"
    return Table("request", title, columns, lines, view=True)


def _currency(row: Row, key: str) -> str:
    return str(row["first_currency" if key.startswith("first_") else "currency"])


def _shown(key: str, value: Value, currency: str, zone: tzinfo, *, simulated: bool) -> str:
    """A field for people; exact where that says more."""
    shown = str(value)
    if isinstance(value, tuple):
        shown = ", ".join(value)
    elif value is None:
        shown = "unknown"
    elif isinstance(value, int):
        if key in TIMES:
            shown = show_time(value, zone)
        elif key.endswith("_nano"):
            shown = show_amount(value, currency)
        elif key.endswith("_ns"):
            shown = f"{show_seconds(value)}  ({value:,} ns)"
        elif key.endswith("_uj"):
            shown = show_joules(value, simulated=simulated)
        elif key.endswith("_ug"):
            shown = show_grams(value, simulated=simulated)
    return shown


def _first(row: Row) -> str:
    """The first cost of a request that was re-rated since."""
    return show_amount(_known(row, "first_cost_nano"), str(row["first_currency"]) or None) if row["rerated"] else ""


def _queue(row: Row) -> str:
    scheduled_ns = _int(row, "scheduled_ns")
    return show_seconds(scheduled_ns - _int(row, "arrived_ns")) if scheduled_ns else "never ran"


def _energy(row: Row) -> str:
    return show_joules(_known(row, "energy_uj"), simulated=bool(row["simulated"]))


def _grams(row: Row) -> str:
    return show_grams(_known(row, "carbon_ug"), simulated=bool(row["simulated"]))


def _joined(row: Row) -> str:
    reasons = row["finish_reasons"]
    return ", ".join(dict.fromkeys(reasons)) if isinstance(reasons, tuple) else ""


def _int(row: Row, key: str) -> int:
    value = row[key]
    assert isinstance(value, int)
    return value


def _known(row: Row, key: str) -> int | None:
    return None if row[key] is None else _int(row, key)
