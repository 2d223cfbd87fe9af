"""Continuous batching as a pure simulation: offered requests in, journal events out.

Each step takes decodes first, then prompts in chunks while the token budget lasts, as vLLM does. A sequence that finds
no room for its next token preempts the newest one, which is computed again later. Of a prompt, the leading blocks that
were computed before and are still held are read from the prefix cache.
"""

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from costtrace.events import (
    AnyEvent,
    DeviceRef,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    ModelShape,
    SequenceAdded,
    SequenceFinished,
    Step,
)
from costtrace.units import NS_PER_S

WALL_OFFSET_NS = 1_800_000_000 * NS_PER_S
"""Wall time less monotonic time of all simulated engines."""
STARTUP_NS = NS_PER_S


class Offered(NamedTuple):
    """A request as a workload has it."""

    at_ns: int
    """When it arrives, from the beginning of serving."""
    tenant: str
    prompt_tokens: int
    output_tokens: int
    """That it will generate, at least 1."""
    blocks: tuple[int, ...] = ()
    """What its prompt consists of, in blocks of `Limits.block_tokens`: equal numbers are equal text."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a server can hold."""

    max_running: int = 256
    token_budget: int = 2_048
    """Tokens a step."""
    kv_tokens: int = 1_000_000
    """Of all running sequences and the prefix cache."""
    block_tokens: int = 512
    drafts: int = 0
    """Draft tokens a decode checks in each step."""
    acceptance: float = 0.7
    """Probability that a draft token is accepted, given that those before it were."""


class Member(NamedTuple):
    """One participant of a step."""

    slot: int
    tokens: int
    context: int
    """KV tokens that were there before the step."""
    decodes: bool
    samples: bool
    """It yields a token: a decode, or a prompt's last chunk."""


class Batch(msgspec.Struct, frozen=True):
    """One step's work."""

    index: int
    members: tuple[Member, ...]


StepTime = Callable[[Batch], int]
"""How long a batch takes, in ns."""


class _Sequence(msgspec.Struct):
    slot: int
    offered: Offered
    computed: int = 0
    cached: int = 0
    output: int = 0
    preemptions: int = 0

    def known(self) -> int:
        """Tokens whose KV it needs before it can go on: its prompt, and after a preemption what it had said."""
        return self.offered.prompt_tokens + max(0, self.output - 1) if self.output else self.offered.prompt_tokens

    def decodes(self) -> bool:
        return self.output > 0 and self.computed >= self.known()


class Server:
    """One engine on some devices. `events` runs it through a workload; `batches` sees each step, if given."""

    def __init__(
        self,
        step_time: StepTime,
        *,
        limits: Limits = Limits(),  # noqa: B008 - immutable
        shape: ModelShape = ModelShape(),  # noqa: B008 - immutable
        device: str = "Simulated GPU",
        devices: int = 1,
        model: str = "simulated",
        seed: int = 1,
        on_batch: Callable[[Batch, int], None] = lambda _batch, _ns: None,
    ) -> None:
        self._step_time, self._limits, self._on_batch = step_time, limits, on_batch
        refs = tuple(DeviceRef(f"GPU-simulated-{n}", device, "gpu", "simulated", n) for n in range(devices))
        self._started = EngineStarted(0, "simulator", "1", model, refs, shape=shape, simulated=True)
        self._model = model
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._cohort: dict[int, int] = {}
        self._cache: OrderedDict[int, None] = OrderedDict()
        """Blocks of prompts that are held, the one used longest ago first."""
        self._index = -1

    def events(self, workload: Iterable[Offered]) -> Iterator[AnyEvent]:
        """Serve *workload* (in the order of arrival) to its end; times are monotonic ns."""
        yield self._started
        now_ns = beat_ns = STARTUP_NS
        yield EngineReady(now_ns)
        coming = iter(enumerate(workload, 1))
        upcoming = next(coming, None)
        while upcoming is not None or self._waiting or self._running:
            batch = self._compose()
            done_ns = now_ns + (self._step_time(batch) if batch is not None else 0)
            if batch is None and upcoming is not None:
                done_ns = now_ns = max(now_ns, STARTUP_NS + upcoming[1].at_ns)
            while upcoming is not None and STARTUP_NS + upcoming[1].at_ns <= done_ns:
                yield self._arrive(*upcoming)
                upcoming = next(coming, None)
            if batch is not None:
                yield self._step(batch, now_ns, done_ns)
                self._on_batch(batch, done_ns - now_ns)
                yield from self._advance(batch, done_ns)
                now_ns = done_ns
            if now_ns - beat_ns >= NS_PER_S:
                beat_ns = now_ns
                yield Heartbeat(now_ns, now_ns + WALL_OFFSET_NS, 0, self._index)
        yield Heartbeat(now_ns, now_ns + WALL_OFFSET_NS, 0, self._index)
        yield EngineStopped(now_ns)

    def _arrive(self, slot: int, offered: Offered) -> SequenceAdded:
        self._waiting.append(_Sequence(slot, offered))
        name, at_ns = f"r{slot}", STARTUP_NS + offered.at_ns
        return SequenceAdded(
            *(slot, at_ns, name, name, name, name, offered.prompt_tokens, self._model, offered.tenant, "simulated"),
            arrived_ns=at_ns,
        )

    # -- a step -------------------------------------------------------------------------------------------------

    def _compose(self) -> Batch | None:
        limits, budget = self._limits, self._limits.token_budget
        self._make_room()
        members: list[Member] = []
        for sequence in self._running:
            if budget <= 0:
                break
            budget -= self._take(sequence, budget, members)
        held = sum(sequence.computed for sequence in self._running)
        while self._waiting and budget > 0 and len(self._running) < limits.max_running:
            sequence = self._waiting[0]
            if held + sequence.known() > limits.kv_tokens and self._running:
                break
            self._waiting.popleft()
            self._running.append(sequence)
            self._find_prefix(sequence)
            held += sequence.known()
            budget -= self._take(sequence, budget, members)
        if not members:
            return None
        self._index += 1
        return Batch(self._index, tuple(members))

    def _take(self, sequence: _Sequence, budget: int, members: list[Member]) -> int:
        """Put a sequence into the batch; returns the tokens that it takes of the budget."""
        if sequence.decodes():
            tokens = min(1 + self._limits.drafts, budget)
            members.append(Member(sequence.slot, tokens, sequence.computed, decodes=True, samples=True))
            return tokens
        left = sequence.known() - sequence.computed
        tokens = min(left, budget)
        members.append(Member(sequence.slot, tokens, sequence.computed, decodes=False, samples=tokens == left))
        return tokens

    def _make_room(self) -> None:
        """Preempt the newest while the next tokens of all do not fit."""
        need = 1 + self._limits.drafts
        while len(self._running) > 1:
            held = sum(sequence.computed + need for sequence in self._running)
            if held <= self._limits.kv_tokens:
                return
            sequence = self._running.pop()
            sequence.computed = 0
            sequence.preemptions += 1
            self._waiting.appendleft(sequence)

    def _find_prefix(self, sequence: _Sequence) -> None:
        """Skip the leading blocks of a prompt that are held; its last token is always computed."""
        hit = 0
        for block in sequence.offered.blocks:
            if block not in self._cache:
                break
            self._cache.move_to_end(block)
            hit += self._limits.block_tokens
        sequence.computed = min(hit, sequence.offered.prompt_tokens - 1)
        if not sequence.output:
            sequence.cached = sequence.computed

    def _step(self, batch: Batch, scheduled_ns: int, done_ns: int) -> Step:
        stay = {m.slot: m.context for m in batch.members if m.decodes and m.tokens == 1}
        items = tuple((m.slot, m.tokens, m.context) for m in batch.members if not (m.decodes and m.tokens == 1))
        leaves = tuple(slot for slot, at in self._cohort.items() if stay.get(slot) != at)
        enters = tuple((slot, at) for slot, at in stay.items() if self._cohort.get(slot) != at)
        self._cohort = {slot: at + 1 for slot, at in stay.items()}
        return Step(batch.index, scheduled_ns, done_ns, leaves, enters, items)

    def _advance(self, batch: Batch, done_ns: int) -> Iterator[SequenceFinished]:
        running = {sequence.slot: sequence for sequence in self._running}
        for member in batch.members:
            sequence = running[member.slot]
            if member.decodes:
                said = self._accepted(member.tokens)
                sequence.computed += said
                sequence.output += said
            else:
                sequence.computed += member.tokens
                if member.samples:
                    sequence.output = max(1, sequence.output)
                    self._hold(sequence.offered.blocks)
            if sequence.output >= sequence.offered.output_tokens:
                self._running.remove(sequence)
                yield SequenceFinished(
                    *(sequence.slot, done_ns, batch.index, "length", sequence.offered.output_tokens),
                    cached_tokens=sequence.cached,
                    preemptions=sequence.preemptions,
                )

    def _accepted(self, tokens: int) -> int:
        accepted = 1
        while accepted < tokens and self._random.random() < self._limits.acceptance:
            accepted += 1
        return accepted

    def _hold(self, blocks: tuple[int, ...]) -> None:
        for block in blocks:
            self._cache[block] = None
            self._cache.move_to_end(block)
        while len(self._cache) * self._limits.block_tokens > self._limits.kv_tokens // 2:
            self._cache.popitem(last=False)
