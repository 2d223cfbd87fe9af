"""What single requests cost at the charges that hold now, after re-ratings.

A usage record keeps its first cost, as spans do; a re-rating adjusts postings. So the cost of a record is summed again
from its postings, each at its newest adjustment.
"""

from collections.abc import Sequence

from costtrace.core.rows import Charge
from costtrace.ledger.answers import Request
from costtrace.ledger.queries import rerated
from costtrace.ledger.reader import Store
from costtrace.pricing.rating import split_phases


def renew(store: Store, requests: Sequence[Request]) -> list[Request]:
    """The same requests at the charges that hold now; `first_` fields keep the first ones. Raises: LedgerError."""
    if not rerated(store):
        return list(requests)
    rates: dict[str, tuple[str, str]] = {}
    return [_renew(store, request, rates) for request in requests]


def _renew(store: Store, request: Request, rates: dict[str, tuple[str, str]]) -> Request:
    """*rates*: currency and price book by rate id, as far as they have been read."""
    parameters: dict[str, int | str] = {"record": request.record_id}
    adjustment_sql = """
        SELECT a.posting_id, a.run_id, a.rate_id, a.device_nano, a.energy_nano FROM adjustment a
        WHERE a.posting_id IN (SELECT p.posting_id FROM posting p WHERE p.record_id = :record AND p.record_id != '')
            AND a.record_id = :record -- in a fleet store, other ledgers have the same numbers
        ORDER BY a.adjustment_id
    """
    adjustments = list(store.rows(adjustment_sql, parameters))
    if not adjustments:
        return request
    newest = {posting_id: Charge(*charge) for posting_id, _, *charge in adjustments}
    posting_sql = """
        SELECT p.posting_id, p.prefill_ns, p.decode_ns, p.prefill_uj, p.decode_uj, p.rate_id, p.device_nano,
            p.energy_nano
        FROM posting p WHERE p.record_id = :record AND p.record_id != '' ORDER BY p.posting_id
    """
    phases: list[tuple[int | None, int | None]] = []
    applied: dict[str, tuple[str, str]] = {}
    for posting_id, prefill_ns, decode_ns, prefill_uj, decode_uj, *first in store.rows(posting_sql, parameters):
        charge = newest[posting_id] if posting_id in newest else Charge(*first)
        phases.append(split_phases(charge, prefill_ns, decode_ns, prefill_uj, decode_uj))
        if charge.rate_id not in rates:
            rates[charge.rate_id] = _rate(store, charge.rate_id)
        applied[charge.rate_id] = rates[charge.rate_id]
    currencies = {currency for currency, _ in applied.values() if currency}
    one = len(currencies) == 1  # costs in two currencies have no sum
    prefill, decode = (_sum([nano[place] for nano in phases]) if one else None for place in (0, 1))
    return request._replace(
        cost_nano=None if prefill is None or decode is None else prefill + decode,
        prefill_nano=prefill,
        decode_nano=decode,
        currency=currencies.pop() if one else "",
        price_book=list(applied.values())[-1][1],
        rerated=adjustments[-1][1],
    )


def _rate(store: Store, rate_id: str) -> tuple[str, str]:
    """Currency and price book of a rate; '' where no price applied."""
    sql = "SELECT r.currency, r.price_book FROM rate r WHERE r.rate_id = :rate"
    return next(((row[0], row[1]) for row in store.rows(sql, {"rate": rate_id})), ("", ""))


def _sum(parts: Sequence[int | None]) -> int | None:
    """None where any part is unknown."""
    return None if None in parts else sum(part for part in parts if part is not None)
