"""The cohort: the sequences that decode one token a step, and how a journal says who they are.

A steady decode step is a few bytes because the journal writes only differences. The protocol of `Step`:

1. A member computes one token a step and its context (the KV tokens it reads) grows by one a step. Neither is repeated.
2. ``leaves`` come first: slots that are no longer members, from this step on. A non-member's leave is ignored.
3. ``enters`` come next: ``(slot, context)``, the context being what it reads in this step. One whose context is not the
   predicted one (rejected drafts, a preemption, lost steps) leaves and enters in one step.
4. ``items`` are all other sequences in the step: ``(slot, tokens, context)``. An item is not a member, whatever it was.
5. When the step is over, every member's context is one more. Steps count in the order in which they are written; a step
   that nobody was in is not written.
6. A sequence that has ended (`SequenceFinished`) is a member up to its last step, and is out with the first step after
   that, whether or not ``leaves`` names it.
7. `Snapshot.cohort` lists all members with the contexts of the next step: a reader that has missed steps begins there.

`CohortEncoder` writes it, for every engine. `CohortState` reads it, for attribution: sums over the members, at a cost
per change and not per member. Attribution follows twice, because energy is known later than the step, so that two
states exist; both apply a step's differences by this class.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from costtrace.core.attention_reach import AttentionReach
from costtrace.core.events import Step

Key = TypeVar("Key", bound=Hashable)
"""What an engine calls a sequence in its batches: its own id, or the slot itself."""


class CohortEncoder(Generic[Key]):
    """Who was in an engine's last step, what is expected of them in the next one, and what the next `Step` says.

    For each batch a translator calls any of `leave`, `enter`, `item`, `compare` and then `close`. Most batches are the
    cohort alone and as predicted: for those it adds one to `turn` and writes a `Step` without differences, at the cost
    of a few comparisons in its own loop.
    """

    __slots__ = ("_before", "base_sum", "enters", "items", "leaves", "members", "order", "outside", "turn")

    def __init__(self) -> None:
        self.turn = 0
        """Steps so far."""
        self.members: dict[Key, tuple[int, int]] = {}
        """The sequences of the last step, in order: slot, and the context expected in the next one less `turn`."""
        self.outside: dict[Key, None] = {}
        """Of `members`, those who were items: they are predicted as well, but are not in the cohort."""
        self.base_sum = 0
        """Sum of the second values of `members`."""
        self.order: list[Key] | None = None
        """`members` as the engine lists them, if all are in the cohort. None: not known.

        For translators that compare lists: set by them after `close`, cleared by whatever changes the members.
        """
        self.leaves: list[int] = []
        """The differences of the next step: `leaves`, `enters`, `items`."""
        self.enters: list[tuple[int, int]] = []
        self.items: list[tuple[int, int, int]] = []
        self._before: dict[Key, tuple[int, int]] = {}
        """Between `compare` and `close`: the cohort of the step before, less those who have been found to stay."""

    def predicted(self) -> int:
        """Sum of the contexts expected of all `members` in the next step, in KV tokens."""
        return self.base_sum + self.turn * len(self.members)

    def context(self, key: Key) -> int:
        """KV tokens that *key* is expected to read in the next step; 0 if it was not in the last one."""
        member = self.members.get(key)
        return 0 if member is None else member[1] + self.turn

    def cohort(self, is_open: Callable[[Key], bool] | None = None) -> tuple[tuple[int, int], ...]:
        """For `Snapshot.cohort`: slot and next context of each member, of those only for whom *is_open* holds."""
        return tuple(
            (slot, base + self.turn)
            for key, (slot, base) in self.members.items()
            if key not in self.outside and (is_open is None or is_open(key))
        )

    # -- a batch ------------------------------------------------------------------------------------------------------

    def leave(self, key: Key) -> int:
        """Take *key* out of the batch; what was expected of its context, or -1 if it was not in it."""
        member = self.members.pop(key, None)
        if member is None:
            return -1
        slot, base = member
        self.base_sum -= base
        self.order = None
        if key in self.outside:
            del self.outside[key]
        else:
            self.leaves.append(slot)
        return base + self.turn

    def leave_all(self) -> None:
        """Take everybody out of the batch."""
        self.leaves += [slot for key, (slot, _) in self.members.items() if key not in self.outside]
        self._clear()

    def enter(self, key: Key, slot: int, context: int) -> None:
        """*key*, not in the cohort so far, computes one token in this step; *context* tokens are there before it."""
        base, old = context - self.turn, self.members.get(key)
        self.members[key] = slot, base
        if old is None:
            self.base_sum += base
        else:
            self.base_sum += base - old[1]
            self.outside.pop(key, None)
        self.enters.append((slot, context))

    def item(self, key: Key, slot: int, tokens: int, context: int) -> None:
        """*key* takes part outside the cohort; it is predicted to go on where it ends, one token more a step.

        A translator that does not want it predicted appends to `items` itself.
        """
        base, old = context + tokens - 1 - self.turn, self.members.get(key)
        self.base_sum += base if old is None else base - old[1]
        self.members[key] = slot, base
        self.outside[key] = None
        self.items.append((slot, tokens, context))

    def compare(self) -> None:
        """The batch is worked out from the beginning: only those for whom `stays` is called can stay."""
        self._before = {key: member for key, member in self.members.items() if key not in self.outside}
        self._clear()

    def stays(self, key: Key, context: int) -> bool:
        """After `compare`: whether *key*, with one token and *context*, is as predicted. If so it stays a member."""
        member = self._before.get(key)
        if member is None or member[1] != context - self.turn:
            return False
        self.members[key] = self._before.pop(key)
        self.base_sum += member[1]
        return True

    def close(self, index: int, scheduled_ns: int, done_ns: int, encoder: tuple[tuple[int, int], ...] = ()) -> Step:
        """The batch is complete: its step. *encoder*: as in `Step`."""
        if self._before:
            self.leaves += [slot for slot, _ in self._before.values()]
            self._before = {}
        leaves, enters, items = self.leaves, self.enters, self.items
        step = Step(index, scheduled_ns, done_ns, tuple(leaves), tuple(enters), tuple(items), encoder)
        for changes in (leaves, enters, items):
            changes.clear()
        self.order = None
        self.turn += 1
        return step

    def abandon(self, leaves: Iterable[int]) -> None:
        """A batch could not be read: begin again with nobody. *leaves*: slots that readers may have in the cohort."""
        self._clear()
        self._before, self.enters, self.items = {}, [], []
        self.leaves = list(leaves)

    def follow(self: "CohortEncoder[int]", step: Step) -> None:
        """Take over a step that somebody else has encoded, for `cohort` to know the members. Keys are slots."""
        for slot in step.leaves:
            self.members.pop(slot, None)
        for slot, context in step.enters:
            self.members[slot] = slot, context - self.turn
        for slot, _, _ in step.items:
            self.members.pop(slot, None)
        self.turn += 1

    def _clear(self) -> None:
        self.members, self.outside, self.base_sum, self.order = {}, {}, 0, None


class ReachCrossings(msgspec.Struct):
    """When the members of a cohort that are below the window reach it. Kept beside a `CohortState`, if layers have one.

    Beside and not inside, because that is where states of released versions have it.
    """

    reach: AttentionReach = msgspec.field(name="span")
    due: dict[int, list[int]] = {}
    """Step -> slots."""

    def enter(self, slot: int, context: int, step: int) -> bool:
        """It decodes from *step* on, with *context* in that step. Whether it has reached the window by then."""
        if context >= self.reach.window:
            return True
        self.due.setdefault(step + self.reach.window - context, []).append(slot)
        return False

    def leave(self, slot: int, context: int, step: int) -> bool:
        """It would have read *context* in *step* and is out. Whether it had reached the window."""
        if context >= self.reach.window:
            return True
        at = step + self.reach.window - context
        self.due[at].remove(slot)
        if not self.due[at]:
            del self.due[at]
        return False

    def take(self, step: int) -> list[int]:
        """Who has reached the window with the beginning of *step*."""
        return self.due.pop(step, [])


class CohortState(msgspec.Struct):
    """A reader's cohort: sums over its members. Its owner keeps, for each member, what it entered with.

    *crossings* is None for a model whose layers see all of the context; else it is always the same one.
    """

    count: int = 0
    """Members."""
    context: int = 0
    """What they read together in the next step: KV tokens; with crossings, units of their `AttentionReach`."""
    capped: int = 0
    """Members whose context has reached the window."""
    step: int = 0
    """Steps so far."""

    def enter(self, slot: int, context: int, crossings: ReachCrossings | None) -> None:
        """*slot* joins before the next step, in which it reads *context* KV tokens."""
        self.count += 1
        if crossings is None:
            self.context += context
        else:
            self.context += crossings.reach.read(context)
            self.capped += crossings.enter(slot, context, self.step)

    def leave(self, slot: int, context: int, entered_step: int, crossings: ReachCrossings | None) -> int:
        """*slot*, which entered with *context* at *entered_step*, leaves before the next step. Its KV tokens now."""
        context += self.step - entered_step
        self.count -= 1
        if crossings is None:
            self.context -= context
        else:
            self.context -= crossings.reach.read(context)
            self.capped -= crossings.leave(slot, context, self.step)
        return context

    def advance(self, crossings: ReachCrossings | None) -> Sequence[int]:
        """The step is over: every context has grown by one. The slots that have reached the window by that."""
        self.step += 1
        self.context += self.count
        if crossings is None:
            return ()
        reach = crossings.reach
        self.context += self.count * (reach.units - 1) - self.capped * reach.sliding
        crossed = crossings.take(self.step)
        self.capped += len(crossed)
        return crossed

    def clear(self, crossings: ReachCrossings | None) -> None:
        """Nobody is in it any more: what a snapshot says comes next. `step` goes on counting."""
        self.count = self.context = self.capped = 0
        if crossings is not None:
            crossings.due = {}
