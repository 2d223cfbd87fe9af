"""Splitting an integer by integer weights so that the parts sum to it exactly. Pure.

Two ways, each with parts within one unit of the exact share:

`largest_remainder`   the smallest possible errors; the order of the weights does not matter (but for ties)
`cumulative`          the sum of the first k parts is the floor of their exact sum, for every k: for streams
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise


def largest_remainder(amount: int, weights: Sequence[int]) -> list[int]:
    """Split *amount* (any sign) in proportion to *weights* (>= 0). Ties go to the earlier weight.

    Raises: ValueError (a negative weight; an amount, but all weights are 0).
    """
    total = _total(amount, weights)
    if total == 0:
        return [0] * len(weights)
    parts, remainders = [], []
    for weight in weights:
        part, remainder = divmod(amount * weight, total)
        parts.append(part)
        remainders.append(remainder)
    missing = amount - sum(parts)
    for index in sorted(range(len(parts)), key=lambda index: -remainders[index])[:missing]:
        parts[index] += 1
    return parts


def cumulative(amount: int, weights: Sequence[int]) -> list[int]:
    """Split *amount* (any sign) in proportion to *weights* (>= 0), exact after each part. Raises: ValueError."""
    total = _total(amount, weights)
    if total == 0:
        return [0] * len(weights)
    marks = (amount * running // total for running in accumulate(weights, initial=0))
    return [after - before for before, after in pairwise(marks)]


def _total(amount: int, weights: Iterable[int]) -> int:
    total = 0
    for weight in weights:
        if weight < 0:
            raise ValueError(f"a weight cannot be negative: {weight}")
        total += weight
    if total == 0 and amount != 0:
        raise ValueError(f"{amount} cannot be split: all weights are 0")
    return total
