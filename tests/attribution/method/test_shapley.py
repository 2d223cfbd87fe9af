"""Closed forms against the Shapley value by brute force, on the modelled cost of a step."""

import random
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapley import game, misplaced, priced, shapley

from costtrace.attribution.steps.cost_model import GENERIC_SHAPE, Coefficients, Features, prior, roofline_prices
from costtrace.attribution.steps.device_peaks import known_peaks

MODELS = [prior(GENERIC_SHAPE, "gpu", 1, peak) for peak in known_peaks()]
EXPERTS = [c._replace(expert_part=0.9, expert_miss=1 - 8 / 128) for c in MODELS]
decode = st.builds(lambda ctx: (1, ctx, 0), st.integers(1, 30_000))
PROMPTS = [c._replace(prompt=3e-4, decode=2e-4) for c in MODELS]
chunk = st.builds(lambda c, p: (c, 0, c * p + c * c // 2), st.integers(2, 4_096), st.integers(0, 20_000))


@settings(max_examples=60)
@given(st.sampled_from(MODELS + EXPERTS), st.lists(decode, min_size=1, max_size=9))
def test_in_a_memory_bound_step_the_prices_are_the_shapley_value(c, batch):
    for truth, share in zip(shapley(len(batch), game(c, batch)), priced(c, batch), strict=True):
        assert share == pytest.approx(truth, rel=1e-9)


short = st.builds(lambda c, p: (c, 0, c * p + c * c // 2), st.integers(2, 8), st.integers(0, 20_000))


@settings(max_examples=40)
@given(st.sampled_from(PROMPTS), st.lists(decode | short, min_size=1, max_size=9))
def test_below_the_knee_what_is_done_once_for_all_prompts_or_decodes_is_split_as_shapley_does(c, batch):
    for truth, share in zip(shapley(len(batch), game(c, batch)), priced(c, batch), strict=True):
        assert share == pytest.approx(truth, rel=1e-9)


@settings(max_examples=40)
@given(st.sampled_from(PROMPTS), st.lists(chunk, min_size=1, max_size=2))
def test_of_two_prompts_alone_the_prices_are_the_shapley_value_on_either_side_of_the_knee(c, batch):
    for truth, share in zip(shapley(len(batch), game(c, batch)), priced(c, batch), strict=True):
        assert share == pytest.approx(truth, rel=1e-9)


@settings(max_examples=60)
@given(st.sampled_from(MODELS + EXPERTS + PROMPTS), st.lists(decode | chunk, min_size=1, max_size=9))
def test_the_prices_of_any_step_sum_to_its_modelled_cost(c, batch):
    assert sum(priced(c, batch)) == pytest.approx(game(c, batch)((1 << len(batch)) - 1), rel=1e-12)


def batches(most, draws=1, seed=1):
    """Mixed steps of every composition of up to *most* participants: so many prefill chunks, so many decodes."""
    rng = random.Random(seed)
    for size in range(2, most + 1):
        for chunks in [count for count in range(1, size + 1) for _ in range(draws)]:
            sizes = [rng.choice((32, 64, 128, 256, 512, 1_024, 2_048)) for _ in range(chunks)]
            batch = [(c, 0, c * rng.randint(0, 4_000) + c * c // 2) for c in sizes]
            yield batch + [(1, rng.randint(10, 8_000), 0) for _ in range(size - chunks)]


def mean_misplaced(models, most, draws):
    errors = []
    for place, batch in enumerate(batches(most, draws)):
        c = models[place % len(models)]
        errors.append(misplaced(shapley(len(batch), game(c, batch)), priced(c, batch)))
    return sum(errors) / len(errors)


def test_in_mixed_steps_less_than_half_a_per_cent_of_the_money_is_misplaced():
    assert mean_misplaced(MODELS, 8, 4) < 0.005


def test_with_a_mixture_of_experts_it_is_less_than_four():
    assert mean_misplaced(EXPERTS, 8, 4) < 0.04


@pytest.mark.heavy
def test_in_every_composition_of_up_to_twelve_it_is_less_than_half_a_per_cent_too():
    assert mean_misplaced(MODELS, 12, 5) < 0.005


def test_in_mixed_steps_nobody_pays_five_per_cent_more_than_alone():
    for place, batch in enumerate(batches(8, 3)):
        c = MODELS[place % len(MODELS)]
        alone = game(c, batch)
        for who, paid in enumerate(priced(c, batch)):
            assert paid <= 1.05 * alone(1 << who)


def test_equal_shares_and_token_shares_misplace_fifty_times_as_much():
    equal, tokens, ours = [], [], []
    for place, batch in enumerate(batches(8, 2)):
        c = MODELS[place % len(MODELS)]
        truth = shapley(len(batch), game(c, batch))
        whole, count = sum(truth), sum(who[0] for who in batch)
        equal.append(misplaced(truth, [whole / len(batch)] * len(batch)))
        tokens.append(misplaced(truth, [whole * who[0] / count for who in batch]))
        ours.append(misplaced(truth, priced(c, batch)))
    assert sum(ours) * 50 < min(sum(equal), sum(tokens))


def owen(tenants, cost):
    """Mean marginal cost over the orders in which nobody comes between two requests of one tenant."""
    names = sorted(set(tenants))
    groups = {name: [place for place, who in enumerate(tenants) if who == name] for name in names}
    paid, orders = [0.0] * len(tenants), 0
    for order in permutations(names):
        for inner in product(*(permutations(groups[name]) for name in order)):
            before = subset = 0
            orders += 1
            for player in (player for group in inner for player in group):
                subset |= 1 << player
                paid[player] += cost(subset) - (cost(before) if before else 0.0)
                before = subset
    return [value / orders for value in paid]


@settings(max_examples=40)
@given(st.sampled_from(MODELS), st.lists(st.tuples(st.integers(0, 2), decode), min_size=1, max_size=6))
def test_with_a_head_a_tenant_the_prices_are_the_owen_value_of_a_memory_bound_step(c, who):
    tenants, batch = [tenant for tenant, _ in who], [work for _, work in who]
    totals = [sum(column) for column in zip(*batch, strict=True)]
    p = roofline_prices(c, Features(len(set(tenants)), len(batch), *totals))
    for tenant, (_, ctx, _), truth in zip(tenants, batch, owen(tenants, game(c, batch)), strict=True):
        mine = p.head / tenants.count(tenant) + p.sequence + p.context * ctx
        assert mine == pytest.approx(truth, rel=1e-9)


@given(st.lists(decode | chunk, min_size=2, max_size=12), st.sampled_from(MODELS), st.integers(1, 4_000))
def test_more_work_never_costs_less_at_the_same_prices(batch, c, more):
    totals = [sum(column) for column in zip(*batch, strict=True)]
    p = roofline_prices(c, Features(len(batch), len(batch), *totals))
    assert min(p[:5]) >= 0.0
    tokens, context, attention = batch[0]
    less = p.token * tokens + p.context * context + p.attention * attention
    assert p.token * (tokens + more) + p.context * (context + more) + p.attention * (attention + more) >= less


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(-1, 1)), min_size=1, max_size=20), st.floats(0.0, 0.9))
def test_a_model_that_is_off_by_at_most_e_misplaces_at_most_half_of_e_over_1_minus_e(weights, most):
    """docs/method/paper.md section 5."""
    truth = [weight for weight, _ in weights]
    model = [weight * (1 + most * error) for weight, error in weights]
    whole = sum(truth)
    shares = [weight * whole / sum(model) for weight in model]
    assert misplaced(truth, shares) <= most / (2 * (1 - most)) + 1e-12


def test_a_coefficient_that_is_not_there_costs_nothing():
    c = Coefficients(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert roofline_prices(c, Features(4, 4, 100, 100, 100))[:5] == (0.25, 0.0, 0.0, 0.0, 0.0)
