"""What a step had to do: who was in it, and how much work each of them was. Pure bookkeeping, no prices and no time.

`Membership` follows the journal's differences and yields a self-contained `StepWork` for each step: what the step model
is fitted on, what energy is distributed by, and what `accounts` charges.
"""

import msgspec

from costtrace.attribution.steps.sliding_window import AttentionReach, ReachCrossings
from costtrace.core.events import SequenceAdded, SequenceFinished, Snapshot, Step


class Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A participant that is not in the cohort."""

    slot: int
    tokens: int
    """Tokens computed for it in this step."""
    context: int
    """KV tokens read if it decodes (0 for a prefill chunk: its reads are in `attention`)."""
    attention: int
    """Chunk tokens x (context before it + half of the chunk), as far as layers see it; 0 for a decode."""
    is_prefill: bool
    again: int = 0
    """How many of its tokens had been computed before (after a preemption)."""
    encoder: int = 0
    """Encoder tokens (images, audio) computed for it."""


class StepWork(msgspec.Struct, frozen=True, gc=False):
    """One step. The cohort's members are not listed: only who left and who entered since the step before."""

    index: int
    leaves: tuple[int, ...]
    enters: tuple[tuple[int, int], ...]
    """``(slot, context)``."""
    items: tuple[Item, ...]
    cohort_count: int
    cohort_context: int
    prompts_done: tuple[int, ...] = ()
    """Slots whose prompt is through with this step."""

    @property
    def sequences(self) -> int:
        """How many sequences were in the step."""
        return self.cohort_count + len(self.items)

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return self.cohort_count + sum(item.tokens for item in self.items)

    @property
    def context(self) -> int:
        """KV tokens read by decodes."""
        return self.cohort_context + sum(item.context for item in self.items)

    @property
    def attention(self) -> int:
        """Prefill attention work."""
        return sum(item.attention for item in self.items)

    @property
    def prompts(self) -> int:
        """Prefill chunks."""
        return sum(item.is_prefill for item in self.items)

    @property
    def encoder(self) -> int:
        """Encoder tokens computed."""
        return sum(item.encoder for item in self.items)


class SequenceState(msgspec.Struct):
    """Where a sequence stands."""

    prompt_tokens: int
    context: int = 0
    """KV tokens after its newest step; in the cohort, when it entered."""
    last_tokens: int = 0
    """Tokens of its newest decode item (1 + drafts); 0 after any other step."""
    high_water: int = 0
    """Most KV tokens it ever had for certain."""
    recompute_until: int = 0
    """After a preemption: what it computes below this, it computes again."""
    entered_step: int = -1
    """In the cohort since this step; -1: not in it."""
    prompt_done: bool = False
    last_step: int = -2
    """It has finished, and no step after this one can hold it (-2: it has not)."""


class Membership(msgspec.Struct):
    """Who is in the batch of one engine."""

    standings: dict[int, SequenceState] = {}
    ending: list[int] = []
    """Slots that have finished."""
    count: int = 0
    context: int = 0
    """Of the cohort; with a `passing`, in its span's units."""
    steps: int = 0
    passing: ReachCrossings | None = None
    """Of a model in which layers have a sliding window."""
    capped: int = 0
    """In the cohort, whose context has reached the window."""

    def set_span(self, span: AttentionReach | None) -> None:
        """Before the first step: how far the model's layers look back."""
        self.passing = None if span is None else ReachCrossings(span)

    def added(self, event: SequenceAdded) -> None:
        """A sequence is known."""
        self.standings.setdefault(event.slot, SequenceState(event.prompt_tokens))

    def finished(self, event: SequenceFinished) -> None:
        """A sequence has ended; steps in flight may still hold it."""
        if (standing := self.standings.get(event.slot)) is not None:
            standing.last_step = event.last_step
            self.ending.append(event.slot)

    def resync(self, snapshot: Snapshot) -> None:
        """After a damaged stretch: believe the snapshot."""
        known, self.standings, self.count, self.context = self.standings, {}, 0, 0
        if self.passing is not None:
            self.capped, self.passing = 0, ReachCrossings(self.passing.span)
        for event in snapshot.open:
            self.standings[event.slot] = known.get(event.slot) or SequenceState(event.prompt_tokens)
        self.ending = [slot for slot in self.ending if known[slot].last_step >= snapshot.next_index]
        for slot in self.ending:  # ended, and still in a step in flight
            self.standings[slot] = known[slot]
        for standing in self.standings.values():
            standing.entered_step = -1
        for slot, context in snapshot.cohort:
            if slot in self.standings:
                self._enter(slot, self.standings[slot], context)

    def certain_context(self, slot: int) -> int:
        """KV tokens that a sequence has, or had before it was preempted, for certain: rejected drafts are not in it."""
        standing = self.standings.get(slot)
        if standing is None:
            return 0
        decoded = standing.context + self.steps - standing.entered_step if standing.entered_step >= 0 else 0
        return max(standing.high_water, decoded)

    def take(self, step: Step) -> StepWork:
        """The work of *step*, which comes after the one that was taken before."""
        if not (step.leaves or step.enters or step.items or self.ending):  # a steady step: most are
            work = StepWork(step.index, (), (), (), self.count, self._read_tokens())
            self._advance()
            return work
        for slot in step.leaves:
            if (standing := self.standings.get(slot)) is not None:
                self._leave(slot, standing)
        for slot in [slot for slot in self.ending if self.standings[slot].last_step < step.index]:
            self.ending.remove(slot)
            self._leave(slot, self.standings.pop(slot))
        for slot, context in step.enters:
            self._enter(slot, self._known(slot), context)
        done: list[int] = []
        encoded = dict(step.encoder) if step.encoder else {}
        items = tuple(
            self._item(slot, tokens, context, done, encoded.get(slot, 0)) for slot, tokens, context in step.items
        )
        work = StepWork(step.index, step.leaves, step.enters, items, self.count, self._read_tokens(), tuple(done))
        self._advance()
        return work

    def _read_tokens(self) -> int:
        return self.context if self.passing is None else self.context // self.passing.span.units

    def _advance(self) -> None:
        self.steps += 1
        self.context += self.count
        if self.passing is not None:
            span = self.passing.span
            self.context += self.count * (span.units - 1) - self.capped * span.sliding
            self.capped += len(self.passing.take(self.steps))

    def _known(self, slot: int) -> SequenceState:
        return self.standings.setdefault(slot, SequenceState(0))

    def _enter(self, slot: int, standing: SequenceState, context: int) -> None:
        self._leave(slot, standing)
        standing.context, standing.entered_step, standing.last_tokens = context, self.steps, 0
        self.count += 1
        if self.passing is None:
            self.context += context
        else:
            self.context += self.passing.span.read(context)
            self.capped += context >= self.passing.span.window
            self.passing.enter(slot, context, self.steps)

    def _leave(self, slot: int, standing: SequenceState) -> None:
        if standing.entered_step < 0:
            return
        standing.context += self.steps - standing.entered_step
        standing.high_water = max(standing.high_water, standing.context)
        standing.entered_step = -1
        self.count -= 1
        if self.passing is None:
            self.context -= standing.context
        else:
            self.context -= self.passing.span.read(standing.context)
            self.capped -= standing.context >= self.passing.span.window
            self.passing.leave(slot, standing.context, self.steps)

    def _item(self, slot: int, tokens: int, context: int, done: list[int], encoder: int) -> Item:
        standing, span = self._known(slot), None if self.passing is None else self.passing.span
        self._leave(slot, standing)
        if context + 2 * standing.last_tokens < standing.context:
            # Further back than rejected drafts can put it: it was preempted and starts over.
            standing.recompute_until = standing.high_water
        standing.context = context + tokens
        if context >= max(standing.prompt_tokens, standing.recompute_until):
            # Of drafted tokens only the first is certain to stay.
            standing.high_water = max(standing.high_water, context + 1)
            standing.last_tokens = tokens
            read = context if span is None else span.tokens(context)
            return Item(slot, tokens, read, 0, is_prefill=False, encoder=encoder)
        standing.high_water = max(standing.high_water, context + tokens)
        standing.last_tokens = 0
        if not standing.prompt_done and standing.context >= standing.prompt_tokens:
            standing.prompt_done = True
            done.append(slot)
        again = max(0, min(context + tokens, standing.recompute_until) - context)
        attention = tokens * context + tokens * tokens // 2 if span is None else span.attention(tokens, context)
        return Item(slot, tokens, 0, attention, is_prefill=True, again=again, encoder=encoder)
