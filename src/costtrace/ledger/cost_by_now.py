"""What single requests cost by now: where a re-rating gave their postings other charges, those count.

A usage record keeps the cost that it was first given, as spans do; adjustments are made posting by posting.
"""

from collections.abc import Sequence

from costtrace.core.rows import Charge
from costtrace.ledger.answers import Request
from costtrace.ledger.queries import rerated
from costtrace.ledger.reader import Store
from costtrace.pricing.rating import split_phases


def renew(store: Store, found: Sequence[Request]) -> list[Request]:
    """The same requests at the charges that hold now; what each was first given stays in its `first_` fields."""
    if not rerated(store):
        return list(found)
    known: dict[str, tuple[str, str]] = {}
    return [_renew(store, request, known) for request in found]


def _renew(store: Store, request: Request, known: dict[str, tuple[str, str]]) -> Request:
    parameters: dict[str, int | str] = {"record": request.record_id}
    adjusted = """
        SELECT a.posting_id, a.run_id, a.rate_id, a.device_nano, a.energy_nano FROM adjustment a
        WHERE a.posting_id IN (SELECT p.posting_id FROM posting p WHERE p.record_id = :record AND p.record_id != '')
            AND a.record_id = :record -- in a fleet store, other ledgers have the same numbers
        ORDER BY a.adjustment_id
    """
    adjustments = list(store.rows(adjusted, parameters))
    if not adjustments:
        return request
    newest = {posting_id: Charge(*charge) for posting_id, _, *charge in adjustments}
    postings = """
        SELECT p.posting_id, p.prefill_ns, p.decode_ns, p.prefill_uj, p.decode_uj, p.rate_id, p.device_nano,
            p.energy_nano
        FROM posting p WHERE p.record_id = :record AND p.record_id != '' ORDER BY p.posting_id
    """
    parts: list[tuple[int | None, int | None]] = []
    rates: dict[str, tuple[str, str]] = {}
    for posting_id, prefill_ns, decode_ns, prefill_uj, decode_uj, *first in store.rows(postings, parameters):
        charge = newest[posting_id] if posting_id in newest else Charge(*first)
        parts.append(split_phases(charge, prefill_ns, decode_ns, prefill_uj, decode_uj))
        if charge.rate_id not in known:
            known[charge.rate_id] = _rate(store, charge.rate_id)
        rates[charge.rate_id] = known[charge.rate_id]
    currencies = {currency for currency, _ in rates.values() if currency}
    one = len(currencies) == 1
    prefill, decode = (_sum([part[place] for part in parts]) if one else None for place in (0, 1))
    return request._replace(
        cost_nano=None if prefill is None or decode is None else prefill + decode,
        prefill_nano=prefill,
        decode_nano=decode,
        currency=currencies.pop() if one else "",
        price_book=list(rates.values())[-1][1],
        rerated=adjustments[-1][1],
    )


def _rate(store: Store, rate_id: str) -> tuple[str, str]:
    """Currency and price book of a rate; '' where no price applied."""
    sql = "SELECT r.currency, r.price_book FROM rate r WHERE r.rate_id = :rate"
    return next(((row[0], row[1]) for row in store.rows(sql, {"rate": rate_id})), ("", ""))


def _sum(parts: Sequence[int | None]) -> int | None:
    """None where any part is unknown."""
    return None if None in parts else sum(part for part in parts if part is not None)
