"""What requests have cost lately, by model and tenant: for estimates of what others will cost."""

from costtrace.core.rows import Means
from costtrace.core.units import NS_PER_HOUR, NS_PER_S
from costtrace.ledger.reader import Store

NEWEST = 50_000
"""Records that are looked at: what bounds the time that it takes, and how old a mean can be on a busy node."""
LONGEST_NS = 24 * NS_PER_HOUR
LEAST_REQUESTS = 10
"""Fewer make no mean: the first request after a start pays for what all later ones find done."""
MOST_MEANS = 1_000
"""A server reads them all: those with the most requests."""


def recent_means(store: Store, now_ns: int, *, by_tenant: bool) -> list[Means]:
    """Means of the newest records of a day before *now_ns* (wall) that have a cost, most requests first.

    Of a request that several workers share, none of the parts has its tokens and all of its cost: those are left out.
    Where a group has costs in several currencies, those in the newest count. Raises: LedgerError.
    """
    tenant = "u.tenant" if by_tenant else "''"
    found = store.rows(
        f"""
        SELECT u.model, {tenant} AS whose, u.currency, count(*), min(u.ended_ns), max(u.ended_ns), sum(u.input_tokens),
            sum(u.cached_tokens), sum(u.output_tokens), sum(u.prefill_nano), sum(u.decode_nano), sum(u.prefill_ns),
            sum(u.decode_ns), sum(u.prefill_uj), sum(u.decode_uj),
            sum(CASE WHEN u.prefill_uj IS NULL OR u.decode_uj IS NULL OR u.gap_ns > 0 THEN 1 ELSE 0 END),
            max(u.simulated)
        FROM usage u
        WHERE u.usage_id > (SELECT max(n.usage_id) FROM usage n) - :newest
            AND u.ended_ns >= :since AND u.role = 'aggregated'
            AND u.prefill_nano IS NOT NULL AND u.decode_nano IS NOT NULL
        GROUP BY u.model, whose, u.currency ORDER BY max(u.usage_id)
        """,  # noqa: S608 - made of constants
        {"newest": NEWEST, "since": now_ns - LONGEST_NS},
    )
    newest: dict[tuple[str, str], Means] = {}
    for model, whose, currency, requests, since_ns, until_ns, *sums, prefill_uj, decode_uj, unknown, simulated in found:
        known = (None, None) if unknown else (prefill_uj, decode_uj)
        newest[model, whose] = Means(
            *(model, whose, currency, requests, since_ns // NS_PER_S, until_ns // NS_PER_S),
            *(*sums, *known, bool(simulated)),
        )
    enough = [means for means in newest.values() if means.requests >= LEAST_REQUESTS]
    return sorted(enough, key=lambda means: means.requests, reverse=True)[:MOST_MEANS]
