"""Queries of the last minutes of a ledger that its agent is writing: they touch only these rows, by index."""

from costtrace.core.units import NS_PER_S
from costtrace.ledger.answers import Period, Request
from costtrace.ledger.count_once import OUTPUT
from costtrace.ledger.queries import ORDERS, REQUEST_COLUMNS, ended, request_of, used
from costtrace.ledger.reader import Filter, Store
from costtrace.ledger.wholes import find_wholes, put_together, whole_requests
from costtrace_ui.live.figures import KEYS, DeviceUse, RatioSums, RunningRequest, Snapshot

_LAST_WINDOW = """
    SELECT m.window_ns, max(m.end_ns) - min(m.start_ns) FROM meter m
    WHERE m.window_ns = (SELECT max(window_ns) FROM meter)
    GROUP BY m.engine_id, m.device ORDER BY 2 DESC LIMIT 1
"""
_WINDOW = (
    "SELECT coalesce(max(m.end_ns - m.start_ns), 0) FROM (SELECT * FROM meter ORDER BY window_ns DESC LIMIT 100) m"
)
"""The length of a full window (ns): the first and the last window of an engine are shorter."""
_SERVED = f"""
    SELECT u.tenant, u.model, u.engine_id,
        sum(CASE WHEN u.energy_uj IS NULL OR u.gap_ns > 0 THEN 0 ELSE {OUTPUT} END),
        sum(CASE WHEN u.energy_uj IS NULL OR u.gap_ns > 0 THEN 0 ELSE u.energy_uj END),
        sum(u.batch_milli * u.steps), sum(u.steps)
    FROM usage u WHERE u.ended_ns >= :since AND u.ended_ns < :until GROUP BY 1, 2, 3
"""  # noqa: S608 - made of constants
_DEVICES = """
    SELECT m.device, coalesce(max(e.device_name), ''), count(DISTINCT m.engine_id), sum(m.request_ns), sum(m.idle_ns),
        sum(m.overhead_ns), sum(m.unobserved_ns), sum(m.energy_uj), sum(m.gap_ns),
        coalesce(max(e.simulated), 0) + coalesce(max(s.simulated), 0)
    FROM meter m LEFT JOIN engine e ON e.engine_id = m.engine_id
        LEFT JOIN window_sensor s
            ON s.engine_id = m.engine_id AND s.device = m.device AND s.window_ns = m.window_ns
    WHERE m.window_ns >= :since AND m.window_ns < :until GROUP BY 1 ORDER BY 1
"""
# Requests with time in the newest window and no usage record, of engines that have not ended; then all their postings.
_RUNNING = """
    SELECT p.record_id, max(p.tenant), max(p.model), max(p.engine_id), min(p.window_ns), sum(p.gpu_ns),
        sum(p.prefill_ns), sum(p.decode_ns), sum(p.wasted_ns),
        CASE WHEN count(*) = count(p.device_nano) AND count(*) = count(p.energy_nano)
                AND count(DISTINCT r.currency) = 1
            THEN sum(p.device_nano + p.energy_nano) END,
        coalesce(max(r.currency), '')
    FROM posting p LEFT JOIN rate r ON r.rate_id = p.rate_id
    WHERE p.record_id != '' AND p.record_id IN ( -- the first condition is the partial index's
        SELECT o.record_id FROM posting o LEFT JOIN engine e ON e.engine_id = o.engine_id
        WHERE o.window_ns >= :newest AND o.kind = 'request' AND coalesce(e.ended_ns, 0) = 0
            AND NOT EXISTS (SELECT 1 FROM usage u WHERE u.record_id = o.record_id)
    )
    GROUP BY 1 ORDER BY 10 IS NULL, 10 DESC, 6 DESC LIMIT :limit
"""


def read_snapshot(
    store: Store,
    over_ns: int,
    limit: int,
    only: Filter = Filter(),  # noqa: B008 - immutable
    period: Period | None = None,
) -> Snapshot:
    """What the ledger holds of *period*, or of the last *over_ns* up to the last closed window.

    *limit*: how many running and ended requests, the most expensive first. *only* filters the requests that ended.
    """
    newest_ns, length_ns = next(store.rows(_LAST_WINDOW), (0, 0))
    if period is None:
        until_ns = newest_ns + length_ns
        period = Period(_first_window(store, max(0, until_ns - over_ns), until_ns), until_ns)
    bounds: dict[str, int | str] = {"since": period.since_ns, "until": period.until_ns}
    return Snapshot(
        period,
        list(used(store, period, KEYS)),
        list(ended(store, period, KEYS)),
        [RatioSums(row[:3], *row[3:]) for row in store.rows(_SERVED, bounds)],
        [DeviceUse._make((*row[:-1], bool(row[-1]))) for row in store.rows(_DEVICES, bounds)],
        [RunningRequest(*row) for row in store.rows(_RUNNING, {"newest": newest_ns, "limit": limit})],
        whole_requests(store, period, only, "cost", limit),
    )


def cost_by_bucket(
    store: Store, period: Period, most: int
) -> tuple[int, list[tuple[int, str, int | None, int | None]]]:
    """*period* in at most *most* buckets: their width (ns, a multiple of a window), and the cost in each by currency.

    A bucket: its start (ns), the currency, the cost of requests and of everything (nano-units; None: partly unpriced).
    """
    (length_ns,) = next(store.rows(_WINDOW))
    window_ns = max(length_ns, NS_PER_S)
    width_ns = max(1, -(-(period.until_ns - period.since_ns) // (most * window_ns))) * window_ns
    sql = """
        SELECT (p.window_ns - :since) / :width, coalesce(r.currency, ''),
            sum(CASE WHEN p.kind = 'request' THEN coalesce(p.device_nano + p.energy_nano, 0) ELSE 0 END),
            sum(coalesce(p.device_nano + p.energy_nano, 0)),
            sum(CASE WHEN p.kind = 'request' AND (p.device_nano IS NULL OR p.energy_nano IS NULL) THEN 1 ELSE 0 END),
            sum(CASE WHEN p.device_nano IS NULL OR p.energy_nano IS NULL THEN 1 ELSE 0 END)
        FROM line p LEFT JOIN rate r ON r.rate_id = p.rate_id
        WHERE p.window_ns >= :since AND p.window_ns < :until GROUP BY 1, 2 ORDER BY 1, 2
    """
    bounds: dict[str, int | str] = {"since": period.since_ns, "until": period.until_ns, "width": width_ns}
    return width_ns, [
        (
            period.since_ns + number * width_ns,
            currency,
            None if requests_unpriced else requests_nano,
            None if unpriced else total_nano,
        )
        for number, currency, requests_nano, total_nano, requests_unpriced, unpriced in store.rows(sql, bounds)
    ]


def search_requests(store: Store, period: Period, words: str, only: Filter, order: str, limit: int) -> list[Request]:
    """Requests that ended in *period* and have *words* in an id or a name, sorted by one of `ORDERS`.

    A request whose id equals *words* is found whenever it ended.
    """
    if not words:
        return whole_requests(store, period, only, order, limit)
    if by_id := find_wholes(store, words, limit):
        return by_id
    sql = f"""
        SELECT {REQUEST_COLUMNS} FROM usage u
        WHERE u.ended_ns >= :since AND u.ended_ns < :until {only.sql("u")} AND instr(lower(u.request_id || char(10) ||
            u.record_id || char(10) || u.tenant || char(10) || u.model || char(10) || u.engine_id), lower(:words)) > 0
        ORDER BY {ORDERS[order]}, u.usage_id LIMIT :limit
    """  # noqa: S608 - made of constants
    bounds: dict[str, int | str] = {"since": period.since_ns, "until": period.until_ns, "limit": limit, "words": words}
    return put_together(store, [request_of(row) for row in store.rows(sql, {**bounds, **only.parameters()})])


def period_of_requests(store: Store) -> Period:
    """From the first end of a request to the last. By index; `bounds` would read every row."""
    sql = "SELECT (SELECT min(ended_ns) FROM usage), (SELECT max(ended_ns) + 1 FROM usage)"
    since_ns, until_ns = next(store.rows(sql))
    return Period(since_ns or 0, until_ns or 0)


def _first_window(store: Store, since_ns: int, until_ns: int) -> int:
    """Start of the first window that begins in the period; its end where none does."""
    sql = "SELECT min(m.window_ns) FROM meter m WHERE m.window_ns >= :since AND m.window_ns < :until"
    (first_ns,) = next(store.rows(sql, {"since": since_ns, "until": until_ns}))
    return until_ns if first_ns is None else int(first_ns)
