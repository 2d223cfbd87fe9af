"""Whose tokens are beyond the roofline's knee: the Shapley value of ``max(tokens - knee, 0)``, nearly.

Shares of what the tokens of a step cost beyond the reading of the weights (docs/method/paper.md section 2). Who comes
before a participant in a random order is taken in two groups: each of the two largest others is before it or not; of
all the rest, a part is before it. With at most two participants of more than one token beside those that decode one
each, that is the Shapley value, except that the rest is taken as a line and not in whole tokens. With more it is close.

Only additions, multiplications and divisions in a fixed order: the same bits on every machine.
"""

from collections import Counter
from collections.abc import Iterable

_Means = tuple[float, float, float]
"""Means of a quantity times 1, times t and times t squared, over a random moment t in (0, 1)."""


def beyond_knee(sizes: Iterable[int], singles: int, knee: float) -> dict[int, float]:
    """Tokens beyond the knee that a participant brings about, by its tokens; all together ``tokens - knee``.

    *sizes*: the tokens of each participant beside the *singles*, which have one each. Empty below the knee.
    Takes about six microseconds for each different size.
    """
    count = Counter(sizes)
    if singles:
        count[1] += singles
    tokens = sum(size * many for size, many in count.items())
    if tokens <= knee:
        return {}
    large = [size for size in sorted(count, reverse=True)[:3] for _ in range(min(3, count[size])) if size > 1][:3]
    beyond = {size: _brings(size, large, tokens, knee) for size in sorted(count)}
    whole = sum(value * count[size] for size, value in beyond.items())
    if not whole > 0.0:  # the knee is within rounding of all tokens
        return {size: size * (tokens - knee) / tokens for size in beyond}
    scale = (tokens - knee) / whole
    return {size: value * scale for size, value in beyond.items()}


def _brings(size: int, large: list[int], tokens: int, knee: float) -> float:
    """What one participant of *size* adds on average, with each of the *large*st others before it or not."""
    others = list(large)
    if size in others:
        others.remove(size)
    others = others[:2]
    rest = float(tokens - size - sum(others))
    none = _added(-knee, size, rest)
    if not others:
        return none[0]
    one = _added(others[0] - knee, size, rest)
    if len(others) == 1:
        return max(0.0, none[0] - none[1] + one[1])
    other = one if others[0] == others[1] else _added(others[1] - knee, size, rest)
    both = _added(others[0] + others[1] - knee, size, rest)
    return max(0.0, none[0] - 2.0 * none[1] + none[2] + one[1] - one[2] + other[1] - other[2] + both[2])


def _added(above: float, size: int, rest: float) -> _Means:
    """What *size* more tokens add beyond the knee, where *above* + t * *rest* are beyond it without them."""
    after, before = _above(above + size, rest), _above(above, rest)
    return after[0] - before[0], after[1] - before[1], after[2] - before[2]


def _above(start: float, rest: float) -> _Means:
    """Means of ``max(start + t * rest, 0)``."""
    if start >= 0.0 or rest <= 0.0:
        start = max(start, 0.0)
        return start + rest / 2.0, start / 2.0 + rest / 3.0, start / 3.0 + rest / 4.0
    if start + rest <= 0.0:
        return 0.0, 0.0, 0.0
    s = -start / rest
    s2 = s * s
    s3 = s2 * s
    return (
        start * (1.0 - s) + rest * (1.0 - s2) / 2.0,
        start * (1.0 - s2) / 2.0 + rest * (1.0 - s3) / 3.0,
        start * (1.0 - s3) / 3.0 + rest * (1.0 - s3 * s) / 4.0,
    )
