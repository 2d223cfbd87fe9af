"""Single requests as their clients sent them: parts on several engines that say so (`part` 2) are put together.

Only keys that are unique everywhere join, and only parts of one tenant. An engine without a server of ours, and a
library, have ids of their own.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from costtrace.core.rows import JOINED
from costtrace.ledger.answers import Habit, Period, Request
from costtrace.ledger.cost_by_now import renew
from costtrace.ledger.count_once import CACHED, INPUT, OUTPUT
from costtrace.ledger.queries import (
    HABIT_COLUMNS,
    ORDERS,
    REQUEST_COLUMNS,
    RERATED,
    find_requests,
    habits,
    request_of,
    requests,
    rerated,
)
from costtrace.ledger.reader import Filter, Store
from costtrace.ledger.schema.closing import TOKENS

LOCAL = ("unobserved", "default:no-context", "process")
"""Sources of the tenant of requests whose key names them on one engine only."""
_KEY = (
    f"CASE WHEN {{0}}.request_key LIKE '{JOINED}%/%' THEN substr({{0}}.request_key, 1, instr({{0}}.request_key, '/')) "
    "ELSE {0}.request_key END"
)
_FURTHER = f"""
    SELECT {_KEY.format("f")} FROM usage f WHERE f.ended_ns >= :since AND f.ended_ns < :until AND f.part > 1
        AND f.tenant_source NOT IN {LOCAL}
"""  # noqa: S608 - made of constants
_SPREAD = f"(u.tenant_source NOT IN {LOCAL} AND {_KEY.format('u')} IN ({_FURTHER}))"
_OF_WHOLE = "OVER (PARTITION BY u.whole, u.tenant)"
_SUMS = {
    **{name: f"u.{name}" for name in ("gpu_ns", "prefill_ns", "decode_ns", "wasted_ns", "energy_uj", "head_ns")},
    "input_tokens": INPUT,
    "cached_tokens": CACHED,
    "output_tokens": OUTPUT,
}
_FIGURES = {name: f"sum({column}) {_OF_WHOLE}" for name, column in _SUMS.items()} | {
    "cost_nano": f"CASE WHEN count(u.now_nano) {_OF_WHOLE} = count(*) {_OF_WHOLE} THEN sum(u.now_nano) {_OF_WHOLE} END",
    "arrived_ns": f"min(u.arrived_ns) {_OF_WHOLE}",
    "scheduled_ns": f"coalesce(min(nullif(u.scheduled_ns, 0)) {_OF_WHOLE}, 0)",
    "ended_ns": f"max(u.ended_ns) {_OF_WHOLE}",
}
"""What requests are sorted and compared by, of all parts of a whole that ended in the period."""
_ORDERS: dict[str, Callable[[Request], tuple[int, ...]]] = {
    "cost": lambda one: (one.cost_nano is None, -(one.cost_nano or 0), -one.gpu_ns),
    "gpu": lambda one: (-one.gpu_ns,),
    "energy": lambda one: (one.energy_uj is None, -(one.energy_uj or 0), -one.gpu_ns),
    "tokens": lambda one: (-one.input_tokens - one.output_tokens,),
    "queue": lambda one: (one.arrived_ns - (one.scheduled_ns or one.ended_ns),),
    "wasted": lambda one: (-one.wasted_ns,),
    "ended": lambda one: (-one.ended_ns,),
}
"""`ORDERS`, of requests that have been read."""
_NOW = "CASE WHEN a.nano IS NULL THEN u.cost_nano WHEN a.unknown > 0 THEN NULL ELSE a.nano END"


def whole_requests(store: Store, period: Period, only: Filter, order: str, limit: int) -> list[Request]:
    """Requests of which a part ended in *period*, sorted by one of `ORDERS`, at most *limit*, as they cost now.

    Where *only* names an engine, what was done there: its parts. Raises: LedgerError.
    """
    if only.engine is not None or not _have_further_parts(store, period):
        return renew(store, requests(store, period, only, order, limit))
    by_now = order == "cost" and rerated(store)
    sql = f"""
        SELECT {REQUEST_COLUMNS} FROM {_wholes(only, by_now=by_now)} u WHERE u.place = 1
        ORDER BY {_whole(ORDERS[order])}, u.usage_id LIMIT :limit
    """  # noqa: S608 - made of constants of this module
    rows = list(store.rows(sql, {**_bounds(period), "limit": limit, **only.parameters()}))
    single = renew(store, requests(store, period, only, order, limit, f"AND NOT {_SPREAD}"))
    wholes = [together(parts_of(store, request_of(row))) for row in rows]
    return sorted([*single, *wholes], key=_ORDERS[order])[:limit]


def whole_habits(store: Store, period: Period, limit: int) -> Iterator[Habit]:
    """The newest *limit* requests of *period* on one engine, and on several, as `habits`."""
    if not _have_further_parts(store, period):
        yield from habits(store, period, limit)
        return
    yield from habits(store, period, limit, f"AND NOT {_SPREAD}")
    sql = f"""
        SELECT {_whole(HABIT_COLUMNS)} FROM {_wholes(Filter(), by_now=False)} u WHERE u.place = 1
        ORDER BY u.ended_ns DESC LIMIT :limit
    """  # noqa: S608 - made of constants of this module
    for row in store.rows(sql, {**_bounds(period), "limit": limit}):
        yield Habit(*row)


def find_wholes(store: Store, identifier: str, limit: int) -> list[Request]:
    """The requests that `find_requests` finds, each with all its parts, as they cost now."""
    return put_together(store, find_requests(store, identifier, limit))


def put_together(store: Store, records: Sequence[Request]) -> list[Request]:
    """The requests that *records* are parts of, in their order."""
    wholes, seen = [], set[str]()
    for record in records:
        if record.record_id not in seen:
            parts = parts_of(store, record)
            seen.update(part.record_id for part in parts)
            wholes.append(together(parts))
    return wholes


def whole_key(request_key: str) -> str:
    """The key of a request of which *request_key* names one prompt, ending in ``/``; else *request_key*."""
    listed = request_key.startswith(JOINED) and "/" in request_key
    return request_key[: request_key.index("/") + 1] if listed else request_key


def keys_of(request_key: str) -> dict[str, int | str]:
    """The first and the last key that the parts of a request can have."""
    key = whole_key(request_key)
    return {"key": key, "last": f"{key}~" if key.endswith("/") and key != request_key else key}


def parts_of(store: Store, record: Request) -> list[Request]:
    """All parts of the request that *record* is one of, as they cost now; the one that counts it comes first."""
    sql = f"""
        SELECT {REQUEST_COLUMNS} FROM usage u WHERE u.request_key >= :key AND u.request_key <= :last
            AND u.tenant = :tenant AND u.tenant_source NOT IN {LOCAL} ORDER BY u.part, u.arrived_ns, u.record_id
    """  # noqa: S608 - made of constants of this module
    parts = [request_of(row) for row in store.rows(sql, {**keys_of(record.request_key), "tenant": record.tenant})]
    joins = record.tenant_source not in LOCAL and any(part.part > 1 for part in parts)
    return renew(store, parts if joins else [record])


def together(parts: Sequence[Request]) -> Request:
    """The request that *parts* make, the one that counts it first. Of what several count, it has each once."""
    if len(parts) == 1:
        return parts[0]
    first, currencies = parts[0], {part.currency for part in parts}
    steps = sum(part.steps for part in parts)
    answers = [part for part in parts if part.counted_output != 0] or parts

    def known(name: str) -> int | None:
        values = [value for part in parts if (value := getattr(part, name)) is not None]
        return sum(values) if values else None

    def money(name: str) -> int | None:
        values = [getattr(part, name) for part in parts]
        return None if None in values or len(currencies) > 1 else sum(values)

    def counted(kind: str) -> int:
        pairs = [(getattr(part, f"counted_{kind}"), getattr(part, f"{kind}_tokens")) for part in parts]
        return sum(fact if count is None else count for count, fact in pairs)

    added = ("gpu_ns", "prefill_ns", "decode_ns", "wasted_ns", "energy_unknown_ns", "computed_tokens", "sequences")
    sums: dict[str, Any] = {name: sum(getattr(part, name) for part in parts) for name in added}
    sums |= {name: known(name) for name in ("energy_uj", "head_ns", "prefix_ns")}
    sums |= {name: money(name) for name in ("cost_nano", "prefill_nano", "decode_nano", "first_cost_nano")}
    sums |= {f"{kind}_tokens": counted(kind) for kind in TOKENS}
    return first._replace(
        **sums,
        steps=steps,
        preemptions=sum(part.preemptions for part in parts),
        role=" + ".join(dict.fromkeys(part.role for part in sorted(parts, key=lambda part: part.arrived_ns))),
        arrived_ns=min(part.arrived_ns for part in parts),
        scheduled_ns=min((part.scheduled_ns for part in parts if part.scheduled_ns), default=0),
        decode_ns_at=min((part.decode_ns_at for part in answers if part.decode_ns_at), default=0),
        ended_ns=max(part.ended_ns for part in parts),
        batch_milli=sum(part.batch_milli * part.steps for part in parts) // steps if steps else 0,
        finish_reasons=tuple(reason for part in answers for reason in part.finish_reasons),
        finality=max(part.finality for part in parts),  # provisional, where one is
        currency=first.currency if len(currencies) == 1 else "",
        simulated=max(part.simulated for part in parts),
        rerated=max(part.rerated for part in parts),
        counted_input=None,
        counted_cached=None,
        counted_output=None,
        parts=len(parts),
    )


def _have_further_parts(store: Store, period: Period) -> bool:
    return bool(next(store.rows(f"SELECT count(*) FROM ({_FURTHER})", _bounds(period)))[0])  # noqa: S608 - constants


def _wholes(only: Filter, *, by_now: bool) -> str:
    """Parts that ended in the period as a source of rows: figures of their whole are ``whole_...``, its place is 1."""
    columns = ", ".join(f"{column} AS {column.partition('.')[2]}" for column in REQUEST_COLUMNS.split(", "))
    figures = ", ".join(f"{figure} AS whole_{name}" for name, figure in _FIGURES.items())
    return f"""(
        SELECT {columns}, {figures}, u.usage_id AS usage_id,
            row_number() OVER (PARTITION BY u.whole, u.tenant ORDER BY u.part, u.arrived_ns, u.record_id) AS place
        FROM (
            SELECT u.*, {_NOW if by_now else "u.cost_nano"} AS now_nano, {_KEY.format("u")} AS whole
            FROM usage u {RERATED if by_now else ""}
            WHERE u.ended_ns >= :since AND u.ended_ns < :until AND {_SPREAD} {only.sql("u")}
        ) u
    )"""  # noqa: S608 - made of constants of this module


def _whole(sql: str) -> str:
    """An expression on a part as the same one on its whole."""
    return re.sub(rf"\bu\.({'|'.join(_FIGURES)})\b", r"u.whole_\1", sql)


def _bounds(period: Period) -> dict[str, int | str]:
    return {"since": period.since_ns, "until": period.until_ns}
