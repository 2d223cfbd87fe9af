"""The journal's cohort: random batches through the encoder and back, against a reader that lists everybody."""

import random
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from costtrace.core.attention_reach import AttentionReach
from costtrace.core.cohort import CohortEncoder, CohortState, ReachCrossings
from costtrace.core.events import Step

seeds = st.integers(0, 2**32)
reaches = st.sampled_from([None, AttentionReach(1, 1, 30), AttentionReach(0, 1, 1), AttentionReach(3, 5, 10**6)])


class Part(NamedTuple):
    """Who takes part in a batch, and how."""

    name: str
    slot: int
    tokens: int
    context: int
    decodes: bool


def batches(seed, count=60):
    """Random batches. As in an engine, a context may fall short of one token a step, and is never ahead of it."""
    rng = random.Random(seed)
    contexts, number = {}, 0
    for _ in range(count):
        while len(contexts) < 8 and rng.random() < 0.4:
            number += 1
            contexts[f"s{number}"] = 0
        quiet = rng.random() < 0.5
        batch = []
        for name in list(contexts):
            context, slot = contexts[name], 100 + int(name[1:])
            if not quiet and rng.random() < 0.1:
                del contexts[name]
            elif not quiet and rng.random() < 0.1:
                pass  # it sits a step out
            elif context < 20 and rng.random() < 0.7:
                batch.append(Part(name, slot, rng.randrange(1, 20), context, decodes=False))
            else:
                if not quiet and rng.random() < 0.1:
                    context = rng.randrange(context + 1)  # preempted, or its drafts were rejected
                batch.append(Part(name, slot, 1 if rng.random() < 0.95 else 3, context, decodes=True))
        contexts |= {part.name: part.context + part.tokens for part in batch}
        if not quiet and rng.random() < 0.2:
            rng.shuffle(batch)
            contexts = {name: contexts[name] for name in sorted(contexts, key=lambda _: rng.random())}
        if batch:
            yield batch


def place(encoder, part):
    if part.decodes and part.tokens == 1:
        encoder.enter(part.name, part.slot, part.context)
    else:
        encoder.item(part.name, part.slot, part.tokens, part.context)


def encode_by_name(encoder, batch):
    """Nobody outside the cohort is predicted."""
    stay = {part.name: part.context for part in batch if part.decodes and part.tokens == 1}
    for name in list(encoder.members):
        if name in encoder.outside or stay.get(name) != encoder.context(name):
            encoder.leave(name)
    for part in batch:
        if part.name not in stay:
            encoder.items.append((part.slot, part.tokens, part.context))
        elif part.name not in encoder.members:
            encoder.enter(part.name, part.slot, part.context)


def encode(encoder, style, index, batch):
    """One batch, in one of the ways in which engines' translators do it."""
    names, tokens = [part.name for part in batch], sum(part.tokens for part in batch)
    as_predicted = sum(part.context for part in batch) == encoder.predicted()
    if encoder.order == names and tokens == len(batch) and as_predicted:
        encoder.turn += 1
        return Step(index, index, index + 1)
    beyond_one = sum(part.tokens - 1 for part in batch if part.name in encoder.outside)
    if style == "predict" and list(encoder.members) == names and as_predicted and tokens == len(batch) + beyond_one:
        for part in batch:
            if part.name in encoder.outside:
                place(encoder, part)
    elif style == "scatter":
        encoder.leave_all()
        encoder.items += [(part.slot, part.tokens, part.context) for part in batch]
    elif style == "name":
        encode_by_name(encoder, batch)
    else:
        encoder.compare()
        for part in batch:
            if not (part.decodes and part.tokens == 1 and encoder.stays(part.name, part.context)):
                place(encoder, part)
    step = encoder.close(index, index, index + 1)
    encoder.order = None if encoder.outside else list(encoder.members)
    return step


def steps(seed):
    """Each batch with its step and the encoder after it."""
    encoder, rng = CohortEncoder(), random.Random(seed + 1)
    for index, batch in enumerate(batches(seed)):
        style = rng.choice(("predict", "predict", "compare", "name", "scatter"))
        yield batch, encode(encoder, style, index, batch), encoder


def test_the_random_batches_hold_what_is_hard():
    kinds = {"steady": 0, "leaves": 0, "enters": 0, "items": 0, "enters again": 0}
    for seed in range(20):
        for _, step, _ in steps(seed):
            kinds["steady"] += not (step.leaves or step.enters or step.items)
            kinds["leaves"] += bool(step.leaves)
            kinds["enters"] += bool(step.enters)
            kinds["items"] += bool(step.items)
            kinds["enters again"] += bool({slot for slot, _ in step.enters} & set(step.leaves))
    assert min(kinds.values()) >= 10, kinds


class Lister:
    """A reader that keeps the context of every member, and adds one to each after each step."""

    def __init__(self):
        self.contexts = {}

    def take(self, step):
        for slot in step.leaves:
            assert slot in self.contexts, "only a member leaves"
            del self.contexts[slot]
        for slot, context in step.enters:
            assert slot not in self.contexts, "a member does not enter"
            self.contexts[slot] = context
        seen = {slot: (1, context) for slot, context in self.contexts.items()}
        for slot, tokens, context in step.items:
            assert slot not in seen, "nobody is in a step twice"
            seen[slot] = (tokens, context)
        return seen

    def advance(self):
        self.contexts = {slot: context + 1 for slot, context in self.contexts.items()}


@settings(max_examples=200, deadline=None)
@given(seeds)
def test_a_reader_that_lists_everybody_finds_each_batch_as_it_was(seed):
    lister = Lister()
    for batch, step, encoder in steps(seed):
        assert not set(step.enters) & lister.contexts.items(), "who goes on as predicted is not repeated"
        assert lister.take(step) == {part.slot: (part.tokens, part.context) for part in batch}
        lister.advance()
        assert dict(encoder.cohort()) == lister.contexts
        expected = {part.name: part.context + part.tokens for part in batch if part.name in encoder.members}
        assert {name: encoder.context(name) for name in encoder.members} == expected
        assert encoder.predicted() == sum(expected.values())


@settings(max_examples=200, deadline=None)
@given(seeds, reaches)
def test_the_sums_of_a_reader_are_those_over_all_members(seed, reach):
    lister, cohort, entered = Lister(), CohortState(), {}
    crossings = None if reach is None else ReachCrossings(reach)
    for _, step, _ in steps(seed):
        before = dict(lister.contexts)
        lister.take(step)
        for slot in step.leaves:
            assert cohort.leave(slot, *entered.pop(slot), crossings) == before[slot]
        for slot, context in step.enters:
            cohort.enter(slot, context, crossings)
            entered[slot] = (context, cohort.step)
        contexts = lister.contexts
        assert cohort.count == len(contexts)
        assert cohort.context == sum(map(reach.read, contexts.values()) if reach else contexts.values())
        crossed = cohort.advance(crossings)
        lister.advance()
        if reach is None:
            assert (crossed, cohort.capped) == ((), 0)
            continue
        assert sorted(crossed) == sorted(s for s, context in lister.contexts.items() if context == reach.window)
        assert cohort.capped == sum(context >= reach.window for context in lister.contexts.values())
        due = {slot: at for at, slots in crossings.due.items() for slot in slots}
        below = {slot: context for slot, context in lister.contexts.items() if context < reach.window}
        assert due == {slot: cohort.step + reach.window - context for slot, context in below.items()}


@settings(max_examples=50, deadline=None)
@given(seeds, reaches, st.integers(0, 40))
def test_a_reader_that_begins_again_at_a_snapshot_goes_on_as_if_it_had_never_been_away(seed, reach, at):
    followed, lister = CohortEncoder(), Lister()
    cohort, crossings = CohortState(), None if reach is None else ReachCrossings(reach)
    entered = {}
    for number, (_, step, _) in enumerate(steps(seed)):
        lister.take(step)
        lister.advance()
        followed.follow(step)
        assert dict(followed.cohort()) == lister.contexts
        if number == at:
            cohort.enter(-1, 5, crossings)  # whatever it believed until then
            cohort.clear(crossings)
            for slot, context in followed.cohort():
                cohort.enter(slot, context, crossings)
                entered[slot] = (context, cohort.step)
        elif number > at:
            for slot in step.leaves:
                cohort.leave(slot, *entered.pop(slot), crossings)
            for slot, context in step.enters:
                cohort.enter(slot, context, crossings)
                entered[slot] = (context, cohort.step)
            cohort.advance(crossings)
            assert cohort.context == sum(
                map(reach.read, lister.contexts.values()) if reach else lister.contexts.values()
            )


def test_an_abandoned_batch_leaves_nothing_behind_and_everybody_enters_again():
    encoder, lister = CohortEncoder(), Lister()
    both = [Part("a", 1, 1, 7, decodes=True), Part("b", 2, 1, 9, decodes=True)]
    lister.take(encode(encoder, "compare", 0, both))
    encoder.compare()
    encoder.stays("a", 8)
    encoder.enter("c", 3, 4)
    encoder.abandon([1, 2])
    assert (encoder.enters, encoder.items, encoder.leaves, encoder.cohort()) == ([], [], [1, 2], ())
    step = encode(encoder, "predict", 2, [part._replace(context=part.context + 2) for part in both])
    assert (step.leaves, step.enters, step.items) == ((1, 2), ((1, 9), (2, 11)), ())


def test_a_snapshot_can_leave_out_who_has_ended():
    encoder = CohortEncoder()
    encode(encoder, "compare", 0, [Part("a", 1, 1, 7, decodes=True), Part("b", 2, 1, 9, decodes=True)])
    assert encoder.cohort(lambda name: name != "a") == ((2, 10),)
