"""Dynamo's forward-pass metrics: how long a worker was busy, and each request's share of that, *estimated*. Pure.

A pass says how long it took and how many requests and tokens were in it, but not which requests. Where costtrace has no
hooks in a worker, each pass is split over the requests that the frontend's own records place on that worker at that
time: prompts by the tokens that they had to compute, answers by one token each. The split is an estimate; its sum
is exactly that of the passes, in integers.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder

METHOD = "estimated:forward_pass"
"""On every row that is split here: none of it was measured for the request that it names."""
SLACK_NS = 50_000_000
"""How far apart the frontend's clock and the report of a pass may be before the pass is unassigned."""


class ForwardPass(NamedTuple):
    """One forward pass of a worker, as the worker published it."""

    worker: str
    rank: int
    """Data-parallel rank. Each rank counts its own passes."""
    counter: int
    ended_ns: int
    """Wall time at which it was observed, to the millisecond."""
    wall_ns: int
    """Its duration; 0 for the heartbeat of an idle worker."""
    prefills: int
    prefill_tokens: int
    decodes: int


class ServedRequest(NamedTuple):
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
    """'': not recorded. It can then have been any worker."""
    decode_worker: str


class RequestEstimate(NamedTuple):
    """A request's share of the passes, estimated."""

    served: ServedRequest
    prefill_ns: int
    decode_ns: int

    @property
    def gpu_ns(self) -> int:
        """Prefill and decode."""
        return self.prefill_ns + self.decode_ns


class WorkerPasses(NamedTuple):
    """The sum of a worker's passes, and how complete it is."""

    worker: str
    passes: int
    lost: int
    """Passes whose number is missing: published and never received. Their time is unknown."""
    busy_ns: int
    unassigned_ns: int
    """Of passes at a time when the frontend has no request on this worker."""
    since_ns: int
    """When the first of them began."""
    until_ns: int


class Allocation(NamedTuple):
    """All passes, split: the requests and what is unassigned add up to the workers' busy time."""

    estimates: list[RequestEstimate]
    workers: list[WorkerPasses]

    @property
    def unassigned_ns(self) -> int:
        """Time of passes in which no request can have been."""
        return sum(worker.unassigned_ns for worker in self.workers)


def add_up(passes: Iterable[ForwardPass]) -> dict[str, WorkerPasses]:
    """The sum of each worker's passes, by its id. A pass that comes twice counts once."""
    by_worker: dict[str, dict[tuple[int, int], ForwardPass]] = {}
    for each in passes:
        by_worker.setdefault(each.worker, {})[each.rank, each.counter] = each
    return {name: _sum(name, list(numbered.values())) for name, numbered in sorted(by_worker.items())}


def _sum(worker: str, passes: Sequence[ForwardPass]) -> WorkerPasses:
    numbers = sorted((each.rank, each.counter) for each in passes)
    lost = sum(after[1] - before[1] - 1 for before, after in pairwise(numbers) if before[0] == after[0])
    return WorkerPasses(
        worker,
        passes=sum(1 for each in passes if each.wall_ns),
        lost=lost,
        busy_ns=sum(each.wall_ns for each in passes),
        unassigned_ns=0,
        since_ns=min(each.ended_ns - each.wall_ns for each in passes),
        until_ns=max(each.ended_ns for each in passes),
    )


def allocate(passes: Iterable[ForwardPass], served: Iterable[ServedRequest], slack_ns: int = SLACK_NS) -> Allocation:
    """Split each pass over the requests that were on its worker. The result adds up to the passes with ``==``."""
    distinct = {(each.worker, each.rank, each.counter): each for each in passes}
    requests = list({request.request_id: request for request in served}.values())
    prefilling = _by_worker(requests, "prefill_worker")
    decoding = _by_worker(requests, "decode_worker")
    prefill_ns = {request.request_id: 0 for request in requests}
    decode_ns = dict(prefill_ns)
    unassigned_ns: dict[str, int] = {}
    for each in distinct.values():
        prompts = _in_pass(_on(each.worker, prefilling), each, slack_ns, prefill=True) if each.prefills else []
        answers = _in_pass(_on(each.worker, decoding), each, slack_ns, prefill=False) if each.decodes else []
        weights = _weights(each, prompts, answers)
        if not sum(weights):
            unassigned_ns[each.worker] = unassigned_ns.get(each.worker, 0) + each.wall_ns
            continue
        shares = largest_remainder(each.wall_ns, weights)
        for request, ns in zip(prompts, shares[: len(prompts)], strict=True):
            prefill_ns[request.request_id] += ns
        for request, ns in zip(answers, shares[len(prompts) :], strict=True):
            decode_ns[request.request_id] += ns
    estimates = [RequestEstimate(each, prefill_ns[each.request_id], decode_ns[each.request_id]) for each in requests]
    sums = add_up(distinct.values())
    workers = [worker._replace(unassigned_ns=unassigned_ns.get(name, 0)) for name, worker in sums.items()]
    return Allocation(estimates, workers)


def _by_worker(requests: Iterable[ServedRequest], field: str) -> dict[str, list[ServedRequest]]:
    by_worker: dict[str, list[ServedRequest]] = {}
    for request in requests:
        by_worker.setdefault(getattr(request, field), []).append(request)
    return by_worker


def _on(worker: str, requests: dict[str, list[ServedRequest]]) -> list[ServedRequest]:
    """The requests that were, or can have been, on a worker."""
    return [*requests.get(worker, ()), *requests.get("", ())]


def _in_pass(
    requests: Sequence[ServedRequest], one: ForwardPass, slack_ns: int, *, prefill: bool
) -> list[ServedRequest]:
    """The requests that can have been in a pass: whose phase overlaps it, else those within the slack of it."""
    began_ns = one.ended_ns - one.wall_ns
    phases = [(request, *_phase(request, prefill=prefill)) for request in requests]
    for slack in (0, slack_ns):
        present = [request for request, start, end in phases if start - slack < one.ended_ns and began_ns < end + slack]
        if present:
            return present
    return []


def _phase(request: ServedRequest, *, prefill: bool) -> tuple[int, int]:
    """When a request's phase began and ended, as far as its record says."""
    first_ns = request.first_token_ns
    if prefill:
        return request.received_ns, request.ended_ns if first_ns is None else first_ns
    return request.received_ns if first_ns is None else first_ns, request.ended_ns


def _weights(one: ForwardPass, prompts: Sequence[ServedRequest], answers: Sequence[ServedRequest]) -> list[int]:
    """Weights of *prompts*, then of *answers*: the pass's own tokens, split by phase, then by request.

    Integers: a phase's tokens times a request's part of the phase, over a common denominator.
    """
    computed = [max(1, request.input_tokens - (request.cached_tokens or 0)) for request in prompts]
    prefill_tokens = max(one.prefills, one.prefill_tokens)
    total = max(1, sum(computed))
    ways = max(1, len(answers))
    return [prefill_tokens * tokens * ways for tokens in computed] + [one.decodes * total] * len(answers)
