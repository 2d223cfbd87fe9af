"""Explaining one request from a store: its parts, their peers, their engines' models."""

from costtrace.ledger.answers import Period
from costtrace.ledger.cost_by_now import renew
from costtrace.ledger.queries import find_requests, fits, habits
from costtrace.ledger.reader import Store
from costtrace.reports.requests.explain import Explanation, explain
from costtrace.reports.requests.why import usual

PARTS = 20


def explained(store: Store, identifier: str, period: Period, peers: int) -> list[Explanation]:
    """Each part of a request (request id, record id, request key or trace id), explained; [] where it is not known.

    The medians are of the newest *peers* requests that ended in *period*.
    """
    parts = renew(store, find_requests(store, identifier, PARTS))
    if not parts:
        return []
    medians = usual(habits(store, period, peers), [(part.tenant, part.model) for part in parts])
    return [explain(part, medians, next(iter(fits(store, part.engine_id, 1)), None)) for part in parts]
