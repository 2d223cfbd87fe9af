"""Serving the ledger's requests again on simulated engines; the result is a `Run` like the ledger's own."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder
from costtrace.core.events import SequenceFinished, Step
from costtrace.core.units import NS_PER_S
from costtrace_lab.plan.figures import BLOCKS, Block, Run, ServedPart, median
from costtrace_lab.simulator.scheduler import SchedulerConfig, Simulator
from costtrace_lab.simulator.step_times import StepTimes
from costtrace_lab.simulator.workload import Arrival

START_NS = NS_PER_S
PREFILL, DECODE, SERVING = "prefill", "decode", "serving"


class Job(NamedTuple):
    """A sequence to serve, and the tokens that are counted when it has ended."""

    arrival: Arrival
    input_tokens: int
    output_tokens: int
    arrived_s: float
    """When its request arrived, also where an engine gets it later (decode after prefill)."""


class Machine(NamedTuple):
    """The kind of engine: its step times, limits and GPUs."""

    times: StepTimes
    limits: SchedulerConfig
    gpus_per_engine: int


class ServedSequence(NamedTuple):
    """A sequence that was served. Times are seconds after the start of the traffic."""

    job: Job
    decode_s: float | None
    """The end of its first decode step."""
    end_s: float


class EngineRun(NamedTuple):
    """The steps and sequences of one engine."""

    steps: list[tuple[float, float]]
    """(end, length) of each step, in seconds."""
    weights: tuple[int, int]
    """Sum over steps of sequences squared, and of sequences: their ratio is the mean batch of requests."""
    served: list[ServedSequence]

    @property
    def busy_s(self) -> float:
        """Seconds in steps."""
        return sum(took_s for _, took_s in self.steps)


def jobs_of(parts: Iterable[ServedPart], first_ns: int, speed: float = 1.0) -> list[Job]:
    """The sequences of the ledger's requests, *speed* times as fast.

    The first sequence of a request has its measured cache hits; its siblings find the whole prompt in the cache.
    """
    jobs = []
    for part in parts:
        at_s = (part.arrived_ns - first_ns) / NS_PER_S / speed
        prompt = max(1, part.input_tokens)
        count = max(1, part.sequences)
        for index, output in enumerate(largest_remainder(part.output_tokens, [1] * count)):
            cached = part.cached_tokens if index == 0 else prompt
            arrival = Arrival(at_s, prompt, max(1, output), cached_tokens=cached)
            jobs.append(Job(arrival, part.counted_tokens if index == 0 else 0, output, at_s))
    return jobs


def deal(jobs: Sequence[Job], engines: int) -> list[list[Job]]:
    """The jobs of each engine, dealt in turn in the order of arrival."""
    ordered = sorted(jobs, key=lambda job: job.arrival.at_s)
    return [ordered[engine::engines] for engine in range(engines)]


def run_engine(jobs: Sequence[Job], machine: Machine) -> EngineRun:
    """Run *jobs* on one simulated engine."""
    ordered = sorted(jobs, key=lambda job: job.arrival.at_s)
    simulator = Simulator([job.arrival for job in ordered], machine.times, machine.limits)
    steps: list[tuple[float, float]] = []
    served: list[ServedSequence] = []
    decodes: dict[int, float] = {}
    decoding = squares = sequences = 0
    for event in simulator.events(START_NS, 0):
        match event:
            case Step():
                end_s = (event.done_ns - START_NS) / NS_PER_S
                steps.append((end_s, (event.done_ns - event.scheduled_ns) / NS_PER_S))
                decoding += len(event.enters) - len(event.leaves)
                batch = decoding + len(event.items)
                squares, sequences = squares + batch * batch, sequences + batch
                for slot, _ in event.enters:
                    decodes.setdefault(slot, end_s)
            case SequenceFinished():
                end_s = (event.at_ns - START_NS) / NS_PER_S
                # The simulator numbers slots in the order of arrival, from 1.
                served.append(ServedSequence(ordered[event.slot - 1], decodes.pop(event.slot, None), end_s))
            case _:
                pass
    return EngineRun(steps, (squares, sequences), served)


def serve_aggregated(streams: Sequence[Sequence[Job]], machine: Machine) -> Run:
    """Serve each stream on its own engine; an engine without jobs is paid too."""
    engine_runs = [run_engine(jobs, machine) for jobs in streams if jobs]
    served = [sequence for engine_run in engine_runs for sequence in engine_run.served]
    return _run({SERVING: (engine_runs, len(streams))}, machine.gpus_per_engine, served, served)


def serve_disaggregated(jobs: Sequence[Job], machine: Machine, prefill: int, decode: int) -> Run:
    """Serve on *prefill* engines, which make the first token, and *decode* engines. KV transfer takes no time."""
    prompts = [job._replace(arrival=job.arrival._replace(output_tokens=1), output_tokens=0) for job in jobs]
    job_of_prompt = {id(part): job for part, job in zip(prompts, jobs, strict=True)}
    prefill_runs = [run_engine(part, machine) for part in deal(prompts, prefill) if part]
    prefilled = [sequence for engine_run in prefill_runs for sequence in engine_run.served]
    decodes: list[Job] = []
    answered: list[ServedSequence] = []
    for sequence in prefilled:
        job = job_of_prompt[id(sequence.job)]
        if job.arrival.output_tokens == 1:
            answered.append(sequence._replace(job=job._replace(input_tokens=0)))
            continue
        # The prompt's KV entries have been transferred; the first token is computed on top of them.
        prompt = job.arrival.prompt_tokens
        arrival = Arrival(sequence.end_s, prompt + 1, job.arrival.output_tokens - 1, cached_tokens=prompt)
        decodes.append(Job(arrival, 0, job.output_tokens, job.arrived_s))
    decode_runs = [run_engine(part, machine) for part in deal(decodes, decode) if part]
    answered += [sequence for engine_run in decode_runs for sequence in engine_run.served]
    groups = {PREFILL: (prefill_runs, prefill), DECODE: (decode_runs, decode)}
    return _run(groups, machine.gpus_per_engine, prefilled + answered, answered)


def _run(
    groups: dict[str, tuple[list[EngineRun], int]],
    gpus: int,
    counted: list[ServedSequence],
    answered: list[ServedSequence],
) -> Run:
    """Sum engine runs by block of time. *counted*: sequences whose tokens count; *answered*: sequences that ended."""
    engine_runs = [engine_run for of_role, _ in groups.values() for engine_run in of_role]
    length_s = max(engine_run.steps[-1][0] for engine_run in engine_runs) * (1 + 1e-9)
    sums = [[0, 0, 0] for _ in range(BLOCKS)]
    for engine_run in engine_runs:
        for end_s, took_s in engine_run.steps:
            sums[int(end_s * BLOCKS / length_s)][0] += gpus * round(took_s * NS_PER_S)
    for sequence in counted:
        block = sums[int(sequence.end_s * BLOCKS / length_s)]
        block[1] += sequence.job.input_tokens
        block[2] += sequence.job.output_tokens
    squares, count = (sum(engine_run.weights[index] for engine_run in engine_runs) for index in (0, 1))
    rates = [
        (sequence.job.arrival.output_tokens - 2) / (sequence.end_s - sequence.decode_s)
        for sequence in answered
        if sequence.decode_s is not None
        and sequence.job.arrival.output_tokens > 2
        and sequence.end_s > sequence.decode_s
    ]
    return Run(
        tuple(Block(*block) for block in sums),
        Fraction(squares, count) if count else None,
        median(rates),
        median([sequence.end_s - sequence.job.arrived_s for sequence in answered]) or 0.0,
        tuple(
            (name, sum(engine_run.busy_s for engine_run in of_role) / (engines * length_s))
            for name, (of_role, engines) in groups.items()
        ),
    )
