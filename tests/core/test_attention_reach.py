"""Layers with a sliding window: the closed form against a loop over the batch, and not a part of a nanosecond lost."""

from types import SimpleNamespace

import msgspec
import pytest
from costtrace_lab.engines.random_engine import Profile
from costtrace_lab.engines.schedules import SHAPE, random_life, started
from costtrace_vllm.engine_side.describe import model_shape
from hypothesis import given, settings
from hypothesis import strategies as st

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.attribution.shares.accounts import GAP, TIME, Accounts
from costtrace.attribution.shares.virtual_time import SHIFT
from costtrace.attribution.steps.cost_model import prior
from costtrace.attribution.steps.step_work import Membership
from costtrace.core.attention_reach import AttentionReach, reach_of
from costtrace.core.events import SequenceAdded, SequenceFinished, Step
from costtrace.core.units import NS_PER_S

PLAIN = Profile(prompt_tokens=200, output_tokens=120, speculative=0.0, step_ns=(10_000, 20_000_000))
"""Without drafts whatever is decoded is decoded in the cohort."""


def windowed(window, sliding_layers=24):
    return msgspec.structs.replace(SHAPE, window=window, sliding_layers=sliding_layers)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 40, 150, 10**6]),
    st.sampled_from([8, 24, 32]),
    st.sampled_from(["request", "tenant"]),
)
def test_members_owe_what_a_loop_over_the_batch_would_charge_them(seed, window, layers, head_fee):
    shape = windowed(window, layers)
    reach, coefficients = reach_of(shape), prior(shape, "gpu", 1)
    accounts, members = Accounts(), Membership()
    accounts.set_head_fee(head_fee)
    accounts.set_reach(reach)
    members.set_reach(reach)
    ending, owed, given_ns, paid = {}, {}, 0, 0

    def close(slot):
        nonlocal paid
        account = accounts.close(slot)
        assert head_fee == "tenant" or account.decode[TIME] == owed.get(slot, 0)
        paid += account.decode[TIME] + account.prefill[TIME]

    for event in random_life(seed, rounds=150, profile=PLAIN).events:
        if isinstance(event, SequenceAdded):
            accounts.add(event)
            members.added(event)
        elif isinstance(event, SequenceFinished):
            accounts.finish(event.slot, event)
            members.finished(event)
            ending[event.slot] = event.last_step
        elif isinstance(event, Step):
            for slot in [slot for slot, last in ending.items() if last < event.index]:
                del ending[slot]
                close(slot)
            work = members.take(event)
            accounts.begin(event, work)
            members_now = {slot: a for slot, a in accounts.open.items() if a.in_cohort}
            cohort = {slot: a.context + accounts.cohort.step - a.entered_step for slot, a in members_now.items()}
            assert accounts.cohort.context == sum(map(reach.read, cohort.values()))
            assert work.cohort_context == accounts.cohort.context // reach.units
            before, took_ns = accounts.clocks[TIME].mark(), event.done_ns - event.scheduled_ns
            if accounts.charge([took_ns, 0, took_ns], coefficients, "roofline", None):
                given_ns += took_ns
            clock = accounts.clocks[TIME]
            for slot, context in cohort.items():
                fees = accounts.open[slot].weight * (clock.h - before.h) + clock.a - before.a
                owed[slot] = owed.get(slot, 0) + fees + (clock.b - before.b) * reach.read(context)
            accounts.end(event)
    for slot in list(accounts.open):
        close(slot)
    assert paid + accounts.take_carry()[TIME] == given_ns << SHIFT
    assert accounts.clocks[TIME].b == accounts.clocks[GAP].b
    assert (accounts.cohort.context, accounts.cohort.capped, accounts.crossings.due) == (0, 0, {})


@pytest.mark.parametrize("seed", [3, 4])
def test_rows_of_a_model_with_windows_add_up_to_the_meter(seed):
    life = random_life(seed, rounds=600)
    shape = windowed(100)
    events = [life.events[0], started(("GPU-0",), NS_PER_S, shape=shape), *life.events[2:]]
    pipeline = Pipeline(Policy(), 10 * NS_PER_S)
    pipeline.add(life.engine_id, events[0])
    for event in events:
        pipeline.take(life.engine_id, event)
    pipeline.sweep(1 << 62)
    rows = pipeline.take_rows()
    assert sum(p.gpu_ns for p in rows.postings if p.kind == "request") == sum(m.request_ns for m in rows.meter) > 0


@given(st.integers(0, 60), st.integers(0, 50), st.integers(1, 40), st.integers(0, 3), st.integers(1, 3))
def test_the_attention_of_a_chunk_is_that_of_its_tokens_one_by_one(tokens, context, window, full, sliding):
    reach = AttentionReach(full, sliding, window)
    # A token at place q has q tokens before it and half of itself; what the window cuts off is whole tokens.
    twice = sum(full * (2 * q + 1) + sliding * min(2 * q + 1, 2 * window) for q in range(context, context + tokens))
    # Rounded down three times: the whole context by a half, what is below the window by a half, the mean by one.
    assert 0 <= twice / 2 / reach.units - reach.attention(tokens, context) < 1.5


def test_a_window_that_nobody_reaches_changes_nothing():
    shape, far = windowed(0), windowed(10**9)
    assert reach_of(shape) is None
    assert reach_of(far).read(5_000) == 5_000 * reach_of(far).units
    assert reach_of(far).tokens(5_000) == 5_000


QWEN = {"hidden_size": 2_048, "num_hidden_layers": 48, "num_attention_heads": 32, "sliding_window": 4_096}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, (4_096, 48)),
        ({"use_sliding_window": False, "max_window_layers": 36}, (0, 0)),
        ({"use_sliding_window": True, "max_window_layers": 36}, (4_096, 12)),
        ({"layer_types": ["sliding_attention", "full_attention"] * 24}, (4_096, 24)),
        ({"layer_types": ["full_attention"] * 48}, (0, 0)),
        ({"sliding_window_pattern": 6}, (4_096, 40)),
        ({"sliding_window": None}, (0, 0)),
    ],
)
def test_the_window_is_read_from_the_models_configuration(more, expected):
    model = SimpleNamespace(hf_config=SimpleNamespace(**{**QWEN, **more}), dtype="torch.bfloat16")
    shape = model_shape(SimpleNamespace(model_config=model), 0)
    assert (shape.window, shape.sliding_layers) == expected
