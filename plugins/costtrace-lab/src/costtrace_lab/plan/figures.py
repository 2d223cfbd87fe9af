"""The arithmetic of ``costtrace plan``: what another price, device, batch limit or fleet makes of the ledger's traffic.

There are two kinds of runs: the *measured* one, of the ledger, and *modelled* ones, of the serving simulator on the
same requests. Modelled over measured, of today's configuration, is the model's error. A scenario is shown as modelled,
and corrected by that error. Its range holds both, each with a 95 % jackknife interval over blocks of traffic, because
it is unknown how much of today's error another configuration shares.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from costtrace_board.improvement import T_95

from costtrace.core.units import NS_PER_HOUR

BLOCKS = 12
"""How many stretches of equal time the traffic is cut into."""
MIN_BLOCKS = 4
"""With fewer blocks that have requests there is no interval."""


class ServedPart(NamedTuple):
    """One engine's share of a request, as the ledger has it."""

    pool: str
    """The devices that the engine ran on: an engine that was restarted is the same pool."""
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
    counted_tokens: int
    """Of `input_tokens`, what is counted with it: the rest is another engine's share of the same prompt."""


class EngineGroup(NamedTuple):
    """The engines of one model on one kind of device, over a period."""

    model: str
    device: str
    gpus_per_engine: int
    pools: int
    settings: tuple[tuple[str, str], ...]
    """The settings of the newest engine, sorted by name."""
    newest_engine: str
    request_ns: int
    """Device time of requests."""
    all_ns: int
    """All paid device time: requests, idle, overhead, unobserved."""
    simulated: bool
    others: tuple[str, ...] = ()
    """Other models, devices and roles of the period, which are not in the group."""

    @property
    def utilisation(self) -> Fraction:
        """Part of all paid device time in which requests were served."""
        return Fraction(self.request_ns, self.all_ns) if self.all_ns else Fraction(0)


class Block(NamedTuple):
    """Sums over one stretch of the traffic."""

    gpu_ns: int
    input_tokens: int
    output_tokens: int

    def tokens(self, basis: str) -> int:
        """Tokens counted by *basis*: input, output or total."""
        inputs, outputs = self.input_tokens, self.output_tokens
        return {"input": inputs, "output": outputs, "total": inputs + outputs}[basis]


class Run(NamedTuple):
    """The traffic served once, measured or modelled."""

    blocks: tuple[Block, ...]
    mean_batch: Fraction | None
    interactivity: float | None
    """Median of the output tokens/s that one user sees."""
    latency_s: float
    """Median time from arrival to end of a request."""
    busy: tuple[tuple[str, float], ...] = ()
    """By role of the engines: part of the time in which they were busy. Only of modelled runs."""

    @property
    def gpu_ns(self) -> int:
        """Device time of the requests."""
        return sum(block.gpu_ns for block in self.blocks)

    def tokens(self, basis: str) -> int:
        """Tokens counted by *basis*: input, output or total."""
        return sum(block.tokens(basis) for block in self.blocks)


class Scenario(NamedTuple):
    """A modelled run, and the price of its time."""

    name: str
    run: Run
    per_gpu_hour: Fraction
    engines: Fraction
    """Engines that serve the traffic; a fraction where a utilisation is aimed at."""
    engines_share: Fraction
    """Paid device time over today's, where no utilisation is aimed at."""
    utilisation: Fraction | None
    """The utilisation that is aimed at; None: the engines are paid for as long as today."""
    carried: bool
    """Whether its step times are of the same kind as today's, so that the measured error applies."""
    step_times: str = ""
    """The source of its step times."""


class Figures(NamedTuple):
    """A scenario's cost per million tokens, in currency units; None where it cannot be known."""

    modelled: Fraction
    corrected: Fraction | None
    low: Fraction | None
    high: Fraction | None
    with_idle: Fraction
    with_idle_low: Fraction | None
    with_idle_high: Fraction | None
    utilisation: Fraction
    overloaded: bool
    """Whether the requests need more than all paid time."""

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


def figures(scenario: Scenario, measured: Run, today: Run, group: EngineGroup, basis: str) -> Figures:
    """The scenario's costs per million tokens of *basis*; *measured* must have such tokens."""
    tokens = measured.tokens(basis)
    run = scenario.run
    modelled = per_million(scenario.per_gpu_hour, run.gpu_ns, tokens)
    corrected = low = high = None
    if scenario.carried:
        # The same model on the same requests: divide out its error of today. Another model's error is unknown.
        corrected = modelled / error_of(measured, today)
        intervals = _interval(modelled, (run,), basis), _interval(corrected, (run, measured, today), basis)
        if intervals[0] is not None and intervals[1] is not None:
            low, high = min(intervals[0][0], intervals[1][0]), max(intervals[0][1], intervals[1][1])
    best = modelled if corrected is None else corrected
    paid_ns = measured.gpu_ns / group.utilisation * scenario.engines_share
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
    """The function from a cost without idle to the cost with idle."""

    def loaded(direct: Fraction) -> Fraction:
        return max(direct, paid) if scenario.utilisation is None else direct / scenario.utilisation

    return loaded


def _interval(value: Fraction, runs: Sequence[Run], basis: str) -> tuple[Fraction, Fraction] | None:
    """A 95 % interval around *value*, which is level 1 x level 2 / level 3 of *runs*; None where `spread` is."""
    half_width = spread(runs, basis)
    if half_width is None:
        return None
    return value * Fraction(math.exp(-half_width)), value * Fraction(math.exp(half_width))


def spread(runs: Sequence[Run], basis: str) -> float | None:
    """Half the width of the 95 % interval of log(level 1 x level 2 / level 3), by a jackknife over blocks.

    A level is device time per token. None where fewer than `MIN_BLOCKS` blocks have requests in every run.
    """
    usable = [
        index
        for index in range(len(runs[0].blocks))
        if all(run.blocks[index].gpu_ns and run.blocks[index].tokens(basis) for run in runs)
    ]
    if len(usable) < MIN_BLOCKS:
        return None
    log_levels = []
    for left_out in usable:
        value = 0.0
        for sign, run in zip((1, 1, -1), runs, strict=False):
            blocks = [block for index, block in enumerate(run.blocks) if index != left_out]
            level = sum(block.gpu_ns for block in blocks) / sum(block.tokens(basis) for block in blocks)
            value += sign * math.log(level)
        log_levels.append(value)
    count = len(log_levels)
    mean = sum(log_levels) / count
    variance = (count - 1) / count * sum((value - mean) ** 2 for value in log_levels)
    return T_95[count - 2] * math.sqrt(variance) if count - 2 < len(T_95) else 1.96 * math.sqrt(variance)


def measured_run(parts: Sequence[ServedPart]) -> Run:
    """The run that the ledger measured; *parts* is not empty."""
    first_ns = min(part.arrived_ns for part in parts)
    length_ns = max(part.ended_ns for part in parts) - first_ns + 1
    sums = [[0, 0, 0] for _ in range(BLOCKS)]
    for part in parts:
        block = sums[(part.ended_ns - first_ns) * BLOCKS // length_ns]
        block[0] += part.gpu_ns
        block[1] += part.counted_tokens
        block[2] += part.output_tokens
    steps = sum(part.steps for part in parts)
    batch = Fraction(sum(part.steps * part.batch_milli for part in parts), 1_000 * steps) if steps else None
    rates = [
        (part.output_tokens // part.sequences - 2) * 1e9 / (part.ended_ns - part.decode_ns_at)
        for part in parts
        if part.sequences and part.output_tokens // part.sequences > 2 and 0 < part.decode_ns_at < part.ended_ns
    ]
    return Run(
        tuple(Block(*block) for block in sums),
        batch,
        median(rates),
        median([(part.ended_ns - part.arrived_ns) / 1e9 for part in parts]) or 0.0,
    )


def median(values: Sequence[float]) -> float | None:
    """The median; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
