"""Whatever is handed out to whomever under whichever policy: shares and what stays are the pot, with ==."""

from fractions import Fraction
from itertools import permutations

import pytest
from costtrace_statements.idle_policies import NOBODY, POLICIES, Claim, Pot, airport, hand_out
from hypothesis import given
from hypothesis import strategies as st

ns = st.integers(0, 10**18)
maybe = st.none() | st.integers(0, 10**17)
pots = st.builds(Pot, ns, maybe, ns, maybe, ns)
claims = st.dictionaries(st.text(min_size=1, max_size=3), st.builds(Claim, pots, ns, ns), max_size=7)


@given(st.sampled_from(POLICIES), st.sampled_from(["idle", "overhead"]), pots, claims)
def test_shares_and_what_stays_are_the_pot(policy, kind, pot, claims):
    handed = hand_out(policy, kind, pot, claims)
    parts = [*handed.shares.values(), handed.kept]
    for place, whole in enumerate(pot):
        if whole is None:
            assert all(part[place] is None for part in parts)
        else:
            assert sum(part[place] for part in parts) == whole
            assert all(part[place] >= 0 for part in parts)
    assert NOBODY not in handed.shares
    assert set(handed.shares) <= set(claims)


@given(pots, claims)
def test_separate_gives_nothing_to_anybody(pot, claims):
    handed = hand_out("separate", "idle", pot, claims)
    assert (handed.shares, handed.kept) == ({}, pot)


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1000), min_size=1))
def test_airport_weights_are_the_shapley_value_of_the_peaks(peaks):
    """By its definition: the mean over all orders of arrival of what each one's peak adds to the capacity so far."""
    value, orders = dict.fromkeys(peaks, Fraction(0)), list(permutations(peaks))
    for order in orders:
        capacity = 0
        for tenant in order:
            value[tenant] += Fraction(max(0, peaks[tenant] - capacity), len(orders))
            capacity = max(capacity, peaks[tenant])
    weights = airport(peaks)
    for tenant, exact in value.items():
        assert abs(Fraction(weights.get(tenant, 0), 2**64) - exact) < Fraction(1, 2**60)


def claim(gpu_ns, cost=None, peak=0, reserved=0):
    return Claim(Pot(gpu_ns, cost_nano=cost, cost_unknown_ns=0 if cost is not None else gpu_ns), peak, reserved)


def test_weighted_goes_by_cost_and_by_time_where_a_cost_is_unknown():
    pot = Pot(gpu_ns=400, cost_nano=1000)
    handed = hand_out("weighted", "idle", pot, {"a": claim(10, cost=30), "b": claim(10, cost=10)})
    assert {name: part.cost_nano for name, part in handed.shares.items()} == {"a": 750, "b": 250}
    handed = hand_out("weighted", "idle", pot, {"a": claim(10, cost=30), "b": claim(10)})
    assert {name: part.cost_nano for name, part in handed.shares.items()} == {"a": 500, "b": 500}
    assert handed.basis == "device-ns"


def test_a_credit_goes_by_the_costs_that_are_given_back():
    back = {"a": claim(0, cost=-30), "b": claim(0, cost=-10), "c": claim(0, cost=0)}
    handed = hand_out("weighted", "idle", Pot(cost_nano=-1000), back)
    assert {name: part.cost_nano for name, part in handed.shares.items()} == {"a": -750, "b": -250}
    mixed = hand_out("weighted", "idle", Pot(cost_nano=-1000), {"a": claim(30, cost=-30), "b": claim(10, cost=10)})
    assert (mixed.basis, mixed.shares["a"].cost_nano) == ("device-ns", -750)


def test_even_is_among_those_who_used_the_pool():
    handed = hand_out("even", "idle", Pot(gpu_ns=9), {"a": claim(1), "b": claim(5000), "c": claim(0)})
    assert {name: part.gpu_ns for name, part in handed.shares.items()} == {"a": 5, "b": 4}


def test_reserved_pays_for_what_it_did_not_use_and_the_unreserved_rest_stays():
    quotas = {"a": claim(40, reserved=100), "b": claim(500, reserved=100), "c": claim(0, reserved=30)}
    handed = hand_out("reserved", "idle", Pot(gpu_ns=200), quotas)
    assert {name: part.gpu_ns for name, part in handed.shares.items()} == {"a": 60, "c": 30}
    assert handed.kept.gpu_ns == 110
    handed = hand_out("reserved", "idle", Pot(gpu_ns=45), quotas)
    assert {name: part.gpu_ns for name, part in handed.shares.items()} == {"a": 30, "c": 15}
    assert handed.kept.gpu_ns == 0


def test_peak_charges_each_layer_of_capacity_to_those_who_reach_it():
    handed = hand_out("peak", "idle", Pot(gpu_ns=120), {"a": claim(1, peak=30), "b": claim(1, peak=90)})
    assert {name: part.gpu_ns for name, part in handed.shares.items()} == {"a": 20, "b": 100}


@pytest.mark.parametrize("policy", POLICIES)
def test_where_nobody_used_the_pool_all_of_it_stays(policy):
    pot = Pot(gpu_ns=7, energy_uj=3, cost_nano=1)
    assert hand_out(policy, "idle", pot, {}).kept == pot


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="there is no policy"):
        hand_out("fair", "idle", Pot(), {})
