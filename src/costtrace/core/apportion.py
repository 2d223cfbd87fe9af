"""Splitting an integer by integer weights so that the parts sum to it exactly. Pure."""

from collections.abc import Sequence


def largest_remainder(amount: int, weights: Sequence[int]) -> list[int]:
    """Split *amount* (any sign) in proportion to *weights* (>= 0), with the smallest possible errors.

    Each part is within one unit of the exact share. The order of the weights does not matter, but for ties: they go to
    the earlier weight.

    Raises: ValueError (a negative weight; an amount, but all weights are 0).
    """
    if (least := min(weights, default=0)) < 0:
        raise ValueError(f"a weight cannot be negative: {least}")
    total = sum(weights)
    if total == 0:
        if amount:
            raise ValueError(f"{amount} cannot be split: all weights are 0")
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
