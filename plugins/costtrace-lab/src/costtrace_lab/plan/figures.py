"""What another price, device, batch limit or fleet would make of the ledger's traffic: the arithmetic of ``plan``.

Two kinds of runs stand side by side: the *measured* one, of the ledger, and *modelled* ones, of the serving simulator
on the same requests. What the model says of today's configuration, beside what was measured of it, is its error; a
scenario is given as the model says it and corrected by that error. Its range holds both, each with a 95 % jackknife
interval over blocks of traffic: nobody can say how much of the error today's configuration shares with another one.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from costtrace_board.improvement import T_95

from costtrace.core.units import NS_PER_HOUR

BLOCKS = 12
"""Stretches of equal time into which the traffic is cut."""
MIN_BLOCKS = 4
"""With fewer that have requests there is no interval."""


class Served(NamedTuple):
    """One engine's share of a request, as the ledger has it."""

    pool: str
    """The devices that it ran on: an engine that was started again is the same pool."""
    arrived_ns: int
    decode_ns_at: int
    ended_ns: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    sequences: int
    steps: int
    batch_milli: int
    gpu_ns: int
    cost_nano: int | None
    currency: str


class EngineGroup(NamedTuple):
    """The engines of one model on one kind of device, over a period."""

    model: str
    device: str
    gpus_per_engine: int
    pools: int
    settings: tuple[tuple[str, str], ...]
    """Of the newest engine."""
    newest_engine: str
    request_ns: int
    """Device time of requests, of all kinds of time: what `utilisation` is made of."""
    all_ns: int
    simulated: bool
    others: tuple[str, ...] = ()
    """What is not in it: other models, devices and roles in the period."""

    @property
    def utilisation(self) -> Fraction:
        """Part of all paid device time in which requests were served."""
        return Fraction(self.request_ns, self.all_ns) if self.all_ns else Fraction(0)


class Block(NamedTuple):
    """A stretch of traffic."""

    gpu_ns: int
    input_tokens: int
    output_tokens: int

    def tokens(self, basis: str) -> int:
        """Tokens of a basis."""
        inputs, outputs = self.input_tokens, self.output_tokens
        return {"input": inputs, "output": outputs, "total": inputs + outputs}[basis]


class Run(NamedTuple):
    """The traffic, served once: measured or modelled."""

    blocks: tuple[Block, ...]
    mean_batch: Fraction | None
    interactivity: float | None
    """Median of the output tokens/s that one user sees."""
    latency_s: float
    """Median, from arrival to end."""
    busy: tuple[tuple[str, float], ...] = ()
    """By group of engines: part of the stretch in which they were busy. Only of modelled runs."""

    @property
    def gpu_ns(self) -> int:
        """Device time of the requests."""
        return sum(block.gpu_ns for block in self.blocks)

    def tokens(self, basis: str) -> int:
        """Tokens of a basis."""
        return sum(block.tokens(basis) for block in self.blocks)


class Scenario(NamedTuple):
    """A modelled run and what its time costs."""

    name: str
    run: Run
    per_gpu_hour: Fraction
    engines: Fraction
    """That the traffic is served by; a part of one where a load for one engine was asked for."""
    engines_share: Fraction
    """Paid device time, as a part of today's, where no utilisation is aimed at."""
    utilisation: Fraction | None
    """That was aimed at; None: as many engines for as long as today."""
    carried: bool
    """Its step times are of the same kind as those of today's replay: the measured error says something of it."""
    step_times: str = ""
    """Where they are from."""


class Figures(NamedTuple):
    """Cost per million tokens of one line: currency units, or None where it cannot be known."""

    modelled: Fraction
    corrected: Fraction | None
    low: Fraction | None
    high: Fraction | None
    with_idle: Fraction
    with_idle_low: Fraction | None
    with_idle_high: Fraction | None
    utilisation: Fraction
    overloaded: bool
    """The requests need more than all paid time."""

    @property
    def best(self) -> Fraction:
        """The figure to quote: corrected by the measured error, where that is possible."""
        return self.modelled if self.corrected is None else self.corrected


def per_million(per_gpu_hour: Fraction, gpu_ns: Fraction | int, tokens: int) -> Fraction:
    """Currency units per million tokens."""
    return per_gpu_hour * gpu_ns * 1_000_000 / (NS_PER_HOUR * tokens)


def error_of(measured: Run, today: Run) -> Fraction:
    """Modelled device time over measured, of today's configuration: 1 is a model without error."""
    return Fraction(today.gpu_ns, measured.gpu_ns)


def figures(scenario: Scenario, measured: Run, today: Run, fleet: EngineGroup, basis: str) -> Figures:
    """What a scenario costs per million tokens of *basis*, of which there are some."""
    tokens = measured.tokens(basis)
    run = scenario.run
    modelled = per_million(scenario.per_gpu_hour, run.gpu_ns, tokens)
    corrected = low = high = None
    if scenario.carried:
        # The same model on the same requests: what it is off by today is taken out. Of another one nothing is known.
        corrected = modelled / error_of(measured, today)
        spans = _span(modelled, (run,), basis), _span(corrected, (run, measured, today), basis)
        if spans[0] is not None and spans[1] is not None:
            low, high = min(spans[0][0], spans[1][0]), max(spans[0][1], spans[1][1])
    best = modelled if corrected is None else corrected
    paid_ns = measured.gpu_ns / fleet.utilisation * scenario.engines_share
    paid = per_million(scenario.per_gpu_hour, paid_ns, tokens)
    loaded = _loaded(scenario, paid)
    return Figures(
        modelled,
        corrected,
        low,
        high,
        loaded(best),
        None if low is None else loaded(low),
        None if high is None else loaded(high),
        best / loaded(best),
        scenario.utilisation is None and best > paid,
    )


def _loaded(scenario: Scenario, paid: Fraction) -> Callable[[Fraction], Fraction]:
    """From a cost without idle to the one with it."""

    def loaded(direct: Fraction) -> Fraction:
        return max(direct, paid) if scenario.utilisation is None else direct / scenario.utilisation

    return loaded


def _span(value: Fraction, runs: Sequence[Run], basis: str) -> tuple[Fraction, Fraction] | None:
    """A 95 % interval around *value*, which is the first run's level, times the second's, over the third's."""
    wide = spread(runs, basis)
    return None if wide is None else (value * Fraction(math.exp(-wide)), value * Fraction(math.exp(wide)))


def spread(runs: Sequence[Run], basis: str) -> float | None:
    """Half the width of the interval of log(level 1 x level 2 / level 3), by leaving out a block at a time.

    A level is device time per token. None where fewer than `MIN_BLOCKS` blocks have requests in every run.
    """
    kept = [
        place
        for place in range(len(runs[0].blocks))
        if all(run.blocks[place].gpu_ns and run.blocks[place].tokens(basis) for run in runs)
    ]
    if len(kept) < MIN_BLOCKS:
        return None
    found = []
    for left_out in kept:
        value = 0.0
        for sign, run in zip((1, 1, -1), runs, strict=False):
            blocks = [block for place, block in enumerate(run.blocks) if place != left_out]
            level = sum(block.gpu_ns for block in blocks) / sum(block.tokens(basis) for block in blocks)
            value += sign * math.log(level)
        found.append(value)
    count = len(found)
    mean = sum(found) / count
    variance = (count - 1) / count * sum((value - mean) ** 2 for value in found)
    return T_95[count - 2] * math.sqrt(variance) if count - 2 < len(T_95) else 1.96 * math.sqrt(variance)


def measured_run(served: Sequence[Served]) -> Run:
    """The ledger's own run of *served*, of which there are some."""
    first = min(one.arrived_ns for one in served)
    length = max(one.ended_ns for one in served) - first + 1
    sums = [[0, 0, 0] for _ in range(BLOCKS)]
    for one in served:
        block = sums[(one.ended_ns - first) * BLOCKS // length]
        block[0] += one.gpu_ns
        block[1] += one.input_tokens
        block[2] += one.output_tokens
    steps = sum(one.steps for one in served)
    batch = Fraction(sum(one.steps * one.batch_milli for one in served), 1_000 * steps) if steps else None
    rates = [
        (one.output_tokens // one.sequences - 2) * 1e9 / (one.ended_ns - one.decode_ns_at)
        for one in served
        if one.sequences and one.output_tokens // one.sequences > 2 and 0 < one.decode_ns_at < one.ended_ns
    ]
    return Run(
        tuple(Block(*block) for block in sums),
        batch,
        median(rates),
        median([(one.ended_ns - one.arrived_ns) / 1e9 for one in served]) or 0.0,
    )


def median(values: Sequence[float]) -> float | None:
    """The middle one; None of nothing."""
    if not values:
        return None
    found = sorted(values)
    half = len(found) // 2
    return found[half] if len(found) % 2 else (found[half - 1] + found[half]) / 2
