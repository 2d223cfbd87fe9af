"""Queries on a ledger, in the SQL that SQLite and ClickHouse share; `costtrace_fleet.store` translates the rest.

Time, energy and money are sums of postings: a posting counts at the beginning of its window. Tokens are sums of usage
records: a record counts when its request ended. All of them raise LedgerError where the store cannot be read.
"""

import json
from collections.abc import Iterator, Sequence

import msgspec

from costtrace.core.client_text import short
from costtrace.core.rows import JOINED, FitRow
from costtrace.ledger.answers import Ended, Fit, Habit, Period, Request, Used
from costtrace.ledger.count_once import COUNTED
from costtrace.ledger.dimensions import dimension
from costtrace.ledger.reader import Filter, Row, Store
from costtrace.ledger.schema.columns import columns_of

_FIT = FitRow.__struct_fields__
_COMPUTED = ("rerated", "first_cost_nano", "first_currency", "first_price_book", "parts")
REQUEST_COLUMNS = columns_of((name for name in Request._fields if name not in _COMPUTED), "u")
# The cost of re-rated requests now: what was posted, and each adjustment's charges, the old one back and the new one.
# Unknown charges are counted likewise: what an adjustment takes back does not count any more.
_CHARGES = """SELECT record_id, {sign}(coalesce({0}, 0) + coalesce({1}, 0)) AS nano,
    {sign}CASE WHEN {0} IS NULL OR {1} IS NULL THEN 1 ELSE 0 END AS unknown FROM {2}"""
RERATED = f"""
    LEFT JOIN (
        SELECT record_id, sum(nano) AS nano, sum(unknown) AS unknown FROM (
            {_CHARGES.format("device_nano", "energy_nano", "posting", sign="")}
            UNION ALL {_CHARGES.format("from_device_nano", "from_energy_nano", "adjustment", sign="-")}
            UNION ALL {_CHARGES.format("device_nano", "energy_nano", "adjustment", sign="")})
        WHERE record_id != '' AND record_id IN (SELECT record_id FROM adjustment) GROUP BY record_id
    ) a ON a.record_id = u.record_id
"""  # noqa: S608 - made of constants of this module
_COST_BY_NOW = (
    "CASE WHEN a.nano IS NULL THEN u.cost_nano IS NULL ELSE a.unknown > 0 END, "
    "coalesce(a.nano, u.cost_nano) DESC, u.gpu_ns DESC"
)
ORDERS = {
    "cost": "u.cost_nano IS NULL, u.cost_nano DESC, u.gpu_ns DESC",
    "gpu": "u.gpu_ns DESC",
    "energy": "u.energy_uj IS NULL, u.energy_uj DESC, u.gpu_ns DESC",
    "tokens": "u.input_tokens + u.output_tokens DESC",
    "queue": "CASE WHEN u.scheduled_ns > 0 THEN u.scheduled_ns ELSE u.ended_ns END - u.arrived_ns DESC",
    "wasted": "u.wasted_ns DESC",
    "ended": "u.ended_ns DESC",
}
"""How requests can be sorted; unknowns come last."""


def bounds(store: Store) -> Period | None:
    """The period that the ledger covers, from its first row to its last one; None: it is empty."""
    sql = """
        SELECT min(least), max(most) FROM (
            SELECT min(window_ns) AS least, max(window_ns) + 1 AS most FROM line
            UNION ALL SELECT min(ended_ns), max(ended_ns) + 1 FROM usage_line)
    """
    least, most = next(store.rows(sql))
    return None if least is None else Period(least, most)


def used(store: Store, period: Period, by: Sequence[str], only: Filter = Filter()) -> Iterator[Used]:  # noqa: B008 - immutable
    """Postings whose window begins in *period*, summed by the dimensions *by*, kind, reason and currency."""
    dimensions = [dimension(name) for name in by]
    tables = frozenset[str]().union(*(each.tables for each in dimensions))
    keys = "".join(f"{each.posting}, " for each in dimensions)
    group = ", ".join(str(place + 1) for place in range(len(by) + 4))
    # Postings of unknown cost are a group of their own, or a sum would hide them. For unknown energy there is `gap_ns`.
    sql = f"""
        SELECT {keys} p.kind, p.reason, coalesce(r.currency, ''),
            CASE WHEN p.device_nano IS NULL OR p.energy_nano IS NULL THEN 1 ELSE 0 END,
            sum(p.gpu_ns), sum(p.prefill_ns), sum(p.decode_ns), sum(p.wasted_ns), sum(p.gap_ns),
            sum(p.energy_uj), sum(p.prefill_uj), sum(p.decode_uj), sum(p.wasted_uj),
            sum(p.device_nano), sum(p.energy_nano), coalesce(sum(e.simulated), 0)
        FROM line p LEFT JOIN rate r ON r.rate_id = p.rate_id
            {"LEFT JOIN usage u ON u.record_id = p.record_id" if "usage" in tables else ""}
            LEFT JOIN engine e ON e.engine_id = p.engine_id
        WHERE p.window_ns >= :since AND p.window_ns < :until {only.sql("p")}
        GROUP BY {group}
    """  # noqa: S608 - made of constants of this module
    width = len(by)
    for row in store.rows(sql, {"since": period.since_ns, "until": period.until_ns, **only.parameters()}):
        kind, reason, currency, _, *sums = row[width:]
        if any(sums[:-1]):  # a group whose sums are all 0 was taken back by adjustments
            yield Used(row[:width], kind, reason, currency, *sums)


def ended(store: Store, period: Period, by: Sequence[str], only: Filter = Filter()) -> Iterator[Ended]:  # noqa: B008 - immutable
    """Usage records that ended in *period*, summed by the dimensions *by* and currency. Keys may come twice.

    Of a request with several parts each token counts once (`costtrace.ledger.count_once`).
    """
    dimensions = [dimension(name) for name in by]
    keys = "".join(f"{each.usage}, " for each in dimensions)
    group = ", ".join(str(place + 1) for place in range(len(by) + 1))
    joined = {"device", "simulated", "worker"} & set(by)
    engine = "LEFT JOIN engine e ON e.engine_id = u.engine_id" if joined else ""
    width = len(by)
    for source, sums in COUNTED:
        sql = f"""
            SELECT {keys} u.currency, {sums}
            FROM {source} u {engine}
            WHERE u.ended_ns >= :since AND u.ended_ns < :until {only.sql("u")}
            GROUP BY {group}
        """  # noqa: S608 - made of constants of this module
        for row in store.rows(sql, {"since": period.since_ns, "until": period.until_ns, **only.parameters()}):
            yield Ended(row[:width], *row[width:])


def claims(store: Store, period: Period) -> Iterator[tuple[str, str, int]]:
    """How requests that ended in *period* got their tenant: source, tenant, how many. Rejected claims come first."""
    sql = """
        SELECT u.tenant_source, u.tenant, sum(u.requests) FROM usage_line u
        WHERE u.ended_ns >= :since AND u.ended_ns < :until GROUP BY u.tenant_source, u.tenant
        ORDER BY CASE WHEN u.tenant_source LIKE 'rejected:%' THEN 0 ELSE 1 END, u.tenant_source, u.tenant
    """
    for row in store.rows(sql, {"since": period.since_ns, "until": period.until_ns}):
        yield row[0], row[1], row[2]


def requests(store: Store, period: Period, only: Filter, order: str, limit: int, condition: str = "") -> list[Request]:
    """Usage records that ended in *period*, at their first cost (`cost_by_now.renew`), sorted by one of `ORDERS`.

    By cost, they are sorted at the charges that hold now. At most *limit*. *condition*: one more on u, with its AND.
    """
    by_now = order == "cost" and rerated(store)
    sql = f"""
        SELECT {REQUEST_COLUMNS} FROM usage u {RERATED if by_now else ""}
        WHERE u.ended_ns >= :since AND u.ended_ns < :until {only.sql("u")} {condition}
        ORDER BY {_COST_BY_NOW if by_now else ORDERS[order]}, u.usage_id LIMIT :limit
    """  # noqa: S608 - made of constants of this module
    parameters: dict[str, int | str] = {
        "since": period.since_ns,
        "until": period.until_ns,
        "limit": limit,
        **only.parameters(),
    }
    return [request_of(row) for row in store.rows(sql, parameters)]


def rerated(store: Store) -> bool:
    """Whether any usage has been re-rated."""
    return bool(next(store.rows("SELECT count(*) FROM rerate"))[0])


def find_requests(store: Store, identifier: str, limit: int) -> list[Request]:
    """Usage records with this record id, request id, request key or trace id: of the first of these that matches any.

    A frontend's prefix is ignored: for ``chatcmpl-<id>``, records of parts that its workers know as ``<id>`` match too,
    and for ``cmpl-<id>`` those of all prompts of its list.
    """
    searches = [(column, identifier) for column in ("u.record_id", "u.request_id", "u.request_key", _TRACE_ID)]
    for name in dict.fromkeys(identifier.removeprefix(prefix) for prefix in ("chatcmpl-", "cmpl-")):
        head, _, number = name.rpartition("-")
        searches += [("u.request_key", JOINED + name), ("u.request_key", f"{JOINED}{head}/{number}")]
        searches += [("", f"{JOINED}{name}/")]
    searches += [("u.request_id", short(identifier))]  # as it was cut when it came
    for column, value in searches:
        matches = f"{column} = :id" if column else "u.request_key >= :id AND u.request_key < :id || '~'"
        sql = f"""
            SELECT {REQUEST_COLUMNS} FROM usage u WHERE {matches} ORDER BY u.usage_id LIMIT :limit
        """  # noqa: S608 - made of constants of this module
        if records := [request_of(row) for row in store.rows(sql, {"id": value, "limit": limit})]:
            return records
    return []


_TRACE_ID = "substr(u.traceparent, 4, 32)"


HABIT_COLUMNS = """u.tenant, u.model, u.gpu_ns, u.input_tokens, u.cached_tokens, u.output_tokens, u.batch_milli,
    CASE WHEN u.scheduled_ns > 0 THEN u.scheduled_ns ELSE u.ended_ns END - u.arrived_ns,
    u.prefill_ns, u.decode_ns, u.wasted_ns, u.head_ns, u.cost_nano"""
"""What makes a `Habit`."""


def habits(store: Store, period: Period, limit: int, condition: str = "") -> Iterator[Habit]:
    """The newest *limit* usage records of *period*, for medians by tenant and model. *condition*: as of `requests`."""
    sql = f"""
        SELECT {HABIT_COLUMNS} FROM usage u WHERE u.ended_ns >= :since AND u.ended_ns < :until {condition}
        ORDER BY u.ended_ns DESC LIMIT :limit
    """  # noqa: S608 - made of constants of this module
    for row in store.rows(sql, {"since": period.since_ns, "until": period.until_ns, "limit": limit}):
        yield Habit(*row)


def fits(store: Store, engine: str | None, limit: int) -> list[Fit]:
    """What the step models of engines have learned, newest engines first. *engine*: of this one only."""
    columns = ", ".join(f"f.{name}" for name in _FIT)
    sql = f"""
        SELECT e.model, e.device_name, e.devices, e.simulated, e.started_wall_ns, {columns}
        FROM engine_fit f JOIN engine e ON e.engine_id = f.engine_id
        WHERE :engine = '' OR f.engine_id = :engine
        ORDER BY e.started_wall_ns DESC, f.engine_id LIMIT :limit
    """  # noqa: S608 - made of constants of this module
    return [
        Fit(row[0], row[1], len(json.loads(row[2])), bool(row[3]), row[4], _fit_row(row[5:]))
        for row in store.rows(sql, {"engine": engine or "", "limit": limit})
    ]


def _fit_row(values: Row) -> FitRow:
    # SQLite has no booleans: the lax conversion takes 0 and 1.
    return msgspec.convert(dict(zip(_FIT, values, strict=True)), FitRow, strict=False)


def request_of(row: Row) -> Request:
    """Make a request from a row of `REQUEST_COLUMNS`."""
    request = Request(*row)
    return request._replace(
        finish_reasons=tuple(json.loads(row[Request._fields.index("finish_reasons")])),
        first_cost_nano=request.cost_nano,
        first_currency=request.currency,
        first_price_book=request.price_book,
    )
