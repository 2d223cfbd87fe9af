"""The ledger's requests, served again by simulated engines. What comes out is a `Run`, as the ledger's own is one."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder
from costtrace.core.events import SequenceFinished, Step
from costtrace.core.units import NS_PER_S
from costtrace_lab.plan.figures import BLOCKS, Block, Run, Served, median
from costtrace_lab.simulator.scheduler import SchedulerConfig, Simulator
from costtrace_lab.simulator.step_times import StepTimes
from costtrace_lab.simulator.workload import Arrival

START_NS = NS_PER_S
PREFILL, DECODE, SERVING = "prefill", "decode", "serving"


class Job(NamedTuple):
    """A sequence to serve, and the tokens that count when it is done."""

    arrival: Arrival
    input_tokens: int
    output_tokens: int
    arrived_s: float
    """When its request came, also where an engine gets it later."""


class Machine(NamedTuple):
    """Engines of one kind."""

    times: StepTimes
    limits: SchedulerConfig
    gpus_per_engine: int


class Done(NamedTuple):
    """A sequence that was served: seconds after the traffic's begin."""

    job: Job
    decode_s: float | None
    """When its first decode step was done."""
    end_s: float


class Life(NamedTuple):
    """What one engine did."""

    steps: list[tuple[float, float]]
    """(end, length) of each step, in seconds."""
    weights: tuple[int, int]
    """Sum over steps of sequences x sequences, and of sequences: what the mean batch of requests is made of."""
    done: list[Done]

    @property
    def busy_s(self) -> float:
        """Seconds in steps."""
        return sum(took_s for _, took_s in self.steps)


def jobs_of(served: Iterable[Served], first_ns: int, speed: float = 1.0) -> list[Job]:
    """Sequences of the ledger's requests, *speed* times as fast. Siblings of a request find its prompt in the cache."""
    found = []
    for one in served:
        at_s = (one.arrived_ns - first_ns) / NS_PER_S / speed
        prompt = max(1, one.input_tokens)
        count = max(1, one.sequences)
        for place, output in enumerate(largest_remainder(one.output_tokens, [1] * count)):
            cached = one.cached_tokens if place == 0 else prompt
            arrival = Arrival(at_s, prompt, max(1, output), cached_tokens=cached)
            found.append(Job(arrival, one.input_tokens if place == 0 else 0, output, at_s))
    return found


def deal(jobs: Sequence[Job], engines: int) -> list[list[Job]]:
    """In turn to each of so many engines, in the order of arrival."""
    ordered = sorted(jobs, key=lambda job: job.arrival.at_s)
    return [ordered[place::engines] for place in range(engines)]


def live(jobs: Sequence[Job], machine: Machine) -> Life:
    """One engine's life on *jobs*."""
    ordered = sorted(jobs, key=lambda job: job.arrival.at_s)
    simulator = Simulator([job.arrival for job in ordered], machine.times, machine.limits)
    steps: list[tuple[float, float]] = []
    done: list[Done] = []
    decodes: dict[int, float] = {}
    cohort = squares = count = 0
    for event in simulator.events(START_NS, 0):
        match event:
            case Step():
                end_s = (event.done_ns - START_NS) / NS_PER_S
                steps.append((end_s, (event.done_ns - event.scheduled_ns) / NS_PER_S))
                cohort += len(event.enters) - len(event.leaves)
                batch = cohort + len(event.items)
                squares, count = squares + batch * batch, count + batch
                for slot, _ in event.enters:
                    decodes.setdefault(slot, end_s)
            case SequenceFinished():
                end_s = (event.at_ns - START_NS) / NS_PER_S
                # Slots are given in the order of arrival, from 1.
                done.append(Done(ordered[event.slot - 1], decodes.pop(event.slot, None), end_s))
            case _:
                pass
    return Life(steps, (squares, count), done)


def together(streams: Sequence[Sequence[Job]], machine: Machine) -> Run:
    """Each stream on an engine of its own; one that gets nothing to do is paid all the same."""
    lives = [live(jobs, machine) for jobs in streams if jobs]
    done = [one for life in lives for one in life.done]
    return _run({SERVING: (lives, len(streams))}, machine.gpus_per_engine, done, done)


def apart(jobs: Sequence[Job], machine: Machine, prefill: int, decode: int) -> Run:
    """Disaggregated: *prefill* engines make the first token, *decode* engines the rest. Transfer takes no time."""
    first = [job._replace(arrival=job.arrival._replace(output_tokens=1), output_tokens=0) for job in jobs]
    whole = {id(part): job for part, job in zip(first, jobs, strict=True)}
    before = [live(part, machine) for part in deal(first, prefill) if part]
    given = [one for life in before for one in life.done]
    later: list[Job] = []
    answered: list[Done] = []
    for one in given:
        job = whole[id(one.job)]
        if job.arrival.output_tokens == 1:
            answered.append(one._replace(job=job._replace(input_tokens=0)))
            continue
        # The KV entries of its prompt have come over; the first token is computed on top of them.
        prompt = job.arrival.prompt_tokens
        arrival = Arrival(one.end_s, prompt + 1, job.arrival.output_tokens - 1, cached_tokens=prompt)
        later.append(Job(arrival, 0, job.output_tokens, job.arrived_s))
    after = [live(part, machine) for part in deal(later, decode) if part]
    answered += [one for life in after for one in life.done]
    groups = {PREFILL: (before, prefill), DECODE: (after, decode)}
    return _run(groups, machine.gpus_per_engine, given + answered, answered)


def _run(groups: dict[str, tuple[list[Life], int]], gpus: int, counted: list[Done], answered: list[Done]) -> Run:
    """Sum lives up, by block of time, as the ledger's own run is. *counted* have tokens, *answered* are requests."""
    lives = [life for found, _ in groups.values() for life in found]
    length_s = max(life.steps[-1][0] for life in lives) * (1 + 1e-9)
    sums = [[0, 0, 0] for _ in range(BLOCKS)]
    for life in lives:
        for end_s, took_s in life.steps:
            sums[int(end_s * BLOCKS / length_s)][0] += gpus * round(took_s * NS_PER_S)
    for one in counted:
        block = sums[int(one.end_s * BLOCKS / length_s)]
        block[1] += one.job.input_tokens
        block[2] += one.job.output_tokens
    squares, count = (sum(life.weights[place] for life in lives) for place in (0, 1))
    rates = [
        (one.job.arrival.output_tokens - 2) / (one.end_s - one.decode_s)
        for one in answered
        if one.decode_s is not None and one.job.arrival.output_tokens > 2 and one.end_s > one.decode_s
    ]
    return Run(
        tuple(Block(*block) for block in sums),
        Fraction(squares, count) if count else None,
        median(rates),
        median([one.end_s - one.job.arrived_s for one in answered]) or 0.0,
        tuple(
            (name, sum(life.busy_s for life in found) / (engines * length_s))
            for name, (found, engines) in groups.items()
        ),
    )
