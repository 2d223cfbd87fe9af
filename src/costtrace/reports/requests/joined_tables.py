"""Tables of requests with all their parts: a line a request, and the parts of one."""

from collections.abc import Sequence
from datetime import tzinfo

from costtrace.core.units import show_amount, show_joules, show_seconds
from costtrace.core.wall_time import show_time
from costtrace.reports.output.tables import Column, Row, Table, Value, brief, count, text
from costtrace.reports.requests.joined import Attempt, Whole

ROLES = ("prefill", "decode", "aggregated")
NOTES = (
    "One line a request, with all its parts. Cost without idle. Output tokens are those that the client got, once.",
    "Saved: what computing the cached tokens would have added, by the engine's model; the request did not pay for it.",
    "Wasted: what served nobody or was done before by another part; it is in the GPU time.",
)


def wholes_table(wholes: Sequence[Whole], title: str, zone: tzinfo) -> Table[Whole]:
    """One line a request."""
    columns: list[Column[Whole]] = [
        text("ended", lambda whole: show_time(whole.ended_ns, zone)),
        text("tenant", lambda whole: whole.tenant),
        text("model", lambda whole: whole.model),
        text("request", lambda whole: brief(whole.request_id)),
        text("parts", _roles),
        count("input tok", lambda whole: whole.input_tokens),
        count("cached", lambda whole: whole.cached_tokens),
        Column("saved, at most", _saved),
        count("output tok", lambda whole: whole.output_tokens),
        Column("GPU time", lambda whole: show_seconds(whole.gpu_ns)),
        Column("prefill role", lambda whole: show_seconds(whole.share("prefill")[0])),
        Column("decode role", lambda whole: show_seconds(whole.share("decode")[0])),
        Column("wasted", lambda whole: show_seconds(whole.wasted_ns)),
        Column("energy", _energy),
        Column("cost", lambda whole: show_amount(whole.cost_nano, whole.currency or None)),
        text("bill", lambda whole: whole.finality),
        text("notes", lambda whole: "; ".join(whole.notes)),
    ]
    fields = tuple(exact_whole(wholes[0])) if wholes else ()
    return Table("requests", title, columns, wholes, exact_whole, NOTES, fields)


def exact_whole(whole: Whole) -> Row:
    """A request with all its fields and those of its roles."""
    row: dict[str, Value] = {
        name: value for name, value in whole._asdict().items() if name not in {"attempts", "notes"}
    }
    row["parts"] = len(whole.attempts)
    row["attempts"] = _tries(whole)
    row["workers"] = tuple(dict.fromkeys(attempt.part.worker for attempt in whole.attempts))
    for role in ROLES:
        row[f"{role}_role_gpu_ns"], row[f"{role}_role_cost_nano"] = whole.share(role)
    row["notes"] = whole.notes
    return row


def parts_table(whole: Whole, zone: tzinfo) -> Table[Attempt]:
    """The parts of one request, in the order in which they began."""
    columns: tuple[Column[Attempt], ...] = (
        text("began", lambda attempt: show_time(attempt.part.record.arrived_ns, zone)),
        text("role", lambda attempt: attempt.part.record.role),
        count("attempt", lambda attempt: attempt.number),
        text("worker", lambda attempt: attempt.part.worker),
        text("engine", lambda attempt: attempt.part.record.engine_id),
        count("input tok", lambda attempt: attempt.part.record.input_tokens),
        count("computed", lambda attempt: attempt.part.record.computed_tokens),
        count("output tok", lambda attempt: attempt.output_tokens),
        Column("GPU time", lambda attempt: show_seconds(attempt.part.record.gpu_ns)),
        Column("wasted", lambda attempt: show_seconds(attempt.wasted_ns)),
        Column("cost", _attempt_cost),
        text("end", lambda attempt: ", ".join(attempt.part.record.finish_reasons)),
    )
    return Table("parts", f"The parts of request {whole.request_id}", columns, whole.attempts, _exact_attempt)


def _attempt_cost(attempt: Attempt) -> str:
    return show_amount(attempt.part.record.cost_nano, attempt.part.record.currency or None)


def _exact_attempt(attempt: Attempt) -> Row:
    record = attempt.part.record
    return {
        "request_key": record.request_key,
        "record_id": record.record_id,
        "engine_id": record.engine_id,
        "worker": attempt.part.worker,
        "role": record.role,
        "attempt": attempt.number,
        "arrived_ns": record.arrived_ns,
        "ended_ns": record.ended_ns,
        "input_tokens": record.input_tokens,
        "cached_tokens": record.cached_tokens,
        "computed_tokens": record.computed_tokens,
        "output_tokens": attempt.output_tokens,
        "gpu_ns": record.gpu_ns,
        "wasted_ns": attempt.wasted_ns,
        "energy_uj": record.energy_uj,
        "gap_ns": record.energy_unknown_ns,
        "cost_nano": record.cost_nano,
        "currency": record.currency,
        "finish_reasons": record.finish_reasons,
    }


def _energy(whole: Whole) -> str:
    simulated = any(attempt.part.record.simulated for attempt in whole.attempts)
    return show_joules(whole.energy_uj, simulated=simulated, unknown_ns=whole.gap_ns)


def _tries(whole: Whole) -> int:
    return max(attempt.number for attempt in whole.attempts)


def _roles(whole: Whole) -> str:
    """``prefill + decode, 2 attempts``."""
    roles = [role for role in ROLES if whole.share(role)[0]]
    tries = _tries(whole)
    return " + ".join(roles) + (f", {tries} attempts" if tries > 1 else "")


def _saved(whole: Whole) -> str:
    if not whole.cached_tokens:
        return ""
    if whole.saved_ns is None:
        return "unknown"
    if whole.saved_nano is None:
        return show_seconds(whole.saved_ns)
    return f"{show_seconds(whole.saved_ns)}, {show_amount(whole.saved_nano, whole.currency or None)}"
