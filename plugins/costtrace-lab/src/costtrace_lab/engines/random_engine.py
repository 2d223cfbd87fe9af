"""A scheduler with continuous batching that serves nobody: arrivals, lengths and mishaps come from a seed.

It yields what an engine's own thread does, in order: batches dispatched, batches done, things noted, time passing. What
it knows and the journal must find out (tokens of each request, who was preempted) stays on its `requests`.
"""

import random
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from costtrace.capture.prefix_numbers import PrefixNumbers
from costtrace.core.cohort import CohortEncoder
from costtrace.core.events import Delivered, Event, SequenceAdded, SequenceFinished

BLOCK_TOKENS = 16


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of a life. Probabilities are per scheduling round (or per arriving request)."""

    arrivals: float = 0.35
    """Requests per round, on average."""
    max_running: int = 24
    token_budget: int = 512
    prompt_tokens: int = 900
    """Longest prompt."""
    output_tokens: int = 40
    """Longest output."""
    depth: int = 1
    """Batches in flight: 2 is asynchronous scheduling."""
    step_ns: tuple[int, int] = (100_000, 20_000_000)
    idle_ns: tuple[int, int] = (1_000, 80_000_000)
    zero_length: float = 0.02
    """A step that takes no time at all (clocks are coarse)."""
    preempt: float = 0.03
    abort: float = 0.03
    skip: float = 0.02
    """A decoding sequence sits a step out (a grammar, a connector)."""
    dummy: float = 0.02
    """A batch that serves nobody."""
    pause: float = 0.03
    speculative: float = 0.15
    """A request decodes with drafts."""
    several: float = 0.15
    """A request asks for more than one answer."""
    cached: float = 0.25
    """A part of the prompt is in the prefix cache."""
    documents: int = 0
    """Prompts begin as one of so many documents, and the journal says who found whose blocks (0: it does not)."""
    stop_string: float = 0.1
    """The front end ends a request that the engine then sees aborted."""
    tenants: tuple[str, ...] = ("ant", "bee", "cat")


class Batch:
    """One step's participants, as the differences that a `Step` event holds. The recorder knows it by its identity."""

    __slots__ = ("enters", "index", "items", "leaves", "members")

    def __init__(
        self,
        index: int,
        leaves: tuple[int, ...],
        enters: tuple[tuple[int, int], ...],
        items: tuple[tuple[int, int, int], ...],
        members: tuple[int, ...],
    ) -> None:
        self.index = index
        self.leaves = leaves
        self.enters = enters
        self.items = items
        self.members = members
        """All slots in it, the cohort included."""


class Dispatch(NamedTuple):
    """The engine hands a batch to its devices."""

    batch: Batch


class Done(NamedTuple):
    """The oldest batch in flight is done."""

    batch: Batch


class Note(NamedTuple):
    """Something happens to a sequence. The event's times are 0: the caller that plays this knows the time."""

    event: Event


class Dummy(NamedTuple):
    """The devices work for nobody."""

    ns: int


class Wait(NamedTuple):
    """Time passes: the devices compute, or nobody wants anything."""

    ns: int


Action = Dispatch | Done | Note | Dummy | Wait


class Sequence(msgspec.Struct):
    """What the scheduler knows of a sequence."""

    slot: int
    request: int
    prompt: int
    target: int
    """Output tokens after which it stops."""
    drafts: int
    stop_string: bool
    computed: int = 0
    output: int = 0
    tokens_again: int = 0
    """Tokens computed a second time, after a preemption."""
    high_water: int = 0
    preemptions: int = 0
    steps: int = 0
    reached: int = -1
    """Step that computes its last output token."""
    ended: bool = False


class RandomEngine:
    """One engine's scheduler. Iterate `rounds`; the same seed and profile always do the same."""

    def __init__(self, seed: int, profile: Profile = Profile(), *, model: str = "sim") -> None:  # noqa: B008 - immutable
        self.profile = profile
        self.sequences: dict[int, Sequence] = {}
        """All sequences that ever were, by slot: the truth to compare a bill with."""
        self._random = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._model = model
        self._requests = 0
        self._prefixes = PrefixNumbers(BLOCK_TOKENS)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._cohort: CohortEncoder[int] = CohortEncoder()
        self._in_flight: deque[Batch] = deque()
        self._index = -1

    def rounds(self, count: int | None = None) -> Iterator[Action]:
        """What the engine's thread does in *count* rounds (None: for ever), then what is in flight is finished."""
        done = 0
        while count is None or done < count:
            done += 1
            yield from self._round()
        while self._in_flight:
            yield from self._finish_oldest()

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _round(self) -> Iterator[Action]:
        profile = self.profile
        for _ in range(int(profile.arrivals) + self._chance(profile.arrivals % 1)):
            yield from self._arrive()
        if self._running and self._chance(profile.abort):
            yield from self._end(self._random.choice(self._running), "abort")
        if self._running and self._chance(profile.preempt):
            self._preempt(self._random.choice(self._running))
        if not self._in_flight and self._chance(profile.dummy):
            yield Dummy(self._random.randrange(1, profile.step_ns[1]))
        if self._chance(profile.pause):
            yield Wait(self._random.randrange(*profile.idle_ns))
        batch = self._compose()
        if batch is not None:
            self._in_flight.append(batch)
            yield Dispatch(batch)
        if len(self._in_flight) >= profile.depth or (batch is None and self._in_flight):
            yield from self._finish_oldest()
        elif batch is None:
            yield Wait(self._random.randrange(*profile.idle_ns))

    # -- requests -----------------------------------------------------------------------------------------------

    def _arrive(self) -> Iterator[Action]:
        rng, profile = self._random, self.profile
        self._requests += 1
        key = f"req-{self._requests}"
        prompt = rng.randrange(1, profile.prompt_tokens + 1)
        cached = rng.randrange(prompt) if self._chance(profile.cached) else 0
        drafts = rng.randrange(1, 5) if self._chance(profile.speculative) else 0
        tenant = rng.choice(profile.tenants)
        for _ in range(rng.choice((2, 2, 4)) if self._chance(profile.several) else 1):
            slot = len(self.sequences) + 1
            stop_string = self._chance(profile.stop_string)
            target = rng.randrange(1, profile.output_tokens + 1)
            sequence = Sequence(slot, self._requests, prompt, target, drafts, stop_string, cached)
            self.sequences[slot] = sequence
            self._waiting.append(sequence)
            yield Note(SequenceAdded(slot, 0, f"{key}-{slot}", key, key, key, prompt, self._model, tenant, "header"))
            if profile.documents:
                document = self._requests % profile.documents
                names = [(document, block) for block in range(prompt // self._prefixes.block_tokens)]
                if (path := self._prefixes.path(slot, 0, names, cached)) is not None:
                    yield Note(path)

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._waiting.appendleft(sequence)
        # A part of it may be found in the prefix cache again.
        sequence.computed = self._random.randrange(sequence.computed // 2 + 1) if self._chance(0.3) else 0
        sequence.preemptions += 1

    def _end(self, sequence: Sequence, reason: str) -> Iterator[Action]:
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.ended = True
        if sequence.stop_string and reason == "stop":
            yield Note(Delivered(sequence.slot, 0, "stop", sequence.output))
            reason = "abort"
        yield Note(
            SequenceFinished(sequence.slot, 0, self._index, reason, sequence.output, preemptions=sequence.preemptions)
        )

    # -- steps --------------------------------------------------------------------------------------------------

    def _compose(self) -> Batch | None:
        """Decodes first, then prompts in chunks while the token budget lasts."""
        budget = self.profile.token_budget
        while self._waiting and len(self._running) < self.profile.max_running:
            self._running.append(self._waiting.popleft())
        stay: dict[int, int] = {}
        items: list[tuple[int, int, int]] = []
        for sequence in self._running:
            decodes = _decodes(sequence, sequence.computed)
            if budget <= 0 or (decodes and self._chance(self.profile.skip)):
                continue
            if decodes and not sequence.drafts:
                stay[sequence.slot] = sequence.computed
                budget -= 1
            else:
                tokens = self._item(sequence, budget, decodes=decodes)
                items.append((sequence.slot, tokens, sequence.computed))
                budget -= tokens
        if not stay and not items:
            return None
        self._index += 1
        self._cohort.compare()
        for slot, context in stay.items():
            if not self._cohort.stays(slot, context):
                self._cohort.enter(slot, slot, context)
        self._cohort.items += items
        step = self._cohort.close(self._index, 0, 0)
        members = (*stay, *(slot for slot, _, _ in items))
        batch = Batch(self._index, step.leaves, step.enters, step.items, members)
        self._advance(stay, items)
        return batch

    def _item(self, sequence: Sequence, budget: int, *, decodes: bool) -> int:
        if decodes:
            return min(1 + sequence.drafts, budget)
        # A prompt; after a preemption, the output so far goes with it.
        return min(sequence.prompt + sequence.output - sequence.computed, budget)

    def _advance(self, stay: dict[int, int], items: list[tuple[int, int, int]]) -> None:
        """The state of all sequences after the batch; acceptance of drafts is drawn here."""
        for slot in stay:
            self._moved(self.sequences[slot], 1, 1)
        for slot, tokens, context in items:
            sequence = self.sequences[slot]
            if _decodes(sequence, context):
                accepted = self._random.randrange(1, tokens + 1)
                self._moved(sequence, accepted, accepted)
            else:
                sequence.tokens_again += max(0, min(context + tokens, sequence.high_water) - context)
                ends_prompt = context + tokens >= sequence.prompt + sequence.output
                self._moved(sequence, tokens, int(ends_prompt))

    def _moved(self, sequence: Sequence, computed: int, output: int) -> None:
        sequence.computed += computed
        sequence.high_water = max(sequence.high_water, sequence.computed)
        sequence.output = min(sequence.output + output, sequence.target)
        sequence.steps += 1
        if sequence.output == sequence.target and sequence.reached < 0:
            sequence.reached = self._index

    def _finish_oldest(self) -> Iterator[Action]:
        batch = self._in_flight.popleft()
        low, high = self.profile.step_ns
        yield Wait(0 if self._chance(self.profile.zero_length) else self._random.randrange(low, high))
        yield Done(batch)
        for slot in batch.members:
            sequence = self.sequences[slot]
            if 0 <= sequence.reached <= batch.index and not sequence.ended:
                yield from self._end(sequence, self._random.choice(("stop", "stop", "length")))


def _decodes(sequence: Sequence, context: int) -> bool:
    """All that is known of it is computed, but for the newest token."""
    return sequence.output > 0 and context >= sequence.prompt + sequence.output - 1
