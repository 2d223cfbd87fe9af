"""From what was asked for to runs: today's configuration served again, and each scenario."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import msgspec

from costtrace.core.errors import CosttraceError
from costtrace.core.rows import FitRow
from costtrace_lab.plan.figures import EngineGroup, Run, Scenario, Served, measured_run
from costtrace_lab.plan.serve import Job, Machine, apart, deal, jobs_of, together
from costtrace_lab.plan.times import Times, Wanted, scenario, today
from costtrace_lab.simulator.scheduler import SchedulerConfig

TRIES = 14
CLOSE = 0.01
"""A load is found when the engines' busy part is this close to the one aimed at."""
DEFAULTS = SchedulerConfig()


class Change(NamedTuple):
    """What is to be different, but for the step times and the price; None leaves it."""

    max_sequences: int | None = None
    token_budget: int | None = None
    kv_tokens: int | None = None
    engines: int | None = None
    split: tuple[int, int] | None = None
    utilisation: Decimal | None = None


class Traffic(NamedTuple):
    """What is served again."""

    fleet: EngineGroup
    served: Sequence[Served]
    limits: SchedulerConfig
    """Of today's engines."""
    limits_known: bool

    @property
    def first_ns(self) -> int:
        """When it begins."""
        return self.served[0].arrived_ns

    def streams(self, speed: float = 1.0) -> list[list[Job]]:
        """The requests of each pool, as they came to it."""
        by_pool: dict[str, list[Served]] = {}
        for one in self.served:
            by_pool.setdefault(one.pool, []).append(one)
        return [jobs_of(found, self.first_ns, speed) for found in by_pool.values()]


def traffic(fleet: EngineGroup, served: Sequence[Served]) -> Traffic:
    """Traffic with the limits that the engines were started with. Raises: CosttraceError."""
    settings = dict(fleet.settings)
    found = {
        name: int(settings[key])
        for name, key in (("max_sequences", "max_num_seqs"), ("token_budget", "max_num_batched_tokens"))
        if settings.get(key, "").isdecimal()
    }
    blocks = [settings.get(name, "") for name in ("kv_blocks", "kv_block_size")]
    if all(text.isdecimal() for text in blocks):
        found["kv_tokens"] = int(blocks[0]) * int(blocks[1])
    limits = SchedulerConfig(**found, prefix_cache=False)
    longest = max(one.input_tokens + one.output_tokens // max(1, one.sequences) for one in served)
    if longest >= limits.kv_tokens:
        raise CosttraceError(
            f"a record of the ledger has {longest:,} tokens, and the KV cache holds {limits.kv_tokens:,}: it cannot be "
            "one request. (In the simulated month of a rack a record stands for an hour of requests.)"
        )
    return Traffic(fleet, served, limits, len(found) == 3)


class Replayed(NamedTuple):
    """Today, measured and modelled."""

    measured: Run
    modelled: Run
    times: Times


def replay_today(what: Traffic, fit: FitRow | None, wanted: Wanted) -> Replayed:
    """Serve the traffic as it was served. Raises: CosttraceError."""
    times = today(what.fleet, fit, wanted, what.limits)
    machine = Machine(times.times, what.limits, what.fleet.gpus_per_engine)
    return Replayed(measured_run(what.served), together(what.streams(), machine), times)


def play(what: Traffic, now: Replayed, wanted: Wanted, change: Change, price: tuple[str, Fraction]) -> Scenario:
    """Serve the traffic under a change. *price* is a name for the line, and currency units per GPU-hour.

    Raises: CosttraceError.
    """
    limits = limits_of(what.limits, change)
    times = scenario(what.fleet, now.times, wanted, limits)
    machine = Machine(times.times, limits, what.fleet.gpus_per_engine)
    pools = what.fleet.pools
    engines = sum(change.split) if change.split else change.engines or pools

    def serve(speed: float) -> Run:
        if change.split:
            return apart([job for jobs in what.streams(speed) for job in jobs], machine, *change.split)
        if change.engines:
            return together(deal([job for jobs in what.streams(speed) for job in jobs], change.engines), machine)
        return together(what.streams(speed), machine)

    name = ", ".join(part for part in (price[0], *words_of(wanted, change)) if part)
    carried = times.kind == now.times.kind
    if change.utilisation is None:
        share = Fraction(engines, pools)
        return Scenario(name, serve(1.0), price[1], Fraction(engines), share, None, carried, times.times.source)
    speed, run = loaded(serve, float(change.utilisation), change.split)
    needed = Fraction(engines) / Fraction(speed).limit_denominator(10_000)
    aim = Fraction(change.utilisation)
    return Scenario(name, run, price[1], needed, Fraction(1), aim, carried, times.times.source)


def limits_of(today_limits: SchedulerConfig, change: Change) -> SchedulerConfig:
    """The scheduler's limits under a change. Raises: CosttraceError."""
    wanted = {
        name: value
        for name in ("max_sequences", "token_budget", "kv_tokens")
        if (value := getattr(change, name)) is not None
    }
    limits = msgspec.structs.replace(today_limits, **wanted)
    limits.check()
    return limits


def words_of(wanted: Wanted, change: Change) -> list[str]:
    """What a line is called by."""
    words = [wanted.device or ""]
    if wanted.tera_flops is not None:
        words.append(f"{wanted.tera_flops} TFLOP/s")
    if wanted.terabytes_per_s is not None:
        words.append(f"{wanted.terabytes_per_s} TB/s")
    for value, text in (
        (change.max_sequences, "{:,} sequences"),
        (change.token_budget, "{:,} tokens a step"),
        (change.kv_tokens, "{:,} KV tokens"),
        (change.engines, "{} engines"),
    ):
        if value is not None:
            words.append(text.format(value))
    if change.split:
        words.append("{} prefill + {} decode engines".format(*change.split))
    if change.utilisation is not None:
        words.append(f"{100 * change.utilisation:.4g} % used")
    return [word for word in words if word]


def used_part(run: Run, split: tuple[int, int] | None) -> float:
    """Part of the stretch in which the engines were busy, on average."""
    weights = split or (1,)
    return sum(part * weight for (_, part), weight in zip(run.busy, weights, strict=True)) / sum(weights)


def loaded(serve: Callable[[float], Run], wanted: float, split: tuple[int, int] | None) -> tuple[float, Run]:
    """So much faster a traffic that the engines are busy for the wanted part. Raises: CosttraceError, where none is."""
    low, high = 0.0, 1.0
    run = serve(high)
    tries = 1
    while used_part(run, split) < wanted and tries < TRIES:
        low, high = high, high * 2
        run = serve(high)
        tries += 1
    if used_part(run, split) < wanted - CLOSE:
        raise CosttraceError(
            f"this traffic keeps the engines busy for {used_part(run, split):.0%} of the time at most, not for "
            f"{wanted:.0%}: take more --requests, or a lower --utilisation"
        )
    speed = high
    while abs(used_part(run, split) - wanted) > CLOSE and tries < 2 * TRIES:
        speed = (low + high) / 2
        run = serve(speed)
        low, high = (speed, high) if used_part(run, split) < wanted else (low, speed)
        tries += 1
    return speed, run
