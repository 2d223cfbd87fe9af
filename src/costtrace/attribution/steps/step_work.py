"""What a step had to do: who was in it, and how much work each of them was. Pure bookkeeping, no prices and no time.

`Membership` follows the journal's differences and yields a self-contained `StepWork` for each step: what the step model
is fitted on, what energy is distributed by, and what `accounts` charges.
"""

import msgspec

from costtrace.core.attention_reach import AttentionReach
from costtrace.core.cohort import CohortState, ReachCrossings
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
    """How far a sequence has been computed."""

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


class Membership(CohortState):
    """Who is in the batch of one engine: its cohort, and the state of each sequence."""

    step: int = msgspec.field(default=0, name="steps")
    states: dict[int, SequenceState] = msgspec.field(default_factory=dict, name="standings")
    """By slot."""
    ending: list[int] = msgspec.field(default_factory=list)
    """Slots that have finished, and may still be in a step in flight."""
    crossings: ReachCrossings | None = msgspec.field(default=None, name="passing")
    """Of a model in which layers have a sliding window."""

    def set_reach(self, reach: AttentionReach | None) -> None:
        """Before the first step: how far the model's layers look back."""
        self.crossings = None if reach is None else ReachCrossings(reach)

    def added(self, event: SequenceAdded) -> None:
        """A sequence is known."""
        self.states.setdefault(event.slot, SequenceState(event.prompt_tokens))

    def finished(self, event: SequenceFinished) -> None:
        """A sequence has ended; steps in flight may still hold it."""
        if (state := self.states.get(event.slot)) is not None and event.slot not in self.ending:
            state.last_step = event.last_step
            self.ending.append(event.slot)

    def resync(self, snapshot: Snapshot) -> None:
        """After a damaged stretch: believe the snapshot."""
        known, self.states = self.states, {}
        self.clear(self.crossings)
        for event in snapshot.open:
            self.states[event.slot] = known.get(event.slot) or SequenceState(event.prompt_tokens)
        self.ending = [slot for slot in self.ending if known[slot].last_step >= snapshot.next_index]
        for slot in self.ending:  # ended, and still in a step in flight
            self.states[slot] = known[slot]
        for state in self.states.values():
            state.entered_step = -1
        for slot, context in snapshot.cohort:
            if slot in self.states:
                self._enter(slot, self.states[slot], context)

    def certain_context(self, slot: int) -> int:
        """KV tokens that a sequence has, or had before it was preempted, for certain: rejected drafts are not in it."""
        state = self.states.get(slot)
        if state is None:
            return 0
        decoded = state.context + self.step - state.entered_step if state.entered_step >= 0 else 0
        return max(state.high_water, decoded)

    def take(self, step: Step) -> StepWork:
        """The work of *step*, which comes after the one that was taken before."""
        if not (step.leaves or step.enters or step.items or self.ending):  # a steady step: most are
            work = StepWork(step.index, (), (), (), self.count, self._read_tokens())
            self.advance(self.crossings)
            return work
        for slot in step.leaves:
            if (state := self.states.get(slot)) is not None:
                self._leave(slot, state)
        for slot in [slot for slot in self.ending if self.states[slot].last_step < step.index]:
            self.ending.remove(slot)
            self._leave(slot, self.states.pop(slot))
        for slot, context in step.enters:
            self._enter(slot, self._known(slot), context)
        done: list[int] = []
        encoded = dict(step.encoder) if step.encoder else {}
        items = tuple(
            self._item(slot, tokens, context, done, encoded.get(slot, 0)) for slot, tokens, context in step.items
        )
        work = StepWork(step.index, step.leaves, step.enters, items, self.count, self._read_tokens(), tuple(done))
        self.advance(self.crossings)
        return work

    def _read_tokens(self) -> int:
        return self.context if self.crossings is None else self.context // self.crossings.reach.units

    def _known(self, slot: int) -> SequenceState:
        return self.states.setdefault(slot, SequenceState(0))

    def _enter(self, slot: int, state: SequenceState, context: int) -> None:
        if state.entered_step >= 0:
            self._leave(slot, state)
        state.context, state.entered_step, state.last_tokens = context, self.step, 0
        self.enter(slot, context, self.crossings)

    def _leave(self, slot: int, state: SequenceState) -> None:
        if state.entered_step < 0:
            return
        state.context = self.leave(slot, state.context, state.entered_step, self.crossings)
        state.high_water = max(state.high_water, state.context)
        state.entered_step = -1

    def _item(self, slot: int, tokens: int, context: int, done: list[int], encoder: int) -> Item:
        state, reach = self._known(slot), None if self.crossings is None else self.crossings.reach
        self._leave(slot, state)
        if context + 2 * state.last_tokens < state.context:
            # Further back than rejected drafts can put it: it was preempted and starts over.
            state.recompute_until = state.high_water
        state.context = context + tokens
        if context >= max(state.prompt_tokens, state.recompute_until):
            # Of drafted tokens only the first is certain to stay.
            state.high_water = max(state.high_water, context + 1)
            state.last_tokens = tokens
            read = context if reach is None else reach.tokens(context)
            return Item(slot, tokens, read, 0, is_prefill=False, encoder=encoder)
        state.high_water = max(state.high_water, context + tokens)
        state.last_tokens = 0
        if not state.prompt_done and state.context >= state.prompt_tokens:
            state.prompt_done = True
            done.append(slot)
        again = max(0, min(context + tokens, state.recompute_until) - context)
        attention = tokens * context + tokens * tokens // 2 if reach is None else reach.attention(tokens, context)
        return Item(slot, tokens, 0, attention, is_prefill=True, again=again, encoder=encoder)
