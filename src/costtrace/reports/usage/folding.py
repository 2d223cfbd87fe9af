"""What clients name freely has no end: a report shows the largest by name, and the others together. Pure."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from costtrace.ledger.answers import Used

OTHER = "__other__"
"""No name that a client can give begins so."""

Keys = tuple[str, ...]


def largest(used: Iterable[Used], most: int) -> frozenset[str]:
    """Of the first key of *used*, the *most* values with most device time; alike, the first by name. '' is none."""
    sums: Counter[str] = Counter()
    for row in used:
        if row.kind == "request" and row.keys[0]:
            sums[row.keys[0]] += row.gpu_ns
    return frozenset(sorted(sums, key=lambda value: (-sums[value], value))[:most])


def folding(names: Sequence[str], shown: dict[str, Collection[str]]) -> Callable[[Keys], Keys]:
    """What puts values that are not *shown* (by the name of their dimension) under `OTHER`. Nothing is never folded."""
    places = {place: shown[name] for place, name in enumerate(names) if name in shown}
    if not places:
        return lambda keys: keys

    def fold(keys: Keys) -> Keys:
        return tuple(
            OTHER if place in places and key and key not in places[place] else key for place, key in enumerate(keys)
        )

    return fold
