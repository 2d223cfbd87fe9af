"""A double of TensorRT-LLM's PyExecutor: its loops, its order of calls, and what makes it hard to hook.

It follows the sequences of calls in public source; durations are invented from a seed. `double.loops` has the loops. It
has chunked prompts, drafts, several answers, pausing, cancelling, a failing forward pass and padding. The lists of a
batch change after it was handed over, and attributes raise once a request has left its context phase.
"""

import itertools
import random
from collections import deque
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from double.cuda import Busy, FakeGpu
from double.timing import Timing

CHUNK = 64
"""Longest piece of a prompt in one batch."""
DUMMY_ID = 0


class Plan(msgspec.Struct, frozen=True):
    """One request that will come."""

    at_ns: int
    prompt: int
    output: int
    drafts: int = 0
    answers: int = 1
    cancel_after: int = 0
    """It is cancelled after so many tokens (0: never)."""
    pause_after: int = 0
    """It is paused once, after so many tokens, and computed again."""
    fail_after: int = 0
    """It alone fails after so many tokens, where the column can fail one request (0: never)."""


class RequestQueueItem:
    """What rank 0 broadcasts of a request, pickled."""

    def __init__(self, id: int, request: Any = None, child_req_ids: Any = None) -> None:  # noqa: A002 - upstream's name
        self.id = id
        self.request = request
        self.child_req_ids = child_req_ids


class LlmRequest:
    """A request as the executor has it."""

    def __init__(self, name: int, plan: Plan, *, client: int | None, parent: int | None = None) -> None:
        self.py_request_id = self.request_id = name
        self.py_client_id = client
        self.plan = plan
        self.prompt_len = self.orig_prompt_len = self.py_orig_prompt_len = plan.prompt
        self.py_max_new_tokens = plan.output
        self.py_beam_width = 1
        self.py_draft_tokens: list[int] | None = None
        self.py_num_accepted_draft_tokens = 0
        self.is_attention_dp_dummy = self.is_cuda_graph_dummy = False
        self.is_child, self.parent_request_id = parent is not None, parent
        self.cached_tokens = 0
        self.generated = 0
        self.is_finished = self.is_finished_due_to_cancellation = False
        self._position, self._chunk = 0, 0

    @property
    def reached(self) -> int:
        """Prompt tokens that are computed, as statistics have it: it never raises."""
        return self._position

    @property
    def in_context(self) -> bool:
        """Part of its prompt is still to be computed."""
        return self._position < self.prompt_len

    @property
    def context_current_position(self) -> int:
        """Prompt tokens that are computed. Raises: RuntimeError once the prompt is through."""
        self._check()
        return self._position

    @property
    def context_chunk_size(self) -> int:
        """Prompt tokens of this batch. Raises: RuntimeError once the prompt is through."""
        self._check()
        return self._chunk

    @property
    def max_beam_num_tokens(self) -> int:
        """Prompt and generated tokens."""
        return self.orig_prompt_len + self.generated

    def _check(self) -> None:
        if not self.in_context:
            raise RuntimeError("the request is not in its context phase")

    @property
    def ends_its_prompt(self) -> bool:
        """The scheduled piece is its prompt's last."""
        return self._position + self._chunk >= self.prompt_len

    def schedule_chunk(self) -> None:
        """The scheduler gives it a piece of its prompt."""
        self._chunk = min(CHUNK, self.prompt_len - self._position)

    def move(self) -> None:
        """The batch has been handed over: the prompt is that much further."""
        self._position += self._chunk
        self._chunk = 0

    def pause(self) -> None:
        """What was generated belongs to the prompt now, and all of it is computed again."""
        self.prompt_len = self.orig_prompt_len + self.generated
        self._position = 0


class ScheduledRequests:
    """A batch. The lists are the scheduler's own, and are used again."""

    def __init__(self, context: list[LlmRequest], generation: list[LlmRequest]) -> None:
        self.context_requests = context
        self.generation_requests = generation
        self.paused_requests: list[LlmRequest] = []

    @property
    def batch_size(self) -> int:
        """How many requests are in it."""
        return len(self.context_requests) + len(self.generation_requests)

    def all_requests(self) -> list[LlmRequest]:
        """The requests of its prompts, then those that generate."""
        return [*self.context_requests, *self.generation_requests]


class NewestScheduledRequests(ScheduledRequests):
    """The newest column's batch: its prompts are in two lists; reading them as one makes a new list each time."""

    def __init__(self, context: list[LlmRequest], generation: list[LlmRequest]) -> None:
        self.context_requests_last_chunk = [r for r in context if r.ends_its_prompt]
        self.context_requests_chunking = [r for r in context if not r.ends_its_prompt]
        self.generation_requests = generation
        self.paused_requests: list[LlmRequest] = []

    @property
    def context_requests(self) -> list[LlmRequest]:  # type: ignore[override] # upstream's: nothing is assigned to it
        """The prompts of both lists, in a new list."""
        return [*self.context_requests_chunking, *self.context_requests_last_chunk]


class Executor:
    """What the columns of the contract have in common; `executor_class` gives it their signatures."""

    newest = False
    """It has the events and the lists of the newest column."""
    fails_alone = True
    """`_handle_errors` takes the requests that fail."""

    def __init__(
        self,
        gpu: FakeGpu,
        plans: Sequence[Plan],
        *,
        loop: str = "plain",
        seed: int = 1,
        fail_at: int = -1,
        place: Any = None,
        stages: int = 1,
        stage: int = 0,
        stats: bool = False,
    ) -> None:
        self.gpu, self.host = gpu, gpu.host
        self.enable_iter_perf_stats = stats
        self.timing = Timing(gpu, newest=self.newest, stats=stats)
        self.loop = loop
        self.active_requests: list[LlmRequest] = []
        self.is_warmup = False
        self.device_id = 0
        self.enable_attention_dp = place is not None
        rank = place if place is not None else stage
        self.global_rank = rank
        self.dist = SimpleNamespace(
            rank=rank, pp_size=stages, pp_rank=stage, tp_size=1, world_size=stages if place is None else 1
        )
        self.model_engine = SimpleNamespace(model=None)
        self.queue: deque[tuple[RequestQueueItem, int]] = deque()
        self.seen: list[LlmRequest] = []
        """All requests that were ever active here."""
        self.batches: list[tuple[int, ...]] = []
        """Ids of each batch that was handed over, read when it was."""
        self.responses: list[int] = []
        self._plans = deque(sorted(plans, key=lambda plan: plan.at_ns))
        self._random = random.Random(seed)
        self._ids, self._clients = itertools.count(8), itertools.count(100)
        self._fail_at = fail_at
        self._context: list[LlmRequest] = []
        self._generation: list[LlmRequest] = []
        self._begun_ns = 0
        self._canceled: set[int] = set()
        self._turn = 0

    # -- what is hooked; the rest of a signature is the column's -------------------------------------------------------

    def start(self) -> None:
        """As `PyExecutor.start_worker`: nothing to do, the test drives the loop."""

    def forward(self, scheduled: ScheduledRequests) -> object | None:
        """Queue a forward pass. Fails, as upstream does, by `_handle_errors` and None."""
        members = tuple(r.py_request_id for r in scheduled.all_requests() if r.py_client_id is not None)
        self.batches.append(members)
        self._begun_ns = self.gpu.reached_ns()
        self.host.spend(self._random.randrange(20_000, 200_000))  # inputs are prepared
        work_ns = 200_000 + 30_000 * scheduled.batch_size + self._random.randrange(300_000)
        self.gpu.launch(work_ns)
        if len(self.batches) - 1 == self._fail_at:
            self._close_batch(members)
            self._handle_errors("planted failure")  # type: ignore[attr-defined] # the column's
            return None
        if self.loop == "stage":  # not the last stage of a pipeline: nothing is sampled here
            self._close_batch(members)
        return object()

    def sample(self, scheduled: ScheduledRequests, outputs: object | None) -> Any:
        """Queue the sampling."""
        if outputs is None:
            return None
        self.gpu.launch(self._random.randrange(10_000, 50_000))
        self._close_batch(tuple(r.py_request_id for r in scheduled.all_requests() if r.py_client_id is not None))
        return SimpleNamespace(
            scheduled_requests=scheduled, members=scheduled.all_requests(), until_ns=self.gpu.tail_ns
        )

    def answer(self) -> list[LlmRequest]:
        """As `_handle_responses`: those that are done leave, and are returned."""
        done = [request for request in self.active_requests if request.is_finished]
        self.active_requests = [request for request in self.active_requests if not request.is_finished]
        self.responses += [request.py_request_id for request in done]
        self.host.spend(5_000)
        return done

    def fail(self, requests: Iterable[LlmRequest] | None) -> None:
        """As `_handle_errors`: the named requests leave, or all where none are named."""
        gone = list(self.active_requests if requests is None else requests)
        for request in gone:
            request.is_finished = True
        self.active_requests = [request for request in self.active_requests if request not in gone]

    def fail_some(self) -> None:
        """As upstream's checks of single requests: `_handle_errors` for one, where the column can name it."""
        for request in list(self.active_requests):
            after = request.plan.fail_after
            if self.fails_alone and after and request.generated >= after:
                self._handle_errors("planted failure of one", requests=[request])  # type: ignore[attr-defined] # the column's

    def _close_batch(self, members: tuple[int, ...]) -> None:
        self.gpu.busy.append(Busy(self._begun_ns, self.gpu.tail_ns, members))

    # -- the parts of an iteration ------------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """A request is here or will come."""
        return bool(self.active_requests or self._plans or self.queue)

    def submit(self, plan: Plan) -> RequestQueueItem:
        """As rank 0's queue: ids for a request and its further answers."""
        name = next(self._ids)
        children = [next(self._ids) for _ in range(plan.answers - 1)]
        return RequestQueueItem(name, plan, children)

    def activate(self, item: RequestQueueItem, client: int) -> None:
        """A request has come to this rank."""
        request = LlmRequest(item.id, item.request, client=client)
        children = [LlmRequest(c, item.request, client=client, parent=item.id) for c in item.child_req_ids or ()]
        for each in (request, *children):
            self.active_requests.append(each)
            self.seen.append(each)

    def fetch(self) -> None:
        """Take in new requests; wait for one where there is nothing to do."""
        if not self.active_requests and not self.queue and self._plans:
            self.host.now_ns = max(self.host.now_ns, self._plans[0].at_ns)
        while self._plans and self._plans[0].at_ns <= self.host.now_ns:
            self.queue.append((self.submit(self._plans.popleft()), next(self._clients)))
        while self.queue:
            self.activate(*self.queue.popleft())
        self.host.spend(self._random.randrange(5_000, 60_000))

    def schedule(self, among: Sequence[LlmRequest]) -> ScheduledRequests:
        """Compose a batch, in the lists that the last one was in."""
        self._context[:] = [request for request in among if request.in_context]
        self._generation[:] = [request for request in among if not request.in_context]
        for request in self._context:
            request.schedule_chunk()
        for request in self._generation:
            drafts = self._random.randrange(request.plan.drafts + 1) if request.plan.drafts else 0
            request.py_draft_tokens = [1] * drafts or None
        kind = NewestScheduledRequests if self.newest else ScheduledRequests
        if self.loop in {"plain", "overlap"}:
            return kind(self._context, self._generation)
        return kind(list(self._context), list(self._generation))

    def pad(self) -> ScheduledRequests:
        """A batch of padding: another rank has work, and all ranks run in step."""
        dummy = LlmRequest(DUMMY_ID, Plan(0, 1, 1), client=None)
        dummy.is_attention_dp_dummy = True
        dummy.move()
        dummy.prompt_len = 0
        return (NewestScheduledRequests if self.newest else ScheduledRequests)([], [dummy])

    def hand_over(self, scheduled: ScheduledRequests) -> None:
        """As `_update_request_states`: prompts move on; reading their position may raise from here on."""
        for request in scheduled.context_requests:
            request.move()

    def update(self, state: Any) -> None:
        """As `_update_requests`: wait for the samples of a batch and count them in."""
        if state is None:
            return
        self.host.now_ns = max(self.host.now_ns, state.until_ns)
        for request in state.members:
            if request.py_client_id is None or request.is_finished or request.in_context:
                continue
            drafted = len(request.py_draft_tokens or ())
            request.py_num_accepted_draft_tokens = self._random.randrange(drafted + 1)
            left = request.plan.output - request.generated
            request.generated += min(left, 1 + request.py_num_accepted_draft_tokens)
            if request.plan.cancel_after and request.generated >= request.plan.cancel_after:
                request.is_finished = request.is_finished_due_to_cancellation = True
            elif request.generated >= request.plan.output:
                request.is_finished = True

    def pause_some(self) -> None:
        """As `_pause_requests`: the request goes on later, though upstream terminates it in between."""
        for request in self.active_requests:
            again = request.plan.pause_after
            if again and request.generated == again and request.prompt_len == request.orig_prompt_len:
                request.pause()
