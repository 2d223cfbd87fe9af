"""Counters against the naive loop over the batch: the same payments, and not a part of a nanosecond lost."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costtrace.attribution.shares.virtual_time import HEAD, ONE, SHIFT, Cohort, CostCounter, ItemUse, Rounder
from costtrace.attribution.steps.prices import Prices

price = st.floats(0, 1e3, allow_subnormal=False)
prices = st.builds(Prices, price, price, price, price, price, st.just("any"), *[price] * 5)
usages = st.builds(
    ItemUse,
    st.integers(1, 4_096),
    st.integers(0, 100_000),
    st.integers(0, 10**9),
    st.sampled_from([HEAD, HEAD // 2]),
    st.floats(0, 50, allow_subnormal=False),
    st.integers(0, 5_000),
    st.integers(0, 1),
    st.floats(-2_000, 2_000, allow_subnormal=False),
)
steps = st.lists(
    st.fixed_dictionaries(
        {
            "enter": st.lists(st.tuples(st.integers(0, 100_000), st.sampled_from([HEAD, HEAD // 3])), max_size=3),
            "leave": st.integers(0, 5),
            "total": st.integers(0, 10**10),
            "items": st.lists(usages, max_size=4),
            "prices": prices,
        }
    ),
    max_size=40,
)


class Naive:
    """Every member's payment, step by step: O(batch), in whole fixed-point parts."""

    def __init__(self):
        self.members = {}

    def charge(self, before, clock):
        per_weight, per_member, per_context = clock.h - before.h, clock.a - before.a, clock.b - before.b
        for member in self.members.values():
            member["paid"] += member["weight"] * per_weight + per_member + per_context * member["context"]
            member["context"] += 1


def enter(cohort, slot, context, weight=HEAD):
    cohort.enter(slot, context, None)
    cohort.weight += weight


def exact_shares(total, carry, members, items, p):
    """Fractions, with no rounding at all: what each pays of a step, members first."""
    head, sequence, token, context, attention = (Fraction(x) for x in p[:5])
    expert, encoder, prompt, decode, beyond = (Fraction(x) for x in p[6:])
    each = sequence + token + expert + decode
    weights = [head * m["weight"] / HEAD + each + context * m["context"] for m in members]
    weights += [
        head * i.weight / HEAD
        + sequence
        + max(0, token * i.tokens + beyond * Fraction(i.beyond))
        + context * i.context
        + attention * i.attention
        + expert * Fraction(i.expert)
        + encoder * i.encoder
        + (prompt if i.prompt else decode)
        for i in items
    ]
    amount = total * ONE + carry
    if not sum(weights):
        return [Fraction(amount, len(weights))] * len(weights) if weights else []
    return [amount * w / sum(weights) for w in weights]


def play(script):
    """Yield after each step: (clock before, clock, naive, total, items' parts, script entry, exact shares)."""
    clock, cohort, naive = CostCounter(), Cohort(), Naive()
    marks, names = {}, 0
    given_out = paid = 0
    for entry in script:
        for context, weight in entry["enter"]:
            enter(cohort, names, context, weight)
            marks[names] = (cohort.step, context, clock.mark(), weight)
            naive.members[names] = {"paid": 0, "context": context, "weight": weight}
            names += 1
        for name in list(naive.members)[: entry["leave"]]:
            step, context, mark, weight = marks.pop(name)
            owed = clock.owed(mark, step, context, weight)
            assert owed == naive.members.pop(name)["paid"]
            paid += owed
            cohort.leave(name, context, step, None)
            cohort.weight -= weight
        before, members = clock.mark(), [dict(m) for m in naive.members.values()]
        shares = exact_shares(entry["total"], clock.carry, members, entry["items"], entry["prices"])
        parts = clock.charge(entry["total"], cohort, entry["items"], entry["prices"])
        naive.charge(before, clock)
        cohort.advance(None)
        paid += sum(parts)
        given_out += entry["total"] << SHIFT
        after = [m["paid"] for m in naive.members.values()]
        yield (
            shares,
            [a - b["paid"] for a, b in zip(after, members, strict=True)] + parts,
            given_out,
            paid,
            clock,
            marks,
        )


@given(steps)
def test_the_counters_say_what_a_loop_over_the_batch_says_and_nothing_is_lost(script):
    for _shares, _paid_now, given_out, paid, clock, marks in play(script):
        owed = sum(clock.owed(mark, step, context, weight) for step, context, mark, weight in marks.values())
        assert paid + owed + clock.carry == given_out


@given(steps)
def test_each_pays_its_share_to_within_float_rounding(script):
    for shares, paid_now, *_ in play(script):
        total = sum(shares)
        for exact, paid in zip(shares, paid_now, strict=True):
            # 2**-48 of the step, and for each participant (and each KV token of it) one fixed-point part.
            assert abs(exact - paid) <= total / 2**46 + 2**22


@given(st.lists(usages, min_size=1, max_size=6), st.integers(0, 10**10), prices, st.randoms(use_true_random=False))
def test_the_order_of_the_batch_does_not_matter(items, total, p, rng):
    order = list(range(len(items)))
    rng.shuffle(order)
    parts = CostCounter().charge(total, Cohort(), items, p)
    shuffled = CostCounter().charge(total, Cohort(), [items[i] for i in order], p)
    for place, i in enumerate(order):
        assert abs(parts[i] - shuffled[place]) <= (total << SHIFT) / 2**46 + len(items)


@given(st.integers(0, 10**5), st.integers(0, 9), st.lists(st.tuples(st.integers(0, 10**9), prices), max_size=20))
def test_equal_members_pay_exactly_the_same_whenever_they_came(context, later, script):
    clock, cohort = CostCounter(), Cohort()
    enter(cohort, 1, context)
    for total, p in script[:later]:
        clock.charge(total, cohort, [], p)
        cohort.advance(None)
    grown = context + cohort.step
    enter(cohort, 2, grown)
    mark, step = clock.mark(), cohort.step
    for total, p in script[later:]:
        clock.charge(total, cohort, [], p)
        cohort.advance(None)
    assert clock.owed(mark, 0, context) == clock.owed(mark, step, grown)


@given(usages, usages, st.integers(0, 10**10), prices)
def test_two_equal_items_pay_the_same_up_to_what_rounding_leaves_of_the_step(item, other, total, p):
    first, _, third = CostCounter().charge(total, Cohort(), [item, other, item], p)
    assert abs(first - third) <= 3 + (total << SHIFT) / 2**50


@given(st.integers(1, 2_000), st.integers(1, 2_000), usages, st.integers(0, 10**10), prices)
def test_splitting_a_prompt_in_two_changes_nothing_at_prices_for_tokens_and_work_alone(one, two, other, total, p):
    p = p._replace(sequence=0.0, expert=0.0, decode=0.0, beyond=0.0)
    whole = CostCounter().charge(total, Cohort(), [ItemUse(one + two, 0, 10 * (one + two)), other], p)
    parts = [ItemUse(one, 0, 10 * one, HEAD // 2), ItemUse(two, 0, 10 * two, HEAD // 2), other]
    if p.head == p.token == p.attention == p.context == p.encoder == 0:
        return  # equal shares: by head count, and splitting is seen
    split = CostCounter().charge(total, Cohort(), parts, p)
    assert abs(split[0] + split[1] - whole[0]) <= 4 + (total << SHIFT) / 2**46


@pytest.mark.parametrize("members", [0, 1, 3])
def test_prices_of_nothing_mean_equal_shares(members):
    clock, cohort = CostCounter(), Cohort()
    for slot in range(members):
        enter(cohort, slot, 100)
    mark = clock.mark()
    nothing = Prices(0.0, 0.0, 0.0, 0.0, 0.0, "equal")
    parts = clock.charge(12, cohort, [ItemUse(5, 0, 0)], nothing)
    cohort.advance(None)
    assert parts == [12 * ONE // (members + 1)]
    if members:
        assert clock.owed(mark, 0, 100) == parts[0]


def test_a_step_without_anybody_is_carried_whole():
    clock = CostCounter()
    assert clock.charge(7, Cohort(), [], Prices(1.0, 1.0, 1.0, 1.0, 1.0, "any")) == []
    assert clock.carry == 7 * ONE


@given(st.lists(st.integers(0, 5 * ONE), max_size=50))
def test_whole_units_are_the_floor_of_the_running_sum_at_every_point(parts):
    rounder = Rounder()
    given_out = exact = 0
    for part in parts:
        given_out += rounder.whole(part)
        exact += part
        assert given_out == exact >> SHIFT
    assert rounder.pool == exact - (given_out << SHIFT)
