"""Cost per token before and after a release, mix-adjusted, with a confidence interval, from one's own ledger.

Requests are sorted into strata: device, size of prompt and of output, part of the prompt in the cache, and the mean
batch of their steps. In each stratum device time per token before and after is a ratio of sums; the strata are weighed
with the tokens of both sides together, so neither a changed mix nor a changed load alone moves anything. (What a
release gains by making larger batches possible is not in it either; the ratio without adjustment has it.) A stratum
that only one side has is left out, and how many tokens that leaves out is said.

The interval is a delete-one jackknife over hours, on the logarithm of the ratio, 95 %: hours, not requests, because
requests of one batch are not independent. Wrong where another thing than the release changed on the same day.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.errors import CosttraceError

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
        2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
"""Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, 1.96 is near enough."""
MIN_HOURS = 3


class Block(NamedTuple):
    """Requests of one stratum in one hour on one version."""

    version: str
    stratum: tuple[str, ...]
    hour: int
    gpu_ns: int
    cost_nano: int | None
    input_tokens: int
    output_tokens: int
    requests: int

    def tokens(self, basis: str) -> int:
        """Tokens of a basis."""
        return {
            "input": self.input_tokens,
            "output": self.output_tokens,
            "total": self.input_tokens + self.output_tokens,
        }[basis]


class Estimate(NamedTuple):
    """A ratio with its interval: after over before, below 1 is cheaper."""

    before: float
    """Mix-adjusted, per million tokens: device-seconds, or currency units."""
    after: float
    ratio: float
    low: float
    high: float


class Improvement(NamedTuple):
    """What changed."""

    basis: str
    before_name: str
    after_name: str
    gpu_time: Estimate
    """Device-seconds per million tokens: no price in it."""
    cost: Estimate | None
    """None where a cost is unknown."""
    hours: tuple[int, int]
    requests: tuple[int, int]
    strata: int
    covered: float
    """Part of all tokens that stand in strata which both sides have, 0 to 1."""
    raw_ratio: float
    """Without any adjustment, of the same requests: what a headline would say."""

    @property
    def times(self) -> float:
        """So many times cheaper in device time."""
        return 1 / self.gpu_time.ratio


def compare(
    before: Iterable[Block], after: Iterable[Block], basis: str, before_name: str, after_name: str
) -> Improvement:
    """Compare two sides. Raises: CosttraceError, where they have nothing in common or too few hours."""
    sides, names = (list(before), list(after)), (before_name, after_name)
    hours = tuple(len({block.hour for block in side}) for side in sides)
    if min(hours) < MIN_HOURS:
        raise CosttraceError(
            f"{names[0]} has {hours[0]} hours with requests and {names[1]} has {hours[1]}: for an interval each needs "
            f"{MIN_HOURS}. Take a longer --since or --until."
        )
    common = {block.stratum for block in sides[0]} & {block.stratum for block in sides[1]}
    if not common:
        raise CosttraceError(
            f"{names[0]} and {names[1]} have no requests of alike size on alike devices: there is nothing to compare"
        )
    whole = sum(block.tokens(basis) for side in sides for block in side)
    kept = tuple([block for block in side if block.stratum in common and block.tokens(basis)] for side in sides)
    covered = sum(block.tokens(basis) for side in kept for block in side)
    if not covered:
        raise CosttraceError(f"no request of the two sides has {basis} tokens: there is nothing to divide by")
    gpu_time = _estimate(kept, basis, lambda block: block.gpu_ns, 1e-9)
    priced = all(block.cost_nano is not None for side in kept for block in side)
    cost = _estimate(kept, basis, lambda block: block.cost_nano or 0, 1e-9) if priced else None
    raw = [sum(block.gpu_ns for block in side) / sum(block.tokens(basis) for block in side) for side in kept]
    return Improvement(
        basis,
        *names,
        gpu_time,
        cost,
        (hours[0], hours[1]),
        (sum(block.requests for block in kept[0]), sum(block.requests for block in kept[1])),
        len(common),
        covered / whole,
        raw[1] / raw[0],
    )


Sums = dict[tuple[str, ...], tuple[int, int]]
"""By stratum: amount and tokens."""


def _estimate(sides: Sequence[Sequence[Block]], basis: str, amount: Callable[[Block], int], unit: float) -> Estimate:
    sums = [_sums(side, basis, amount) for side in sides]
    weights = {stratum: sums[0][stratum][1] + sums[1][stratum][1] for stratum in sums[0]}
    levels = [_level(side, weights) for side in sums]
    if not all(levels):
        raise CosttraceError("one side used no device time at all: there is no ratio")
    variance = 0.0
    degrees = 0
    for place, side in enumerate(sides):
        left_out = _jackknife(side, sums[place], weights, basis, amount)
        count = len(left_out)
        if count > 1:
            mean = sum(left_out) / count
            variance += (count - 1) / count * sum((value - mean) ** 2 for value in left_out)
        degrees = count - 1 if not degrees else min(degrees, count - 1)
    wide = (T_95[degrees - 1] if 0 < degrees <= len(T_95) else 1.96) * math.sqrt(variance)
    log_ratio = math.log(float(levels[1])) - math.log(float(levels[0]))
    scale = unit * 1_000_000
    return Estimate(
        float(levels[0]) * scale,
        float(levels[1]) * scale,
        math.exp(log_ratio),
        math.exp(log_ratio - wide),
        math.exp(log_ratio + wide),
    )


def _sums(side: Iterable[Block], basis: str, amount: Callable[[Block], int]) -> Sums:
    found: Sums = {}
    for block in side:
        have = found.get(block.stratum, (0, 0))
        found[block.stratum] = (have[0] + amount(block), have[1] + block.tokens(basis))
    return found


def _level(sums: Sums, weights: dict[tuple[str, ...], int]) -> Fraction:
    """Amount per token, the strata weighed with *weights*; those that *sums* has not (any more) are left out."""
    there = [stratum for stratum in weights if stratum in sums and sums[stratum][1]]
    weight = sum(weights[stratum] for stratum in there)
    if not weight:
        return Fraction(0)
    return sum(
        (Fraction(sums[stratum][0], sums[stratum][1]) * weights[stratum] for stratum in there), Fraction(0)
    ) / Fraction(weight)


def _jackknife(
    side: Sequence[Block],
    whole: Sums,
    weights: dict[tuple[str, ...], int],
    basis: str,
    amount: Callable[[Block], int],
) -> list[float]:
    """Logarithm of the level without one hour, for each hour."""
    by_hour: dict[int, list[Block]] = defaultdict(list)
    for block in side:
        by_hour[block.hour].append(block)
    found = []
    for blocks in by_hour.values():
        without = dict(whole)
        for block in blocks:
            have = without[block.stratum]
            without[block.stratum] = (have[0] - amount(block), have[1] - block.tokens(basis))
        if level := _level(without, weights):
            found.append(math.log(float(level)))
    return found
