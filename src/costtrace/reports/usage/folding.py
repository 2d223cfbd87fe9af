"""Clients can name any number of users and labels: a report shows the largest by name, the others together. Pure."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from costtrace.ledger.answers import Used

OTHER = "__other__"
"""No name that a client can give begins with two underscores."""

Keys = tuple[str, ...]


def largest(used: Iterable[Used], most: int) -> frozenset[str]:
    """The *most* values of the first key of *used* with most device time; of equals, the first by name. Not ''."""
    sums: Counter[str] = Counter()
    for row in used:
        if row.kind == "request" and row.keys[0]:
            sums[row.keys[0]] += row.gpu_ns
    return frozenset(sorted(sums, key=lambda value: (-sums[value], value))[:most])


def folding(names: Sequence[str], shown: dict[str, Collection[str]]) -> Callable[[Keys], Keys]:
    """A function that puts values that are not *shown* (by dimension) under `OTHER`; an empty value stays empty."""
    places = {place: shown[name] for place, name in enumerate(names) if name in shown}
    if not places:
        return lambda keys: keys

    def fold(keys: Keys) -> Keys:
        return tuple(
            OTHER if place in places and key and key not in places[place] else key for place, key in enumerate(keys)
        )

    return fold
