"""An integer split by weights sums to itself, and nobody is off by a whole unit."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costtrace.core.apportion import largest_remainder

amounts = st.integers(min_value=-(10**20), max_value=10**20)
weights = st.lists(st.integers(min_value=0, max_value=10**18), min_size=1, max_size=30).filter(any)


@given(amounts, weights)
def test_the_parts_sum_to_the_amount_and_each_is_within_one_unit_of_its_share(amount, weights):
    parts = largest_remainder(amount, weights)
    assert sum(parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(amount * weight, sum(weights))) < 1


@given(amounts, weights)
def test_who_has_no_weight_gets_nothing(amount, weights):
    parts = largest_remainder(amount, [*weights, 0, *weights])
    assert parts[len(weights)] == 0


@given(st.integers(min_value=0, max_value=10**20), weights)
def test_by_largest_remainder_more_weight_never_gets_less(amount, weights):
    parts = largest_remainder(amount, weights)
    for one, part in zip(weights, parts, strict=True):
        for other, its in zip(weights, parts, strict=True):
            assert one <= other or part >= its


def test_an_example():
    assert largest_remainder(100, [1, 1, 1]) == [34, 33, 33]


def test_nothing_can_be_split_among_nobody_but_something_cannot():
    assert largest_remainder(0, []) == []
    assert largest_remainder(0, [0, 0]) == [0, 0]
    with pytest.raises(ValueError, match="all weights are 0"):
        largest_remainder(1, [0, 0])
    with pytest.raises(ValueError, match="negative"):
        largest_remainder(1, [2, -1])
