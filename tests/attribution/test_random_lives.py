"""A random engine's life against the scheduler that made it: who pays, how much, and that it all adds up."""

from collections import defaultdict
from fractions import Fraction

import pytest
from attributed import attribute, by_engine, check, sums
from costtrace_lab.engines import Profile, random_life
from hypothesis import given
from hypothesis import strategies as st

from costtrace.attribution.engine import Policy
from costtrace.core.events import Delivered, SequenceAdded, SequenceFinished, Step
from costtrace.core.units import NS_PER_S

seeds = st.integers(0, 100_000)
profiles = st.sampled_from(
    [
        Profile(),
        Profile(depth=2),
        Profile(depth=2, arrivals=1.5, preempt=0.2, abort=0.1),
        Profile(speculative=1.0, skip=0.2),
        Profile(several=1.0, cached=1.0, stop_string=0.5),
        Profile(arrivals=0.05, pause=0.5, dummy=0.3, zero_length=0.5),
    ]
)
policies = st.sampled_from(
    [
        Policy(method, head)
        for method in ("roofline", "affine", "tokens", "equal")
        for head in ("request", "sequence", "tenant")
    ]
)


@given(
    seeds, profiles, policies, st.sampled_from([1, 2, 3]), st.sampled_from([NS_PER_S // 10, NS_PER_S, 60 * NS_PER_S])
)
def test_everything_adds_up_in_every_window_whatever_the_policy(seed, profile, policy, devices, window_ns):
    life = random_life(seed, rounds=60, profile=profile, devices=tuple(f"GPU-{n}" for n in range(devices)))
    rows, engines = attribute({life.engine_id: life.events}, policy=policy, window_ns=window_ns)
    check(rows, engines)
    assert sum(sums(rows).values()) == devices * (life.events[-1].at_ns - engines[0].started_ns)


@given(seeds, profiles, st.randoms(use_true_random=False))
def test_a_state_that_is_saved_and_restored_anywhere_goes_on_to_the_same_rows(seed, profile, rng):
    lives = {(life := random_life(seed, rounds=30, profile=profile)).engine_id: life.events}
    restored = attribute(lives, sweep_at=lambda _: rng.random() < 0.2, save=True)
    assert by_engine(restored[0]) == by_engine(attribute(lives)[0])


@given(seeds, profiles, st.floats(0, 1))
def test_an_engine_that_is_killed_anywhere_leaves_a_bill_that_adds_up(seed, profile, where):
    life = random_life(seed, rounds=40, profile=profile)
    events = life.upto(3 + int(where * (len(life.events) - 3)))
    rows, engines = attribute({life.engine_id: events})
    check(rows, engines)
    ended = {e.slot for e in events if isinstance(e, (SequenceFinished, Delivered))}
    for record in rows.records:
        slots = {e.slot for e in events if isinstance(e, SequenceAdded) and e.request_key == record.request_key}
        if events[-1] is not life.events[-1]:
            assert ("interrupted" in record.finish_reasons) == bool(slots - ended)


@given(seeds, profiles)
def test_every_request_is_there_once_with_its_tokens_and_its_end(seed, profile):
    life = random_life(seed, rounds=60, profile=profile)
    rows, _ = attribute({life.engine_id: life.events})
    added, ends, delivered = defaultdict(list), {}, {}
    for event in life.events:
        if isinstance(event, SequenceAdded):
            added[event.request_key].append(event)
        elif isinstance(event, SequenceFinished):
            ends[event.slot] = (event.reason, event.output_tokens)
        elif isinstance(event, Delivered):
            delivered[event.slot] = (event.reason, event.output_tokens)
    assert sorted(r.request_key for r in rows.records) == sorted(added)
    for record in rows.records:
        sequences = added[record.request_key]
        last = [delivered.get(a.slot, ends.get(a.slot)) for a in sequences]
        assert record.input_tokens == sequences[0].prompt_tokens
        assert (record.tenant, record.sequences) == (sequences[0].tenant, len(sequences))
        assert record.steps == sum(life.engine.sequences[a.slot].steps for a in sequences)
        if None not in last:
            assert sorted(record.finish_reasons) == sorted(reason for reason, _ in last)
            assert record.output_tokens == sum(tokens for _, tokens in last)


def naive_bill(events):
    """Method `tokens` without any cleverness: each step's time by its tokens, in fractions, request by request."""
    cohort, owed, until, key = {}, defaultdict(Fraction), 0, {}
    for event in events:
        if isinstance(event, SequenceAdded):
            key[event.slot] = event.request_key
        until = max(until, getattr(event, "to_ns", 0))
        if not isinstance(event, Step):
            continue
        for slot in event.leaves:
            cohort.pop(slot, None)
        cohort |= {slot: 1 for slot, _ in event.enters}
        tokens = cohort | {slot: n for slot, n, _ in event.items}
        for slot, n in tokens.items():
            time_ns = max(0, event.done_ns - max(until, event.scheduled_ns))
            owed[key[slot]] += Fraction(time_ns * n, sum(tokens.values()))
        until = max(until, event.done_ns)
    return owed


@given(seeds, profiles)
def test_requests_pay_what_a_plain_loop_over_every_batch_says(seed, profile):
    life = random_life(seed, rounds=60, profile=profile)
    rows, _ = attribute({life.engine_id: life.events}, policy=Policy("tokens"))
    owed = naive_bill(life.events)
    postings = defaultdict(int)
    for posting in rows.postings:
        postings[posting.record_id] += 1
    for record in rows.records:
        # Each posting's two phases are rounded to whole ns, carrying what the ones before left over.
        assert abs(record.gpu_ns - owed[record.request_key]) <= 2 * postings[record.record_id] + 1


@given(seeds)
def test_only_preempted_late_and_aborted_work_is_wasted(seed):
    life = random_life(seed, rounds=60, profile=Profile(preempt=0.1, abort=0.05, stop_string=0.0))
    rows, _ = attribute({life.engine_id: life.events}, policy=Policy("tokens"))
    again = defaultdict(int)
    for event in life.events:
        if isinstance(event, SequenceAdded):
            again[event.request_key] += life.engine.sequences[event.slot].tokens_again
    for record in rows.records:
        if set(record.finish_reasons) & {"abort", "interrupted"}:
            assert record.sequences > 1 or record.wasted_ns == record.gpu_ns
        elif not again[record.request_key]:
            assert record.wasted_ns == 0
    assert any(again.values()) == any(s.tokens_again for s in life.engine.sequences.values())


def test_recomputed_work_shows_as_wasted_in_proportion_to_its_tokens():
    life = random_life(5, rounds=300, profile=Profile(preempt=0.2, abort=0, stop_string=0, speculative=0, several=0))
    rows, _ = attribute({life.engine_id: life.events}, policy=Policy("tokens"))
    preempted = {
        e.request_key
        for e in life.events
        if isinstance(e, SequenceAdded) and life.engine.sequences[e.slot].tokens_again
    }
    ended = [r for r in rows.records if "abort" not in r.finish_reasons]
    assert {r.request_key for r in ended if r.wasted_ns} == preempted & {r.request_key for r in ended}
    assert len(preempted) > 10


@pytest.mark.heavy
def test_a_long_life_adds_up_and_no_counter_drifts():
    life = random_life(1, rounds=50_000, profile=Profile(depth=2))
    rows, engines = attribute({life.engine_id: life.events}, sweep_at=lambda n: n % 1_000 == 0, window_ns=60 * NS_PER_S)
    check(rows, engines)
