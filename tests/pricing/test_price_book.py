"""Which price applies to which device at which time, and which books contradict themselves."""

import itertools
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costtrace.core.errors import PriceBookError
from costtrace.core.units import NS_PER_HOUR
from costtrace.pricing.name_pattern import matches, patterns_meet
from costtrace.pricing.price_book import DevicePrice, ElectricityPrice, PriceBook, show_time

DAY = 24 * NS_PER_HOUR


def device(match, price="1", start=0, until=None, **more):
    return DevicePrice(match, Decimal(price), True, start * DAY, None if until is None else until * DAY, **more)


def book(*devices, **more):
    return PriceBook(version="v", currency="USD", devices=devices, **more)


def price(prices, name="NVIDIA H100 80GB HBM3", day=0, kind="gpu"):
    entry = prices.device_price(name, kind, day * DAY)
    return None if entry is None else str(entry.per_gpu_hour)


def test_an_exact_name_goes_before_patterns_and_the_more_literal_pattern_before_the_less():
    entries = [device("*", "1"), device("NVIDIA*", "2"), device("*H100*HBM3", "3"), device("NVIDIA H100*", "4")]
    assert price(book(*entries)) == "4"
    assert price(book(*entries, device("nvidia h100 80gb hbm3", "5"))) == "5"
    assert price(book(*entries), "NVIDIA A100") == "2"
    assert price(book(*entries), "something else") == "1"
    assert price(book(*entries[1:]), "something else") is None


def test_names_compare_without_regard_to_case_and_brackets_are_only_brackets():
    assert price(book(device("nvidia h100*"))) == "1"
    assert price(book(device("GPU [x]?")), "gpu [X]1") == "1"


def test_a_slice_of_a_gpu_and_a_stand_in_have_prices_of_their_own():
    both = book(device("*", "7"), device("*", "1", kind="mig"))
    assert price(both, kind="gpu") == "7"
    assert price(both, kind="mig") == "1"
    assert price(both, kind="cpu") is None


def test_a_newer_entry_ends_the_older_one_and_history_keeps_its_price():
    changed = book(device("*", "2", 10), device("*", "1", 5))
    assert [price(changed, day=day) for day in (4, 5, 9, 10, 99)] == [None, "1", "1", "2", "2"]


def test_an_entry_with_an_end_ends_there():
    assert [price(book(device("*", "1", 5, 7)), day=day) for day in (5, 6, 7)] == ["1", "1", None]


def test_entries_that_overlap_are_refused():
    for entries in (
        [device("H100*", "1", 5, 9), device("h100*", "2", 8)],
        [device("H100*", "1", 5), device("H100*", "2", 5)],
    ):
        with pytest.raises(PriceBookError, match=r"H100\* from 1970-01-06 and .* overlap"):
            book(*entries)
    with pytest.raises(PriceBookError, match="not after"):
        book(device("*", "1", 5, 5))
    with pytest.raises(PriceBookError, match=r"electricity from .* overlap"):
        book(electricity=[ElectricityPrice(Decimal(1), 0, 9), ElectricityPrice(Decimal(1), 8)])


def test_patterns_of_equal_right_that_can_meet_are_refused_while_both_hold():
    with pytest.raises(PriceBookError, match="same device at the same time"):
        book(device("*H100"), device("H100*"))
    book(device("*H100", until=5), device("H100*", start=5))
    book(device("H100*"), device("H200*"))
    book(device("*H100"), device("H100*", kind="mig"))


def test_the_tier_says_which_entries_apply():
    entries = [device("*", "1", tier="owned"), device("*", "2", tier="spot")]
    assert price(book(*entries, tier="spot")) == "2"
    assert price(book(*entries, tier="owned")) == "1"
    with pytest.raises(PriceBookError, match="say which one applies"):
        book(*entries)
    with pytest.raises(PriceBookError, match="There are: owned, spot"):
        book(*entries, tier="spott")
    with pytest.raises(PriceBookError, match="same device"):
        book(*entries, device("*"), tier="spot")


def test_the_id_of_a_rate_changes_with_everything_that_matters_and_with_nothing_else():
    def rate_id(per_hour="1", version="v", match="*", label="", **more):
        made = PriceBook(version=version, currency="USD", devices=[device(match, per_hour)], label=label, **more)
        return made.rate_for("x", "gpu", 5 * DAY).rate_id

    ids = [rate_id(), rate_id("2"), rate_id(version="w"), rate_id(match="x"), rate_id(label="sample")]
    assert len(set(ids)) == len(ids)
    assert rate_id("1.0") == rate_id()
    tariff = ElectricityPrice(Decimal(1), 0)
    assert rate_id(electricity=[tariff]) == rate_id()  # the price includes energy
    assert rate_id() == "778f4cb8c887479d"  # stable between versions: it joins charges to rates


def test_a_label_stands_wherever_the_book_is_named():
    assert book(device("*"), label="sample").rate_for("x", "gpu", 0).price_book == "v [sample]"


def test_what_is_missing_is_named_with_the_remedy():
    metered = PriceBook(version="v", currency="USD", devices=[DevicePrice("H100", Decimal(1), False, 0)])
    message = metered.missing("H200", "gpu", DAY + 5)
    assert "'H200'" in message
    assert "1970-01-02:" in message
    assert "devices" in message
    assert "per_kwh" in metered.missing("H100", "gpu", 0)
    assert book(device("H100")).missing("H100", "gpu", 0) == ""


def test_times_are_shown_as_a_price_book_has_them():
    assert show_time(0) == "1970-01-01"
    assert show_time(DAY + NS_PER_HOUR) == "1970-01-02T01:00:00Z"


patterns = st.text(alphabet="ab*?", max_size=4)
NAMES = ["".join(name) for size in range(8) for name in itertools.product("ab", repeat=size)]


@given(patterns, patterns)
def test_two_patterns_meet_if_and_only_if_some_name_matches_both(one, other):
    assert patterns_meet(one, other) == any(matches(one, name) and matches(other, name) for name in NAMES)


@given(patterns, st.text(alphabet="ab", max_size=6))
def test_a_pattern_matches_what_the_shell_would_match(pattern, name):
    assert matches(pattern, name) == bool(re.fullmatch(pattern.replace("*", "[ab]*").replace("?", "[ab]"), name))
