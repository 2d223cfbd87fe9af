"""Tables of requests with all their parts: a line a request, and the parts of one."""

from collections.abc import Sequence
from datetime import tzinfo

from costtrace.core.units import show_amount, show_joules, show_seconds
from costtrace.core.wall_time import show_time
from costtrace.reports.output.tables import Column, Row, Table, Value, count, text
from costtrace.reports.requests.joined import Attempt, Whole

NOTES = (
    "One line a request, with all its parts. Cost without idle. Output tokens are those that the client got, once.",
    "Saved: what computing the cached tokens would have added, by the engine's model; the request did not pay for it.",
    "Wasted: what served nobody or was done before by another part; it is in the GPU time.",
)


def whole_row(whole: Whole) -> Row:
    """A request, exact."""
    row: dict[str, Value] = {
        name: value for name, value in whole._asdict().items() if name not in {"attempts", "notes"}
    }
    row["parts"] = len(whole.attempts)
    row["attempts"] = max(attempt.number for attempt in whole.attempts)
    row["workers"] = tuple(dict.fromkeys(attempt.part.worker for attempt in whole.attempts))
    for role in ("prefill", "decode", "aggregated"):
        share = next((share for share in whole.roles if share.role == role), None)
        row[f"{role}_role_gpu_ns"] = share.gpu_ns if share else 0
        row[f"{role}_role_cost_nano"] = share.cost_nano if share else 0
    row["notes"] = whole.notes
    return row


def wholes_table(wholes: Sequence[Whole], title: str, zone: tzinfo) -> Table:
    """One line a request."""
    columns = [
        Column("ended", lambda row: show_time(_int(row, "ended_ns"), zone), right=False),
        text("tenant", "tenant"),
        text("model", "model"),
        text("request", "request_id"),
        Column("parts", _roles, right=False),
        count("input tok", "input_tokens"),
        count("cached", "cached_tokens"),
        Column("saved, at most", _saved),
        count("output tok", "output_tokens"),
        Column("GPU time", lambda row: show_seconds(_int(row, "gpu_ns"))),
        Column("prefill role", lambda row: show_seconds(_int(row, "prefill_role_gpu_ns"))),
        Column("decode role", lambda row: show_seconds(_int(row, "decode_role_gpu_ns"))),
        Column("wasted", lambda row: show_seconds(_int(row, "wasted_ns"))),
        Column("energy", lambda row: show_joules(_known(row, "energy_uj"))),
        Column("cost", lambda row: show_amount(_known(row, "cost_nano"), str(row["currency"]) or None)),
        text("bill", "finality"),
        Column("notes", _notes, right=False),
    ]
    rows = [whole_row(whole) for whole in wholes]
    return Table("requests", title, columns, rows, NOTES, tuple(rows[0]) if rows else ())


def parts_table(whole: Whole, zone: tzinfo) -> Table:
    """The parts of one request, in the order in which they began."""
    columns = (
        Column("began", lambda row: show_time(_int(row, "arrived_ns"), zone), right=False),
        text("role", "role"),
        count("attempt", "attempt"),
        text("worker", "worker"),
        text("engine", "engine_id"),
        count("input tok", "input_tokens"),
        count("computed", "computed_tokens"),
        count("output tok", "output_tokens"),
        Column("GPU time", lambda row: show_seconds(_int(row, "gpu_ns"))),
        Column("wasted", lambda row: show_seconds(_int(row, "wasted_ns"))),
        Column("cost", lambda row: show_amount(_known(row, "cost_nano"), str(row["currency"]) or None)),
        Column("end", lambda row: ", ".join(_texts(row, "finish_reasons")), right=False),
    )
    rows = [_part_row(attempt) for attempt in whole.attempts]
    return Table("parts", f"The parts of request {whole.request_id}", columns, rows)


def _part_row(attempt: Attempt) -> Row:
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
        "cost_nano": record.cost_nano,
        "currency": record.currency,
        "finish_reasons": record.finish_reasons,
    }


def _roles(row: Row) -> str:
    """``prefill + decode, 2 attempts``."""
    roles = [role for role in ("prefill", "decode", "aggregated") if _int(row, f"{role}_role_gpu_ns")]
    attempts = _int(row, "attempts")
    return " + ".join(roles) + (f", {attempts} attempts" if attempts > 1 else "")


def _saved(row: Row) -> str:
    if not _int(row, "cached_tokens"):
        return ""
    saved_ns, saved_nano = _known(row, "saved_ns"), _known(row, "saved_nano")
    if saved_ns is None:
        return "unknown"
    if saved_nano is None:
        return show_seconds(saved_ns)
    return f"{show_seconds(saved_ns)}, {show_amount(saved_nano, str(row['currency']) or None)}"


def _notes(row: Row) -> str:
    return "; ".join(_texts(row, "notes"))


def _texts(row: Row, key: str) -> tuple[str, ...]:
    value = row[key]
    return value if isinstance(value, tuple) else ()


def _int(row: Row, key: str) -> int:
    value = row[key]
    assert isinstance(value, int)
    return value


def _known(row: Row, key: str) -> int | None:
    return None if row[key] is None else _int(row, key)
