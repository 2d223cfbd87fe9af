"""Tables of single requests: a list, with or without the reasons of their cost, and one in full."""

from collections.abc import Sequence
from datetime import tzinfo
from typing import NamedTuple

from costtrace.core.units import per_million_tokens, show_amount, show_joules, show_seconds
from costtrace.core.wall_time import show_time
from costtrace.ledger.answers import Request
from costtrace.pricing.carbon import CarbonIntensity, request_ug, show_grams
from costtrace.reports.output.tables import Column, Row, Table, Value, brief, count, text
from costtrace.reports.requests.why import Peers, why

IDS = ("request_id", "request_key", "traceparent", "model")
TIMES = ("arrived_ns", "scheduled_ns", "decode_ns_at", "ended_ns")


class Field(NamedTuple):
    """One field of a request, and how people see it."""

    name: str
    shown: str


_FIELDS = tuple(name for name in Request._fields if not name.startswith(("counted_", "part")) or name == "parts")
_NAMES = tuple("gap_ns" if name == "energy_unknown_ns" else name for name in _FIELDS)
"""Names of a request's fields in JSON and CSV: the ledger's column names, unchanged since the first release."""


def request_fields(request: Request) -> dict[str, Value]:
    """All fields of a request under their names in JSON and CSV."""
    return dict(zip(_NAMES, (getattr(request, name) for name in _FIELDS), strict=True))


def exact_request(request: Request, peers: Peers | None, carbon: CarbonIntensity | None = None) -> Row:
    """A request with all its fields; with *peers*, why it cost what it did; with *carbon*, an estimate of its CO2e."""
    row = request_fields(request)
    tokens = {"input": request.input_tokens, "output": request.output_tokens}
    for basis, number in {"total": sum(tokens.values()), **tokens}.items():
        price = None if request.cost_nano is None else per_million_tokens(request.cost_nano, number)
        row[f"cost_per_million_{basis}_tokens"] = None if price is None else round(price, 9)
    row["cost_includes_idle"] = False
    if carbon is not None:
        row["carbon_ug"] = _carbon_ug(request, carbon)
        row["carbon_method"] = carbon.method
    if peers is not None:
        row["why"] = _why(request, peers)
    return row


def list_table(
    requests: Sequence[Request], peers: Peers | None, title: str, zone: tzinfo, carbon: CarbonIntensity | None = None
) -> Table[Request]:
    """One line a request; with *peers*, why it cost what it did; with *carbon*, an estimate of its CO2e."""
    rerated = any(request.rerated for request in requests)
    columns: list[Column[Request]] = [
        text("ended", lambda request: show_time(request.ended_ns, zone)),
        text("tenant", lambda request: request.tenant),
        text("model", lambda request: request.model),
        text("request", lambda request: brief(request.request_id)),
        count("input tok", lambda request: request.input_tokens),
        count("cached", lambda request: request.cached_tokens),
        count("output tok", lambda request: request.output_tokens),
        Column("queue", _queue),
        Column("GPU time", lambda request: show_seconds(request.gpu_ns)),
        Column("energy", request_energy),
    ]
    notes = ["Cost without idle. Tokens: input as the client sees it, cached is part of input."]
    per_million = (f"cost_per_million_{basis}_tokens" for basis in ("total", "input", "output"))
    fields = [*_NAMES, *per_million, "cost_includes_idle"]
    if carbon is not None:
        columns.append(_carbon_column(carbon))
        fields += ["carbon_ug", "carbon_method"]
    columns.append(Column("cost", lambda request: show_amount(request.cost_nano, request.currency or None)))
    if rerated:
        columns.append(Column("at first", _first_cost))
        notes.append("At first: the cost before it was re-rated, where it was. Spans and metrics keep that one.")
    columns.append(text("end", lambda request: ", ".join(dict.fromkeys(request.finish_reasons))))
    if peers is not None:
        columns.append(text("why", lambda request: _why(request, peers)))
        notes.append("Why: against the median request of the same tenant and model in the period.")
        fields.append("why")
    if carbon is not None:
        notes.append(f"gCO2e: {carbon.method}. unknown: where any of its energy is.")
    return Table(
        "requests", title, columns, requests, lambda request: exact_request(request, peers, carbon), notes, fields
    )


def detail_table(request: Request, zone: tzinfo, carbon: CarbonIntensity | None = None) -> Table[Field]:
    """All of one part, a line a field."""
    lines = [
        Field(name, _shown(request, name, value, zone))
        for name, value in exact_request(request, None, carbon).items()
        if request.rerated or not name.startswith(("first_", "rerated"))
    ]
    columns: tuple[Column[Field], ...] = (
        text("field", lambda field: field.name),
        text("value", lambda field: field.shown),
    )
    title = f"Request {brief(request.request_id)}, on engine {request.engine_id}"
    return Table("request", title, columns, lines, view=True)


def _shown(request: Request, name: str, value: Value, zone: tzinfo) -> str:
    """A field for people, with the exact value where the rounded one hides it."""
    shown = str(value)
    if name in IDS:
        shown = brief(shown, 300)
    elif isinstance(value, tuple):
        shown = ", ".join(value)
    elif value is None:
        shown = "unknown"
    elif isinstance(value, int):
        if name in TIMES:
            shown = show_time(value, zone)
        elif name.endswith("_nano"):
            shown = show_amount(value, request.first_currency if name.startswith("first_") else request.currency)
        elif name.endswith("_ns"):
            shown = f"{show_seconds(value)}  ({value:,} ns)"
        elif name.endswith("_uj"):
            shown = _joules(request, value)
        elif name.endswith("_ug"):
            shown = show_grams(value, simulated=bool(request.simulated))
    return shown


def request_energy(request: Request) -> str:
    """Energy of a request for people."""
    return _joules(request, request.energy_uj)


def _joules(request: Request, uj: int | None) -> str:
    return show_joules(uj, simulated=bool(request.simulated), unknown_ns=request.energy_unknown_ns)


def _first_cost(request: Request) -> str:
    """The first cost of a request that was re-rated since."""
    return show_amount(request.first_cost_nano, request.first_currency or None) if request.rerated else ""


def _queue(request: Request) -> str:
    return show_seconds(request.scheduled_ns - request.arrived_ns) if request.scheduled_ns else "never ran"


def _why(request: Request, peers: Peers) -> str:
    return why(request, peers.get((request.tenant, request.model)))


def _carbon_ug(request: Request, carbon: CarbonIntensity) -> int | None:
    return request_ug(carbon, request.energy_uj, request.energy_unknown_ns, request.ended_ns)


def _carbon_column(carbon: CarbonIntensity) -> Column[Request]:
    def show(request: Request) -> str:
        return show_grams(_carbon_ug(request, carbon), simulated=bool(request.simulated))

    return Column("gCO2e (estimate)", show)
