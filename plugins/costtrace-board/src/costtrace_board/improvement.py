"""Cost per token before and after a release, mix-adjusted, with a confidence interval, from one's own ledger.

Requests are sorted into strata: device, size of prompt and of output, part of the prompt in the cache, and the mean
batch of their steps. In each stratum device time per token is a ratio of sums, on each side. The strata are weighted
with the tokens of both sides together, so that neither a changed mix nor a changed load alone moves the result. (What
a release gains by allowing larger batches is not in it either; the ratio without adjustment includes it.) A stratum
that only one side has is left out, and the result says what part of all tokens is covered.

The 95 % interval is a delete-one jackknife over hours, on the logarithm of the ratio. Over hours and not requests,
because requests of one batch are not independent. Wrong where something other than the release changed on that day.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.errors import CosttraceError

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
        2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
"""Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; 1.96 is used beyond."""
MIN_HOURS = 3


class Block(NamedTuple):
    """Requests of one stratum in one hour on one engine version, summed."""

    version: str
    stratum: tuple[str, ...]
    hour: int
    gpu_ns: int
    cost_nano: int | None
    input_tokens: int
    output_tokens: int
    requests: int

    def tokens(self, basis: str) -> int:
        """Tokens counted by *basis*: input, output or total."""
        return {
            "input": self.input_tokens,
            "output": self.output_tokens,
            "total": self.input_tokens + self.output_tokens,
        }[basis]


class Estimate(NamedTuple):
    """After over before, with its 95 % interval; below 1 is cheaper."""

    before: float
    """Mix-adjusted, per million tokens: device-seconds, or currency units."""
    after: float
    ratio: float
    low: float
    high: float


class Improvement(NamedTuple):
    """The comparison of two sides."""

    basis: str
    before_name: str
    after_name: str
    gpu_time: Estimate
    """Device-seconds per million tokens; independent of prices."""
    cost: Estimate | None
    """None where a cost is unknown."""
    hours: tuple[int, int]
    requests: tuple[int, int]
    strata: int
    covered: float
    """Part of all tokens that are in strata common to both sides, 0 to 1."""
    raw_ratio: float
    """Device time, after over before, of the same requests without adjustment."""

    @property
    def times(self) -> float:
        """How many times cheaper, in device time."""
        return 1 / self.gpu_time.ratio


def compare(
    before: Iterable[Block], after: Iterable[Block], basis: str, before_name: str, after_name: str
) -> Improvement:
    """Compare two sides. Raises: CosttraceError: too few hours, no common stratum, or nothing to divide by."""
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
            f"{names[0]} and {names[1]} have no requests of similar size on the same kind of device: "
            "there is nothing to compare"
        )
    all_tokens = sum(block.tokens(basis) for side in sides for block in side)
    common_blocks = tuple(
        [block for block in side if block.stratum in common and block.tokens(basis)] for side in sides
    )
    covered = sum(block.tokens(basis) for side in common_blocks for block in side)
    if not covered:
        raise CosttraceError(f"no request of the two sides has {basis} tokens: there is nothing to divide by")
    gpu_time = _estimate(common_blocks, basis, lambda block: block.gpu_ns, 1e-9)
    priced = all(block.cost_nano is not None for side in common_blocks for block in side)
    cost = _estimate(common_blocks, basis, lambda block: block.cost_nano or 0, 1e-9) if priced else None
    raw = [sum(block.gpu_ns for block in side) / sum(block.tokens(basis) for block in side) for side in common_blocks]
    return Improvement(
        basis,
        *names,
        gpu_time,
        cost,
        (hours[0], hours[1]),
        (sum(block.requests for block in common_blocks[0]), sum(block.requests for block in common_blocks[1])),
        len(common),
        covered / all_tokens,
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
    for index, side in enumerate(sides):
        log_levels = _jackknife(side, sums[index], weights, basis, amount)
        count = len(log_levels)
        if count > 1:
            mean = sum(log_levels) / count
            variance += (count - 1) / count * sum((value - mean) ** 2 for value in log_levels)
        degrees = count - 1 if not degrees else min(degrees, count - 1)
    half_width = (T_95[degrees - 1] if 0 < degrees <= len(T_95) else 1.96) * math.sqrt(variance)
    log_ratio = math.log(float(levels[1])) - math.log(float(levels[0]))
    scale = unit * 1_000_000
    return Estimate(
        float(levels[0]) * scale,
        float(levels[1]) * scale,
        math.exp(log_ratio),
        math.exp(log_ratio - half_width),
        math.exp(log_ratio + half_width),
    )


def _sums(side: Iterable[Block], basis: str, amount: Callable[[Block], int]) -> Sums:
    sums: Sums = {}
    for block in side:
        so_far = sums.get(block.stratum, (0, 0))
        sums[block.stratum] = (so_far[0] + amount(block), so_far[1] + block.tokens(basis))
    return sums


def _level(sums: Sums, weights: dict[tuple[str, ...], int]) -> Fraction:
    """Amount per token, the strata weighted with *weights*; a stratum without tokens in *sums* is left out."""
    present = [stratum for stratum in weights if stratum in sums and sums[stratum][1]]
    weight = sum(weights[stratum] for stratum in present)
    if not weight:
        return Fraction(0)
    return sum(
        (Fraction(sums[stratum][0], sums[stratum][1]) * weights[stratum] for stratum in present), Fraction(0)
    ) / Fraction(weight)


def _jackknife(
    side: Sequence[Block],
    all_sums: Sums,
    weights: dict[tuple[str, ...], int],
    basis: str,
    amount: Callable[[Block], int],
) -> list[float]:
    """For each hour: the logarithm of the level without that hour."""
    by_hour: dict[int, list[Block]] = defaultdict(list)
    for block in side:
        by_hour[block.hour].append(block)
    log_levels = []
    for blocks in by_hour.values():
        without = dict(all_sums)
        for block in blocks:
            so_far = without[block.stratum]
            without[block.stratum] = (so_far[0] - amount(block), so_far[1] - block.tokens(basis))
        if level := _level(without, weights):
            log_levels.append(math.log(float(level)))
    return log_levels
