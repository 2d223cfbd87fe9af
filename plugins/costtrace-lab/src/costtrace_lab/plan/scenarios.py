"""Runs of ``costtrace plan``: today's configuration served again, and each scenario."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import msgspec

from costtrace.core.errors import CosttraceError
from costtrace.core.rows import FitRow
from costtrace_lab.plan.figures import EngineGroup, Run, Scenario, ServedPart, measured_run
from costtrace_lab.plan.serve import Job, Machine, deal, jobs_of, serve_aggregated, serve_disaggregated
from costtrace_lab.plan.times import LabelledTimes, StepTimeOptions, scenario, today
from costtrace_lab.simulator.scheduler import SchedulerConfig

TRIES = 14
CLOSE = 0.01
"""The search for a load ends when the engines' busy part is this close to the one aimed at."""
DEFAULTS = SchedulerConfig()


class Change(NamedTuple):
    """What a scenario changes besides step times and price; None: as today."""

    max_sequences: int | None = None
    token_budget: int | None = None
    kv_tokens: int | None = None
    engines: int | None = None
    split: tuple[int, int] | None = None
    utilisation: Decimal | None = None


class Traffic(NamedTuple):
    """The requests that are served again, and the engines that served them."""

    group: EngineGroup
    parts: Sequence[ServedPart]
    limits: SchedulerConfig
    """The limits of today's engines."""
    limits_known: bool
    """Whether the engines' settings state all limits; otherwise some are the simulator's defaults."""

    @property
    def first_ns(self) -> int:
        """The arrival of the first request."""
        return self.parts[0].arrived_ns

    def streams(self, speed: float = 1.0) -> list[list[Job]]:
        """The jobs of each pool in the order of arrival, *speed* times as fast."""
        by_pool: dict[str, list[ServedPart]] = {}
        for part in self.parts:
            by_pool.setdefault(part.pool, []).append(part)
        return [jobs_of(parts, self.first_ns, speed) for parts in by_pool.values()]


def traffic_of(group: EngineGroup, parts: Sequence[ServedPart]) -> Traffic:
    """Traffic with the limits from the engines' settings.

    Raises: CosttraceError: a record is longer than the KV cache, so that it cannot be one request.
    """
    settings = dict(group.settings)
    limits_by_name = {
        name: int(settings[key])
        for name, key in (("max_sequences", "max_num_seqs"), ("token_budget", "max_num_batched_tokens"))
        if settings.get(key, "").isdecimal()
    }
    kv_blocks = [settings.get(name, "") for name in ("kv_blocks", "kv_block_size")]
    if all(text.isdecimal() for text in kv_blocks):
        limits_by_name["kv_tokens"] = int(kv_blocks[0]) * int(kv_blocks[1])
    limits = SchedulerConfig(**limits_by_name, prefix_cache=False)
    longest = max(part.input_tokens + part.output_tokens // max(1, part.sequences) for part in parts)
    if longest >= limits.kv_tokens:
        raise CosttraceError(
            f"a record of the ledger has {longest:,} tokens, and the KV cache holds {limits.kv_tokens:,}: it cannot be "
            "one request. (In the simulated month of a rack a record stands for an hour of requests.)"
        )
    return Traffic(group, parts, limits, len(limits_by_name) == 3)


class TodayRuns(NamedTuple):
    """Today's configuration, measured and modelled."""

    measured: Run
    modelled: Run
    times: LabelledTimes


def replay_today(traffic: Traffic, fit: FitRow | None, options: StepTimeOptions) -> TodayRuns:
    """Serve the traffic with today's configuration. Raises: CosttraceError, where its step times are unknown."""
    times = today(traffic.group, fit, options, traffic.limits)
    machine = Machine(times.times, traffic.limits, traffic.group.gpus_per_engine)
    return TodayRuns(measured_run(traffic.parts), serve_aggregated(traffic.streams(), machine), times)


def play(
    traffic: Traffic, today_runs: TodayRuns, options: StepTimeOptions, change: Change, price: tuple[str, Fraction]
) -> Scenario:
    """Serve the traffic under a change. *price*: a name for the line, and currency units per GPU-hour.

    Raises: CosttraceError: unknown step times, impossible limits, or an unreachable utilisation.
    """
    limits = limits_of(traffic.limits, change)
    times = scenario(traffic.group, today_runs.times, options, limits)
    machine = Machine(times.times, limits, traffic.group.gpus_per_engine)
    pools = traffic.group.pools
    engines = sum(change.split) if change.split else change.engines or pools

    def serve(speed: float) -> Run:
        if change.split:
            return serve_disaggregated([job for jobs in traffic.streams(speed) for job in jobs], machine, *change.split)
        if change.engines:
            return serve_aggregated(
                deal([job for jobs in traffic.streams(speed) for job in jobs], change.engines), machine
            )
        return serve_aggregated(traffic.streams(speed), machine)

    name = ", ".join(part for part in (price[0], *name_of(options, change)) if part)
    carried = times.kind == today_runs.times.kind
    if change.utilisation is None:
        share = Fraction(engines, pools)
        return Scenario(name, serve(1.0), price[1], Fraction(engines), share, None, carried, times.times.source)
    speed, run = find_load(serve, float(change.utilisation), change.split)
    needed = Fraction(engines) / Fraction(speed).limit_denominator(10_000)
    aimed_at = Fraction(change.utilisation)
    return Scenario(name, run, price[1], needed, Fraction(1), aimed_at, carried, times.times.source)


def limits_of(today_limits: SchedulerConfig, change: Change) -> SchedulerConfig:
    """The scheduler's limits under a change. Raises: CosttraceError, where they are impossible."""
    changed = {
        name: value
        for name in ("max_sequences", "token_budget", "kv_tokens")
        if (value := getattr(change, name)) is not None
    }
    limits = msgspec.structs.replace(today_limits, **changed)
    limits.check()
    return limits


def name_of(options: StepTimeOptions, change: Change) -> list[str]:
    """The parts of a scenario's name."""
    parts = [options.device or ""]
    if options.tera_flops is not None:
        parts.append(f"{options.tera_flops} TFLOP/s")
    if options.terabytes_per_s is not None:
        parts.append(f"{options.terabytes_per_s} TB/s")
    for value, text in (
        (change.max_sequences, "{:,} sequences"),
        (change.token_budget, "{:,} tokens a step"),
        (change.kv_tokens, "{:,} KV tokens"),
        (change.engines, "{} engines"),
    ):
        if value is not None:
            parts.append(text.format(value))
    if change.split:
        parts.append("{} prefill + {} decode engines".format(*change.split))
    if change.utilisation is not None:
        parts.append(f"{100 * change.utilisation:.4g} % used")
    return [word for word in parts if word]


def used_part(run: Run, split: tuple[int, int] | None) -> float:
    """Mean part of the time in which the engines were busy; *split*: prefill and decode engines."""
    weights = split or (1,)
    return sum(part * weight for (_, part), weight in zip(run.busy, weights, strict=True)) / sum(weights)


def find_load(serve: Callable[[float], Run], aimed_at: float, split: tuple[int, int] | None) -> tuple[float, Run]:
    """The speed of the traffic at which the engines are busy for the part *aimed_at* of the time, and its run.

    By doubling, then bisection. Raises: CosttraceError, where no speed reaches it.
    """
    low, high = 0.0, 1.0
    run = serve(high)
    tries = 1
    while used_part(run, split) < aimed_at and tries < TRIES:
        low, high = high, high * 2
        run = serve(high)
        tries += 1
    if used_part(run, split) < aimed_at - CLOSE:
        raise CosttraceError(
            f"this traffic keeps the engines busy for {used_part(run, split):.0%} of the time at most, not for "
            f"{aimed_at:.0%}: take more --requests, or a lower --utilisation"
        )
    speed = high
    while abs(used_part(run, split) - aimed_at) > CLOSE and tries < 2 * TRIES:
        speed = (low + high) / 2
        run = serve(speed)
        low, high = (speed, high) if used_part(run, split) < aimed_at else (low, speed)
        tries += 1
    return speed, run
