"""What requests cost lately, by model and tenant. Servers estimate from it what a new request will cost."""

from costtrace.core.rows import Means
from costtrace.core.units import NS_PER_HOUR, NS_PER_S
from costtrace.ledger.count_once import CACHED, INPUT, IS_REQUEST, OUTPUT
from costtrace.ledger.reader import Store

NEWEST = 50_000
"""How many records are read, at most: it bounds the time that this takes."""
LONGEST_NS = 24 * NS_PER_HOUR
"""How old a record may be."""
LEAST_REQUESTS = 10
"""A group of fewer has no mean: the first request after a start pays for warm-up that later ones do not."""
MOST_MEANS = 1_000
"""A server reads them all, so only those with the most requests are kept."""


def recent_means(store: Store, now_ns: int, *, by_tenant: bool) -> list[Means]:
    """Means of the newest records in the day before *now_ns* (wall) that have a cost; most requests first.

    Requests that several workers share are left out: no part has both the request's tokens and its cost. Of a group
    with costs in several currencies, the newest currency counts. Raises: LedgerError.
    """
    tenant = "u.tenant" if by_tenant else "''"  # '' names the mean of all tenants
    rows = store.rows(
        f"""
        SELECT u.model, {tenant} AS name, u.currency, sum({IS_REQUEST}), min(u.ended_ns), max(u.ended_ns), sum({INPUT}),
            sum({CACHED}), sum({OUTPUT}), sum(u.prefill_nano), sum(u.decode_nano), sum(u.prefill_ns),
            sum(u.decode_ns), sum(u.prefill_uj), sum(u.decode_uj),
            sum(CASE WHEN u.prefill_uj IS NULL OR u.decode_uj IS NULL OR u.gap_ns > 0 THEN 1 ELSE 0 END),
            max(u.simulated)
        FROM usage u
        WHERE u.usage_id > (SELECT max(n.usage_id) FROM usage n) - :newest
            AND u.ended_ns >= :since AND u.role = 'aggregated'
            AND u.prefill_nano IS NOT NULL AND u.decode_nano IS NOT NULL
        GROUP BY u.model, name, u.currency ORDER BY max(u.usage_id)
        """,  # noqa: S608 - made of constants
        {"newest": NEWEST, "since": now_ns - LONGEST_NS},
    )
    newest: dict[tuple[str, str], Means] = {}
    for model, name, currency, requests, since_ns, until_ns, *sums, prefill_uj, decode_uj, unknown, simulated in rows:
        known = (None, None) if unknown else (prefill_uj, decode_uj)
        newest[model, name] = Means(
            *(model, name, currency, requests, since_ns // NS_PER_S, until_ns // NS_PER_S),
            *(*sums, *known, bool(simulated)),
        )
    enough = [means for means in newest.values() if means.requests >= LEAST_REQUESTS]
    return sorted(enough, key=lambda means: means.requests, reverse=True)[:MOST_MEANS]
