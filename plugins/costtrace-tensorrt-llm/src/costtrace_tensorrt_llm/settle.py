"""Tiers T3 and T5: estimates from what TensorRT-LLM tells of a request when it has finished. No clock, no engine here.

A request says where it was only when it has ended. So nothing is said of any moment until everybody who may have been
there has ended: the *frontier* is the arrival of the oldest request that is still open. What is settled goes through
the recorder as any other step does; a heartbeat says that something is in flight since the frontier, so that the time
behind it waits. Of a request that ended without telling, it is assumed that it was there from its arrival to its end.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

from costtrace_tensorrt_llm.batches import Batch, Facts

PENDING = 65_536
"""Requests or batches that may wait. Beyond, the oldest open request counts as one that does not tell."""


class Times(NamedTuple):
    """When a finished request was where, monotonic ns."""

    scheduled_ns: int
    """It was first in a batch."""
    first_ns: int
    """It had its first token."""
    last_ns: int
    """It had its last one."""
    batches: tuple[tuple[int, int, bool], ...] = ()
    """Of each of its batches: when it was handed over, how long the GPU took (ns), whether it computed the prompt."""


class Ended(NamedTuple):
    """A request that has ended."""

    facts: Facts
    text: str
    times: Times
    told: bool
    """Upstream told `times`; else they are assumed."""
    reason: str
    output_tokens: int
    """-1: not known."""
    cached_tokens: int


class Sink(Protocol):
    """Where what is settled goes."""

    def added(self, life: Ended) -> None:
        """It is in a step for the first time."""

    def step(self, batch: Batch, start_ns: int, end_ns: int) -> None:
        """Who was on the devices from *start_ns* to *end_ns*."""

    def freed(self, life: Ended) -> None:
        """No later step has it."""


class Life:
    """What is still to be said of one request."""

    __slots__ = ("done", "ended", "known", "left", "share", "spread")

    def __init__(self, ended: Ended) -> None:
        self.ended = ended
        self.known = False
        self.left = 0
        """Batches of it that have not been settled."""
        self.spread = [0, 0]
        """Prompt and output tokens that its steps have had so far."""
        self.done = [0, 0]
        self.share = 0
        """Output tokens of its last step."""


class Settler:
    """Settles one engine's time. *by_batch*: T3, else T5."""

    def __init__(self, sink: Sink, *, by_batch: bool) -> None:
        self._sink = sink
        self._by_batch = by_batch
        self._open: dict[int, int] = {}
        """Arrival (ns) of those who have not ended."""
        self._lives: dict[int, Life] = {}
        self._groups: dict[int, tuple[int, dict[int, bool]]] = {}
        """T3, by when a batch was handed over: its GPU time, and of each member whether it computed its prompt."""
        self.frontier_ns = 0
        """All before it has been settled."""
        self._until_ns = 0
        """The GPU was busy until then, by what has been settled."""
        self.assumed = 0
        """Requests that ended without telling."""

    def arrived(self, name: int, at_ns: int) -> None:
        """A request is there."""
        self._open[name] = max(at_ns, self.frontier_ns)

    def arrival(self, name: int) -> int:
        """When an open request arrived; 0: it is not open."""
        return self._open.get(name, 0)

    def open_names(self) -> list[int]:
        """Those who have not ended."""
        return list(self._open)

    def waits_since(self) -> int:
        """Nothing after this can be settled yet; 0: all can."""
        return min(self._open.values(), default=0)

    def ended(self, name: int, life: Ended) -> None:
        """A request has ended. Says nothing twice."""
        arrived_ns = self._open.pop(name, 0)
        if not arrived_ns:
            return
        self.assumed += not life.told
        batches = tuple(batch for batch in life.times.batches if batch[0] >= self.frontier_ns)
        scheduled_ns, first_ns, last_ns = ordered(life.times[:3], arrived_ns)
        times = Times(scheduled_ns, first_ns, last_ns, batches)
        known = self._lives[name] = Life(life._replace(times=times))
        if not self._by_batch:
            return
        for begun_ns, gpu_ns, is_prompt in times.batches:
            longest_ns, members = self._groups.get(begun_ns, (0, {}))
            self._groups[begun_ns] = (max(longest_ns, gpu_ns), members | {name: is_prompt})
            known.left += 1

    def settle(self, now_ns: int) -> None:
        """Say all that can be said. *now_ns*: nobody who arrives from here on was anywhere before it."""
        while self._open and len(self._lives) + len(self._groups) > PENDING:
            oldest = min(self._open, key=lambda name: self._open[name])
            self.ended(oldest, unknown(oldest, self._open[oldest], now_ns))
        frontier_ns = max(self.frontier_ns, self.waits_since() or now_ns)
        if self._by_batch:
            self._settle_batches(frontier_ns)
        else:
            self._settle_spans(frontier_ns)
        self.frontier_ns = frontier_ns
        for name in [name for name, life in self._lives.items() if self._is_over(life, frontier_ns)]:
            life = self._lives.pop(name)
            self._know(life)
            self._sink.freed(life.ended)

    def _is_over(self, life: Life, frontier_ns: int) -> bool:
        if self._by_batch and life.ended.told:
            return not life.left
        return life.ended.times.last_ns <= frontier_ns

    def _know(self, life: Life) -> None:
        if not life.known:
            life.known = True
            self._sink.added(life.ended)

    # -- T3 -----------------------------------------------------------------------------------------------------------

    def _settle_batches(self, frontier_ns: int) -> None:
        for begun_ns in sorted(begun for begun in self._groups if begun < frontier_ns):
            gpu_ns, members = self._groups.pop(begun_ns)
            quiet = [name for name, life in self._lives.items() if not life.ended.told and _there(life, begun_ns)]
            shares = [self._next_share(name, is_prompt=is_prompt) for name, is_prompt in members.items()]
            shares += [(name, False, 1, 0) for name in quiet]
            start_ns = max(begun_ns, self._until_ns)
            self._until_ns = start_ns + gpu_ns
            self._say(shares, begun_ns, self._until_ns)

    def _next_share(self, name: int, *, is_prompt: bool) -> tuple[int, bool, int, int]:
        """The prompt goes evenly over the batches that computed it; each other batch has one token."""
        life = self._lives[name]
        life.left -= 1
        if not is_prompt:
            return name, False, 1, 0
        to_compute = max(1, life.ended.facts.prompt_tokens - max(0, life.ended.cached_tokens))
        chunks = sum(prompt for _, _, prompt in life.ended.times.batches)
        life.done[0] += 1
        upto = to_compute * life.done[0] // chunks
        position, tokens = max(0, life.ended.cached_tokens) + life.spread[0], max(1, upto - life.spread[0])
        life.spread[0] = upto
        return name, True, tokens, position

    # -- T5 -----------------------------------------------------------------------------------------------------------

    def _settle_spans(self, frontier_ns: int) -> None:
        spans = [(name, life, life.ended.times) for name, life in self._lives.items()]
        edges = {edge for _, _, t in spans for edge in (t.scheduled_ns, t.first_ns, t.last_ns)}
        within = sorted({edge for edge in edges if self.frontier_ns < edge < frontier_ns})
        for start_ns, end_ns in pairwise((self.frontier_ns, *within, frontier_ns)):
            here = [(name, life) for name, life, t in spans if t.scheduled_ns <= start_ns and end_ns <= t.last_ns]
            if here:
                self._say([_part(name, life, end_ns) for name, life in here], start_ns, end_ns)

    # -- both ---------------------------------------------------------------------------------------------------------

    def _say(self, shares: Iterable[tuple[int, bool, int, int]], start_ns: int, end_ns: int) -> None:
        generation: list[int] = []
        drafts: list[int] = []
        kept: list[int] = []
        context: list[tuple[int, int, int]] = []
        for name, is_prompt, tokens, position in shares:
            life = self._lives[name]
            self._know(life)
            if is_prompt:
                context.append((name, tokens, position))
            else:
                generation.append(name)
                drafts.append(tokens - 1)
                kept.append(max(0, life.share - 1))
                life.share = tokens
        many = any(drafts) or any(kept)
        batch = Batch("", generation, drafts if many else [], kept if many else [], context)
        self._sink.step(batch, start_ns, end_ns)


def unknown(name: int, arrived_ns: int, at_ns: int) -> Ended:
    """A request that ended, or is given up, without telling."""
    facts = Facts(name, -1, 0, 1, -1, "", -1, -1)
    return Ended(facts, "", Times(arrived_ns, arrived_ns, max(arrived_ns, at_ns)), False, "abort", -1, -1)


def _there(life: Life, at_ns: int) -> bool:
    return life.ended.times.scheduled_ns <= at_ns < life.ended.times.last_ns


def _part(name: int, life: Life, end_ns: int) -> tuple[int, bool, int, int]:
    """A request's tokens of the span up to *end_ns*, if it computed them evenly; never none, for it was there."""
    times, facts = life.ended.times, life.ended.facts
    cached = max(0, life.ended.cached_tokens)
    is_prompt = end_ns <= times.first_ns
    if is_prompt:
        from_ns, to_ns, whole = times.scheduled_ns, times.first_ns, max(1, facts.prompt_tokens - cached)
    else:
        from_ns, to_ns, whole = times.first_ns, times.last_ns, max(1, life.ended.output_tokens)
    phase = 0 if is_prompt else 1
    upto = whole * (end_ns - from_ns) // max(1, to_ns - from_ns)
    tokens, position = max(1, upto - life.spread[phase]), min(cached + life.spread[phase], facts.prompt_tokens - 1)
    life.spread[phase] = max(life.spread[phase], upto)
    return name, is_prompt, tokens, max(0, position)


def ordered(moments: Iterable[int], floor_ns: int) -> Iterator[int]:
    """*moments*, none before the one in front of it, nor before *floor_ns*."""
    for moment in moments:
        floor_ns = max(moment, floor_ns)
        yield floor_ns
