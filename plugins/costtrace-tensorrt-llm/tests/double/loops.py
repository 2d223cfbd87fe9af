"""The loops of the double of TensorRT-LLM's executor: plain, overlap, pipeline, attention data parallelism."""

import itertools
import pickle
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from double.executor import CHUNK, Plan, RequestQueueItem


def iterate_plain(executor: Any, *, padded: bool = False) -> None:
    """One turn of ``_executor_loop``."""
    executor.fetch()
    executor.fail_some()
    executor.pause_some()
    scheduled = executor.schedule(executor.active_requests)
    if not scheduled.batch_size:
        if not padded:
            return
        scheduled = executor.pad()
    outputs = executor.timing.forward(executor, scheduled)
    state = executor._sample_async(scheduled, outputs)
    executor.hand_over(scheduled)
    executor.update(state)
    executor.timing.iterated(executor, executor._handle_responses(), state)


def run_overlap(executor: Any) -> None:
    """``_executor_loop_overlap``: batch N is on the GPU before batch N-1 has been looked at."""
    previous: Any = None
    while executor.has_work() or previous is not None:
        executor.fetch()
        executor.fail_some()
        executor.pause_some()
        # Who is through on paper is known only a batch later: such a request is in one batch more than it needs.
        scheduled = executor.schedule(executor.active_requests)
        state = None
        if scheduled.batch_size:
            outputs = executor.timing.forward(executor, scheduled, None)
            executor.update(previous)
            state = executor._sample_async(scheduled, outputs)
            executor.hand_over(scheduled)
        else:
            executor.update(previous)
        if previous is not None:
            executor.timing.iterated(executor, executor._handle_responses(), previous)
        if not executor.newest:
            scheduled.context_requests = [r for r in scheduled.context_requests if not r.in_context]
        previous = state


def run_pipeline(executor: Any, stages: int) -> None:
    """``_executor_loop_pp`` of one stage: micro-batches take turns, each is looked at when its turn comes again."""
    flying: deque[Any] = deque()
    while executor.has_work() or flying:
        executor.fetch()
        executor.fail_some()
        held = {id(request) for state in flying for request in state.members}
        free = [request for request in executor.active_requests if id(request) not in held]
        scheduled = executor.schedule(free[: max(1, (len(free) + 1) // 2)])
        if scheduled.batch_size:
            outputs = executor.timing.forward(executor, scheduled)
            if executor.loop == "stage":
                members, until_ns = scheduled.all_requests(), executor.gpu.tail_ns
                known = SimpleNamespace(scheduled_requests=scheduled, members=members, until_ns=until_ns)
                state = known if outputs else None
            else:
                state = executor._sample_async(scheduled, outputs)
            executor.hand_over(scheduled)
            if state is not None:
                flying.append(state)
        if len(flying) >= stages or (not scheduled.batch_size and flying):
            done = flying.popleft()
            executor.update(done)
            executor.timing.iterated(executor, executor._handle_responses(), done)


def run(executor: Any, stages: int = 1) -> None:
    """Serve until no request is left."""
    if executor.loop == "overlap":
        run_overlap(executor)
    elif executor.loop in {"pipeline", "stage"}:
        run_pipeline(executor, stages)
    else:
        while executor.has_work():
            iterate_plain(executor)
    executor.gpu.wait()
    executor._handle_responses()


def run_attention_dp(
    ranks: Sequence[Any], plans: Sequence[Plan], broadcast: Callable[[RequestQueueItem], Any] = lambda item: item
) -> None:
    """Attention data parallelism: every rank has its own requests, all run in step; one without any gets padding.

    Rank 0 queues every request; each of the others unpickles what was broadcast, as over MPI.
    """
    coming = deque(sorted(plans, key=lambda plan: plan.at_ns))
    turns: Iterator[int] = itertools.cycle(range(len(ranks)))
    clients = itertools.count(100)
    while coming or any(rank.has_work() for rank in ranks):
        now_ns = max(rank.host.now_ns for rank in ranks)  # all gather before a batch
        if coming and not any(rank.has_work() for rank in ranks):
            now_ns = max(now_ns, coming[0].at_ns)
        while coming and coming[0].at_ns <= now_ns:
            item, client, own = broadcast(ranks[0].submit(coming.popleft())), next(clients), next(turns)
            copies = [item, *(pickle.loads(pickle.dumps(item)) for _ in ranks[1:])]
            ranks[own].queue.append((copies[own], client))
        for rank in ranks:
            rank.host.now_ns = now_ns
        if any(rank.has_work() for rank in ranks):
            for rank in ranks:
                iterate_plain(rank, padded=True)


def random_plans(seed: int, count: int, *, drafts: int = 0, start_ns: int = 1_000_000_000) -> list[Plan]:
    """Requests with gaps between them that are long enough for the GPU to run dry now and then."""
    chosen = random.Random(seed)
    at_ns, plans = start_ns, []
    for _ in range(count):
        at_ns += chosen.choice((0, 100_000, 2_000_000, 90_000_000))
        output = chosen.randrange(1, 14)
        plans.append(
            Plan(
                at_ns,
                chosen.randrange(1, 3 * CHUNK),
                output,
                drafts=drafts if chosen.random() < 0.5 else 0,
                answers=chosen.choice((1, 1, 1, 2)),
                cancel_after=chosen.choice((0, 0, 0, max(1, output // 2))),
                pause_after=chosen.choice((0, 0, 2)) if output > 3 else 0,
                fail_after=chosen.choice((0, 0, 0, 0, 1, 3)),
            )
        )
    return plans
