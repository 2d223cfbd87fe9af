"""Dynamo's forward-pass metrics: what a worker was busy for, and what of it each request had, *estimated*. Pure.

A pass says how long it took and how many requests, and tokens, were in it, but not which requests. Where a worker has
none of costtrace's hooks, each pass is split over those requests that the frontend's own records place on that worker
at that time: prompts by the tokens that they had to compute, answers by one token each. The split is an estimate; that
its parts add up to the passes, as integers, is not.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder

METHOD = "estimated:forward_pass"
"""Stands on everything that is split here: nothing of it was measured for the request that it names."""
SLACK_NS = 50_000_000
"""How far the clocks of frontend and worker, and the reporting of a pass, may be apart before a pass is nobody's."""


class Pass(NamedTuple):
    """One forward pass of a worker, as the worker published it."""

    worker: str
    rank: int
    """Data parallel rank: each has passes, and a count of them, of its own."""
    counter: int
    ended_ns: int
    """Wall time when it was observed, to the millisecond."""
    wall_ns: int
    """What it took; 0 for the heartbeat of an idle worker."""
    prefills: int
    prefill_tokens: int
    decodes: int


class Served(NamedTuple):
    """A request as the frontend recorded it when it ended. Wall times."""

    request_id: str
    received_ns: int
    first_token_ns: int | None
    """None: not recorded. The request can then have been in either phase all the time."""
    ended_ns: int
    input_tokens: int
    cached_tokens: int | None
    """None: not recorded. All of the prompt then counts as computed."""
    output_tokens: int
    prefill_worker: str
    """'': not recorded. It can then have been any."""
    decode_worker: str


class Estimate(NamedTuple):
    """What a request had of the passes, by estimate."""

    served: Served
    prefill_ns: int
    decode_ns: int

    @property
    def gpu_ns(self) -> int:
        """Both phases."""
        return self.prefill_ns + self.decode_ns


class Worker(NamedTuple):
    """A worker's passes, and how far they are known."""

    worker: str
    passes: int
    lost: int
    """Passes whose number is missing: published and never received. Their time is not known."""
    busy_ns: int
    unassigned_ns: int
    """Of passes in whose time the frontend has no request on this worker."""
    since_ns: int
    """When the first of them began."""
    until_ns: int


class Allocation(NamedTuple):
    """All passes, handed out: requests and what is unassigned add up to what the workers were busy for."""

    estimates: list[Estimate]
    workers: list[Worker]

    @property
    def unassigned_ns(self) -> int:
        """Time of passes that no request is known for."""
        return sum(worker.unassigned_ns for worker in self.workers)


def busy(passes: Iterable[Pass]) -> dict[str, Worker]:
    """What each worker was busy for, by its id. A pass that comes twice counts once."""
    by_worker: dict[str, dict[tuple[int, int], Pass]] = {}
    for one in passes:
        by_worker.setdefault(one.worker, {})[one.rank, one.counter] = one
    return {name: _worker(name, list(mine.values())) for name, mine in sorted(by_worker.items())}


def _worker(name: str, passes: Sequence[Pass]) -> Worker:
    numbers = sorted((one.rank, one.counter) for one in passes)
    lost = sum(after[1] - before[1] - 1 for before, after in pairwise(numbers) if before[0] == after[0])
    return Worker(
        name,
        passes=sum(1 for one in passes if one.wall_ns),
        lost=lost,
        busy_ns=sum(one.wall_ns for one in passes),
        unassigned_ns=0,
        since_ns=min(one.ended_ns - one.wall_ns for one in passes),
        until_ns=max(one.ended_ns for one in passes),
    )


def allocate(passes: Iterable[Pass], served: Iterable[Served], slack_ns: int = SLACK_NS) -> Allocation:
    """Hand out each pass to the requests that were on its worker. The answer adds up to the passes with ``==``."""
    once = {(one.worker, one.rank, one.counter): one for one in passes}
    requests = list({request.request_id: request for request in served}.values())
    prefilling = _by_worker(requests, "prefill_worker")
    decoding = _by_worker(requests, "decode_worker")
    given: dict[str, list[int]] = {request.request_id: [0, 0] for request in requests}
    unassigned: dict[str, int] = {}
    for one in once.values():
        prompts = _there(_on(one.worker, prefilling), one, slack_ns, prefill=True) if one.prefills else []
        answers = _there(_on(one.worker, decoding), one, slack_ns, prefill=False) if one.decodes else []
        weights = _weights(one, prompts, answers)
        if not sum(weights):
            unassigned[one.worker] = unassigned.get(one.worker, 0) + one.wall_ns
            continue
        phases = [0] * len(prompts) + [1] * len(answers)
        owners = [request.request_id for request in (*prompts, *answers)]
        for owner, phase, ns in zip(owners, phases, largest_remainder(one.wall_ns, weights), strict=True):
            given[owner][phase] += ns
    workers = [worker._replace(unassigned_ns=unassigned.get(name, 0)) for name, worker in busy(once.values()).items()]
    return Allocation([Estimate(request, *given[request.request_id]) for request in requests], workers)


def _by_worker(requests: Iterable[Served], field: str) -> dict[str, list[Served]]:
    found: dict[str, list[Served]] = {}
    for request in requests:
        found.setdefault(getattr(request, field), []).append(request)
    return found


def _on(worker: str, requests: dict[str, list[Served]]) -> list[Served]:
    """Who was, or can have been, on a worker."""
    return [*requests.get(worker, ()), *requests.get("", ())]


def _there(requests: Sequence[Served], one: Pass, slack_ns: int, *, prefill: bool) -> list[Served]:
    """Who can have been in a pass: those whose phase overlaps it, else those who are within the slack of it."""
    began_ns = one.ended_ns - one.wall_ns
    phases = [(request, *_phase(request, prefill=prefill)) for request in requests]
    for slack in (0, slack_ns):
        found = [request for request, start, end in phases if start - slack < one.ended_ns and began_ns < end + slack]
        if found:
            return found
    return []


def _phase(request: Served, *, prefill: bool) -> tuple[int, int]:
    """When a request was in a phase, as far as its record says."""
    first_ns = request.first_token_ns
    if prefill:
        return request.received_ns, request.ended_ns if first_ns is None else first_ns
    return request.received_ns if first_ns is None else first_ns, request.ended_ns


def _weights(one: Pass, prompts: Sequence[Served], answers: Sequence[Served]) -> list[int]:
    """The pass's own tokens, first by phase, then by request.

    Whole numbers: the tokens of a phase times a request's part of it, over a common denominator.
    """
    needed = [max(1, request.input_tokens - (request.cached_tokens or 0)) for request in prompts]
    prefill_tokens = max(one.prefills, one.prefill_tokens)
    in_all = sum(needed)
    ways = max(1, len(answers))
    return [prefill_tokens * tokens * ways for tokens in needed] + [one.decodes * max(1, in_all)] * len(answers)
