"""Engines on common devices: each instant of a device is given out once, and it does not matter when time is swept."""

import random
from itertools import pairwise

import msgspec
import pytest
from attributed import attribute, by_engine, check, given_ns
from balance import union_ns
from costtrace_lab.engines import Profile, random_life
from hypothesis import given
from hypothesis import strategies as st

from costtrace.attribution.time.shared_devices import merged
from costtrace.core.events import EngineStopped
from costtrace.core.units import NS_PER_S

DEVICES = ("GPU-0", "GPU-1", "GPU-2")


def engines(seed, count=3, rounds=25):
    """Lives that begin, are announced and end at all sorts of times, on all sorts of devices."""
    rng = random.Random(seed)
    lives = {}
    for n in range(count):
        begun = NS_PER_S + rng.randrange(3 * NS_PER_S)
        life = random_life(
            seed * 100 + n,
            rounds=rng.randrange(1, rounds),
            devices=tuple(rng.sample(DEVICES, rng.randrange(1, 4))),
            started_ns=begun,
            announced_ns=begun + rng.choice([0, 1, NS_PER_S, 3 * NS_PER_S]),
            profile=Profile(depth=rng.choice([1, 2])),
            says_goodbye=rng.random() < 0.7,
        )
        lives[life.engine_id] = life.events
    return lives


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_grants_of_a_device_are_the_union_of_its_engines_lives(seed, count):
    rows, engine_rows = attribute(engines(seed, count))
    check(rows, engine_rows)


@given(st.integers(0, 10_000), st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_rows_are_the_same_however_often_and_whenever_one_sweeps(seed, count, rng):
    lives = engines(seed, count)
    at_once = attribute(lives)
    chance = rng.choice([0.02, 0.2, 1.0])
    live = attribute(lives, sweep_at=lambda _: rng.random() < chance)
    assert by_engine(live[0]) == by_engine(at_once[0])
    assert sorted(live[1], key=str) == sorted(at_once[1], key=str)


@given(st.integers(0, 10_000), st.integers(1, 4), st.randoms(use_true_random=False))
def test_an_agent_that_is_killed_anywhere_goes_on_to_the_same_rows(seed, count, rng):
    lives = engines(seed, count, rounds=15)
    killed = attribute(lives, sweep_at=lambda _: rng.random() < 0.1, save=True)
    assert by_engine(killed[0]) == by_engine(attribute(lives)[0])


@given(st.integers(0, 10_000))
def test_the_order_in_which_journals_are_found_does_not_matter(seed):
    lives = engines(seed)
    backwards = dict(reversed(lives.items()))
    assert by_engine(attribute(lives)[0]) == by_engine(attribute(backwards)[0])


@given(st.integers(0, 10_000))
def test_an_engine_with_devices_to_itself_has_all_of_their_time(seed):
    life = random_life(seed, rounds=20, devices=("GPU-8", "GPU-9"))
    rows, _ = attribute({life.engine_id: life.events, **engines(seed + 1, 2)})
    mine = [m for m in rows.meter if m.engine_id == life.engine_id]
    assert not any(m.shared for m in mine)
    assert by_engine(rows)[life.engine_id] == by_engine(attribute({life.engine_id: life.events})[0])[life.engine_id]


def test_engines_that_are_never_there_together_do_not_share():
    one = random_life(1, rounds=30, announced_ns=2 * NS_PER_S)
    begun = one.events[-1].at_ns + NS_PER_S
    two = random_life(2, rounds=30, started_ns=begun, announced_ns=begun + NS_PER_S)
    rows, engine_rows = attribute({one.engine_id: one.events, two.engine_id: two.events}, window_ns=3_600 * NS_PER_S)
    check(rows, engine_rows)
    assert not any(m.shared for m in rows.meter)


def test_an_engine_restarted_on_its_device_begins_where_the_other_ended_or_at_its_own_start():
    one = random_life(1, rounds=30, announced_ns=2 * NS_PER_S)
    end = one.events[-1].at_ns
    # It began to load while the first still served: of that time it can get nothing that was given out before.
    two = random_life(2, rounds=30, started_ns=end - NS_PER_S // 2, announced_ns=end + NS_PER_S)
    lives = {one.engine_id: one.events, two.engine_id: two.events}
    rows, engine_rows = attribute(lives)
    check(rows, engine_rows)
    early = [m for m in rows.meter if m.engine_id == two.engine_id and m.start_ns < end]
    assert all(m.shared for m in early)
    assert sum(given_ns(m) for m in rows.meter if m.engine_id == one.engine_id) == end - NS_PER_S


@pytest.mark.parametrize("live", [True, False])
def test_an_engine_that_came_and_went_while_another_was_loading_takes_only_its_own_time(live):
    guest = random_life(1, rounds=5, started_ns=5 * NS_PER_S, announced_ns=6 * NS_PER_S)
    slow = random_life(2, rounds=5, started_ns=NS_PER_S, announced_ns=600 * NS_PER_S)
    assert guest.events[-1].at_ns < 600 * NS_PER_S
    rows, engine_rows = attribute(
        {guest.engine_id: guest.events, slow.engine_id: slow.events}, sweep_at=(lambda _: True) if live else None
    )
    check(rows, engine_rows)
    mine = sum(given_ns(m) for m in rows.meter if m.engine_id == slow.engine_id)
    whole = slow.events[-1].at_ns - NS_PER_S
    assert mine == whole - (guest.events[-1].at_ns - 5 * NS_PER_S)


def test_a_late_engine_that_connects_two_groups_shares_with_both():
    one = random_life(1, rounds=60, devices=("GPU-0",))
    two = random_life(2, rounds=60, devices=("GPU-1",))
    both = random_life(3, rounds=20, devices=("GPU-0", "GPU-1"), started_ns=4 * NS_PER_S, announced_ns=4 * NS_PER_S)
    lives = {life.engine_id: life.events for life in (one, two, both)}
    rows, engine_rows = attribute(lives, sweep_at=lambda n: n % 7 == 0)
    check(rows, engine_rows)
    for life in (one, two):
        mine = [m for m in rows.meter if m.engine_id == life.engine_id]
        assert {m.shared for m in mine} == {True, False}
    assert by_engine(rows) == by_engine(attribute(lives)[0])


def test_two_equal_busy_engines_get_half_of_the_device_each_to_the_nanosecond():
    life = random_life(1, rounds=50)
    twin = msgspec.structs.replace(life.events[0], engine_id="twin")
    rows, engine_rows = attribute({life.engine_id: life.events, "twin": [twin, *life.events[1:]]})
    check(rows, engine_rows)
    halves = [sum(given_ns(m) for m in rows.meter if m.engine_id == e) for e in (life.engine_id, "twin")]
    pre_announcement = 2 * NS_PER_S  # loading, before either was known: the first to be known has it
    assert abs(max(halves) - min(halves) - pre_announcement) <= len(life.events)


def test_nothing_is_said_of_an_engine_after_its_end():
    life = random_life(1, rounds=10)
    rows, engine_rows = attribute(
        {life.engine_id: [*life.events, EngineStopped(life.events[-1].at_ns + 10**9), *life.events[3:]]}
    )
    check(rows, engine_rows)
    assert engine_rows[0].ended_ns == life.events[-1].at_ns


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted).map(tuple), max_size=12))
def test_merged_intervals_are_the_same_union(intervals):
    union = merged(intervals)
    assert union_ns(union) == union_ns(intervals)
    assert all(one[1] < two[0] for one, two in pairwise(union))
