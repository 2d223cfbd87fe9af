"""Whose tokens are beyond the roofline's knee: the Shapley value of ``max(tokens - knee, 0)``, nearly.

Shares of what the tokens of a step cost beyond the reading of the weights (docs/method/paper.md section 2). Who stands
before a participant in a random order is told apart in two: of the two largest others each is before it or not, all
that are left are before it in part. With at most two who have more than one token beside those who decode one each,
that is the Shapley value but for the corner that a whole token makes of a line; with more of them it is close to it.

Only additions, multiplications and divisions in a fixed order: the same bits on every machine.
"""

from collections import Counter
from collections.abc import Iterable

_Means = tuple[float, float, float]
"""Of a random moment t in (0, 1), the means of some quantity times 1, t and t squared."""


def beyond_knee(sizes: Iterable[int], singles: int, knee: float) -> dict[int, float]:
    """Tokens beyond the knee that a participant brings about, by its tokens; of all together ``tokens - knee``.

    *sizes*: the tokens of those who are not among *singles*, who have one each. Empty where the knee is not reached.
    A cost of about six microseconds for each different size.
    """
    count = Counter(sizes)
    if singles:
        count[1] += singles
    tokens = sum(size * many for size, many in count.items())
    if tokens <= knee:
        return {}
    large = [size for size in sorted(count, reverse=True)[:3] for _ in range(min(3, count[size])) if size > 1][:3]
    found = {size: _brings(size, large, tokens, knee) for size in sorted(count)}
    whole = sum(value * count[size] for size, value in found.items())
    if not whole > 0.0:  # the knee is within rounding of all tokens
        return {size: size * (tokens - knee) / tokens for size in found}
    scale = (tokens - knee) / whole
    return {size: value * scale for size, value in found.items()}


def _brings(size: int, large: list[int], tokens: int, knee: float) -> float:
    """What one of *size* adds on average, with the *large*st of the step before it or not."""
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
    """Tokens beyond the knee with *size* more, less those without, where *above* + t * *rest* are beyond it."""
    more, less = _above(above + size, rest), _above(above, rest)
    return more[0] - less[0], more[1] - less[1], more[2] - less[2]


def _above(start: float, rest: float) -> _Means:
    """Of ``max(start + t * rest, 0)``."""
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
