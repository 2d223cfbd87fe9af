"""Batches as vLLM hands them to its workers, a scheduler that makes random ones, and a naive reader of steps."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from costtrace_vllm.engine_side.sequences import ADDED, FREED

from costtrace.capture.recorder import NOTE, STEP
from costtrace.core.events import Event, SequenceAdded, SequenceFinished, Step

Seen = dict[str, tuple[int, int]]
"""Who is in a step: internal id -> (tokens, context)."""


def batch(
    cached: Iterable[tuple[str, int, int]] = (),
    new: Iterable[tuple[str, int, int, int]] = (),
    *,
    finished: Iterable[str] = (),
    encoder: dict[str, list[int]] | None = None,
) -> Any:
    """A batch of *cached* (id, tokens, context) and *new* (id, tokens, context, prompt tokens)."""
    cached, new = list(cached), list(new)
    tokens = {name: count for name, count, *_ in (*cached, *new)}
    return SimpleNamespace(
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, num_computed_tokens=context, prompt_token_ids=range(prompt), mm_features=[])
            for name, _, context, prompt in new
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=[name for name, _, _ in cached], num_computed_tokens=[context for _, _, context in cached]
        ),
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
        scheduled_encoder_inputs=encoder or {},
        finished_req_ids=set(finished),
    )


def truth(so: Any) -> Seen:
    """Who is in *so*, read directly."""
    contexts = dict(
        zip(so.scheduled_cached_reqs.req_ids, so.scheduled_cached_reqs.num_computed_tokens, strict=True)
    ) | {new.req_id: new.num_computed_tokens for new in so.scheduled_new_reqs}
    return {name: (count, contexts[name]) for name, count in so.num_scheduled_tokens.items()}


def step(index: int, so: Any) -> tuple[Any, ...]:
    return (STEP, index, 1_000 * index, 1_000 * index + 900, so)


def added(name: str, prompt: int, blocks: Sequence[Hashable] = ()) -> tuple[Any, ...]:
    return (NOTE, 1, ADDED, name, None, prompt, "", False, blocks)


def freed(name: str, last_step: int, output_tokens: int = 1) -> tuple[Any, ...]:
    return (NOTE, 2, FREED, name, last_step, "stop", output_tokens, 0)


class Reader:
    """Knows who is in each step from the events alone, in the most naive way."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.cohort: dict[int, int] = {}
        self.steps: dict[int, Seen] = {}
        self.finished: dict[str, SequenceFinished] = {}

    def feed(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case SequenceAdded():
                    assert event.slot not in self.names, "a slot is never used twice"
                    self.names[event.slot] = event.sequence_id
                case SequenceFinished():
                    self.finished[self.names[event.slot]] = event
                case Step():
                    self._step(event)

    def _step(self, event: Step) -> None:
        for slot in event.leaves:
            self.cohort.pop(slot, None)
        for slot, context in event.enters:
            assert slot not in self.cohort, "who is in the cohort does not enter it"
            self.cohort[slot] = context
        seen = {self.names[slot]: (1, context) for slot, context in self.cohort.items()}
        for slot, tokens, context in event.items:
            assert self.names[slot] not in seen, "a sequence is in a step once"
            seen[self.names[slot]] = (tokens, context)
        self.steps[event.index] = seen
        self.cohort = {slot: context + 1 for slot, context in self.cohort.items()}


@dataclass
class Request:
    name: str
    prompt: int
    output: int
    computed: int = 0
    generated: int = 0
    known_to_workers: bool = False
    late: int = 0
    resent: bool = False


@dataclass
class World:
    """A scheduler in the manner of vLLM's: running and waiting requests, chunks, drafts, preemptions, asynchrony.

    `choose(n)` decides, as hypothesis or a random generator does: an integer in [0, n).
    """

    choose: Any
    asynchronous: bool = False
    drafts: bool = False
    budget: int = 64
    records: list[tuple[Any, ...]] = field(default_factory=list)
    truth: dict[int, Seen] = field(default_factory=dict)
    running: list[Request] = field(default_factory=list)
    waiting: list[Request] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    flying: list[tuple[int, Any, dict[str, int]]] = field(default_factory=list)
    index: int = -1
    made: int = 0
    v2: bool = False

    def arrive(self) -> None:
        self.made += 1
        request = Request(f"cmpl-{self.made}-0-{self.made:08x}", 1 + self.choose(90), 1 + self.choose(12))
        self.records.append(added(request.name, request.prompt))
        self.waiting.append(request)

    def turn(self) -> None:
        for _ in range(self.choose(3)):
            self.arrive()
        if self.running and self.choose(12) == 0:
            self._preempt()
        self._schedule()
        if len(self.flying) > (1 if self.asynchronous else 0) or not self.running:
            self._complete()
        if self.running and self.choose(15) == 0:
            self._end(self.running[self.choose(len(self.running))])

    def finish(self) -> None:
        while self.flying:
            self._complete()

    def _preempt(self) -> None:
        victim = self.running.pop()
        victim.computed = 0
        victim.late = 0
        self.waiting.insert(0, victim)

    def _schedule(self) -> None:
        budget = self.budget
        cached, new = [], []
        for request in self.running:
            count = self._tokens(request, budget)
            if count:
                budget -= count
                cached.append((request.name, count, request.computed))
                request.computed += count
        while self.waiting and budget > 0 and self.choose(4):
            request = self.waiting.pop(0)
            if not request.computed:
                request.computed = self.choose(request.prompt)  # a prefix in the cache
            count = min(budget, request.prompt + request.generated - request.computed)
            budget -= count
            if request.known_to_workers and not self.v2:
                cached.append((request.name, count, request.computed))
            else:
                new.append((request.name, count, request.computed, request.prompt))
            request.computed += count
            request.known_to_workers = True
            self.running.append(request)
        self.index += 1
        so = batch(cached, new, finished=self.ended)
        self.ended = set()
        self.flying.append((self.index, so, {r.name: r.computed for r in self.running}))
        if so.num_scheduled_tokens:
            self.truth[self.index] = truth(so)

    def _tokens(self, request: Request, budget: int) -> int:
        known = request.prompt + request.generated + request.late
        if request.computed < known:
            count = min(budget, known - request.computed)
        elif self.asynchronous and request.generated + request.late < request.output:
            count = min(budget, 1)
        else:
            return 0
        if count == 1 and request.computed + 1 >= known and self.drafts:
            count = min(budget, 1 + self.choose(4))
        if request.computed + count >= known:
            request.late += 1
        return count

    def _complete(self) -> None:
        if not self.flying:
            return
        index, so, computed = self.flying.pop(0)
        self.records.append(step(index, so))
        for request in list(self.running):
            if request.name not in so.num_scheduled_tokens or computed[request.name] > request.computed:
                continue
            if computed[request.name] < request.prompt + request.generated or not request.late:
                continue
            request.late -= 1
            drafted = so.num_scheduled_tokens[request.name] - 1 if self.drafts else 0
            accepted = self.choose(drafted + 1) if drafted else 0
            request.computed -= drafted - accepted
            request.generated += 1 + accepted
            if request.generated >= request.output or self.choose(20) == 0:
                self._end(request)

    def _end(self, request: Request) -> None:
        self.running.remove(request)
        self.ended.add(request.name)
        self.records.append(freed(request.name, self.index, request.generated))


def chunks(records: list[tuple[Any, ...]], choose: Any) -> Iterator[list[tuple[Any, ...]]]:
    """*records* in pieces, as the writer thread finds them."""
    start = 0
    while start < len(records):
        end = start + 1 + choose(8)
        yield records[start:end]
        start = end
