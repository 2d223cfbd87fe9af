"""Whose tokens are beyond the knee, against the Shapley value by every subset."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapley import priced, shapley

from costtrace.attribution.steps.cost_model import GENERIC_SHAPE, prior
from costtrace.attribution.steps.knee import beyond_knee

size = st.sampled_from([1, 2, 3, 16, 64, 100, 250, 257, 700, 2_048])
knees = st.floats(0, 3_000)


def exact(batch, knee):
    def cost(subset):
        return max(0.0, sum(tokens for place, tokens in enumerate(batch) if subset >> place & 1) - knee)

    return shapley(len(batch), cost)


@settings(max_examples=200)
@given(st.lists(size, max_size=20), st.integers(0, 512), knees)
def test_all_that_is_beyond_the_knee_is_paid_and_who_has_more_tokens_pays_no_less(sizes, singles, knee):
    beyond = beyond_knee(sizes, singles, knee)
    tokens = sum(sizes) + singles
    if tokens <= knee:
        assert beyond == {}
        return
    assert set(beyond) == {*sizes, *([1] if singles else [])}
    whole = sum(beyond[tokens] for tokens in sizes) + (beyond[1] * singles if singles else 0.0)
    assert whole == pytest.approx(tokens - knee, rel=1e-9, abs=1e-9)
    paid = [beyond[tokens] for tokens in sorted(beyond)]
    assert paid == sorted(paid) or paid == pytest.approx(sorted(paid), rel=1e-6, abs=1e-9)
    assert min(paid) >= 0.0


@settings(max_examples=60)
@given(st.lists(size.filter(lambda tokens: tokens > 1), min_size=1, max_size=2), st.integers(0, 9), knees)
def test_with_two_prompts_at_most_it_is_the_shapley_value_to_a_fraction_of_a_token(sizes, singles, knee):
    beyond = beyond_knee(sizes, singles, knee)
    truth = exact([*sizes, *[1] * singles], knee)
    for tokens, value in zip([*sizes, *[1] * singles], truth, strict=True):
        assert beyond.get(tokens, 0.0) == pytest.approx(value, abs=0.6)


@settings(max_examples=60)
@given(st.lists(size.filter(lambda tokens: tokens > 1), min_size=3, max_size=9), st.integers(0, 3), knees)
def test_with_more_prompts_it_is_close_to_it(sizes, singles, knee):
    beyond = beyond_knee(sizes, singles, knee)
    batch = [*sizes, *[1] * singles]
    off = sum(abs(beyond.get(tokens, 0.0) - value) for tokens, value in zip(batch, exact(batch, knee), strict=True))
    assert off / 2 < 0.06 * sum(batch)


@settings(max_examples=200)
@given(st.integers(2, 2_000), st.integers(2, 2_000), st.lists(size, max_size=6), st.integers(0, 256), knees)
def test_a_prompt_cut_in_two_saves_a_sixth_of_the_others_tokens_at_most(one, two, others, singles, knee):
    """As by the Shapley value itself; with one prompt that the knee lies within, it is that sixth."""
    whole = beyond_knee([one + two, *others], singles, knee).get(one + two, 0.0)
    cut = beyond_knee([one, two, *others], singles, knee)
    saved = whole - cut.get(one, 0.0) - cut.get(two, 0.0)
    assert saved <= (sum(others) + singles) / 6 * (1 + 1e-6) + 0.5


def test_a_prompt_cut_in_two_can_save_that_much():
    whole, cut = beyond_knee([1_000], 60, 200.0), beyond_knee([500, 500], 60, 200.0)
    assert whole[1_000] - 2 * cut[500] == pytest.approx(60 / 6, rel=1e-6)


def test_alone_and_among_equals_it_is_the_average():
    assert beyond_knee([900], 0, 200.0) == {900: pytest.approx(700.0)}
    assert beyond_knee([], 300, 200.0) == {1: pytest.approx(1 / 3)}
    assert beyond_knee([200, 200, 200], 0, 300.0) == {200: pytest.approx(100.0)}
    c = prior(GENERIC_SHAPE, "gpu", 1)
    twins = priced(c, [(700, 0, 0), (1, 50, 0), (700, 0, 0), (1, 50, 0)])
    assert twins[0] == twins[2] > twins[1] == twins[3]
