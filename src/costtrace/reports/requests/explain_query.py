"""Explaining one request from a store: its parts, their peers, their engines' models."""

from costtrace.ledger.answers import Period
from costtrace.ledger.queries import fits
from costtrace.ledger.reader import Store
from costtrace.ledger.wholes import find_wholes, parts_of, whole_habits
from costtrace.reports.requests.explain import Explanation, explain
from costtrace.reports.requests.why import usual

PARTS = 20


def explained(store: Store, identifier: str, period: Period, peers: int) -> list[Explanation]:
    """Each part of a request (request id, record id, request key or trace id), explained; [] where it is not known.

    The medians are of the newest *peers* requests that ended in *period*.
    """
    wholes = find_wholes(store, identifier, PARTS)
    if not wholes:
        return []
    medians = usual(whole_habits(store, period, peers), [(whole.tenant, whole.model) for whole in wholes])
    explanations = []
    for whole in wholes:
        for place, part in enumerate(parts_of(store, whole) if whole.parts > 1 else [whole]):
            one = explain(part, medians, next(iter(fits(store, part.engine_id, 1)), None))
            explanations.append(one._replace(whole=whole if whole.parts > 1 and not place else None))
    return explanations
