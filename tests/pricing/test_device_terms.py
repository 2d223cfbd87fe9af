"""Owned and reserved devices, pools, currencies, list prices, and books that only grow."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from click.testing import CliRunner
from honest_ledger import write
from hypothesis import given
from hypothesis import strategies as st

from costtrace.cli.app import cli
from costtrace.cli.billing.prices import prices
from costtrace.core.errors import PriceBookError
from costtrace.core.units import NANO_PER_UNIT, NS_PER_HOUR
from costtrace.ledger.answers import Ended
from costtrace.pricing.device_terms import Owned, Reserved
from costtrace.pricing.list_prices import ListPrice, cuts
from costtrace.pricing.price_book_file import load_price_book
from costtrace.reports.usage.margin import price

DAY = 24 * NS_PER_HOUR
NOV = 20_758 * DAY  # 2026-11-01
HEAD = "version: v\ncurrency: USD\n"
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def load(tmp_path):
    def read(text, **arguments):
        path = tmp_path / "prices.yaml"
        path.write_text(HEAD + text)
        return load_price_book(path, **arguments)

    return read


def hourly(book, name=H100, at=NOV):
    rate = book.rate_for(name, "gpu", at)
    return Fraction(rate.device_numerator, rate.device_denominator) * NS_PER_HOUR / NANO_PER_UNIT


def test_an_owned_device_costs_its_annuity_its_support_and_its_place():
    # By hand: 30000 bought, 3000 left after 4 years at 8 %: (30000 - 3000 / 1.08^4) * 0.08 / (1 - 1.08^-4) = 8391.86...
    owned = Owned(Decimal(30_000), 4, Decimal(3_000), Decimal("0.08"), Decimal(1), Decimal("0.11"), Decimal(900))
    growth = 1.08**4
    by_hand = (30_000 - 3_000 / growth) * 0.08 / (1 - 1 / growth)
    assert abs(float(owned.per_gpu_hour()) - ((by_hand + 900) / 8_760 + 0.11)) < 1e-8
    assert Owned(Decimal(8_760), 1).per_gpu_hour() == 1
    assert Owned(Decimal(8_760), 1, utilisation=Decimal("0.5")).per_gpu_hour() == 2
    assert Reserved(Decimal("0.5"), Decimal(8_760), 2).hourly() == 1


@given(st.integers(1, 10**6), st.integers(1, 20), st.decimals(0, Decimal("0.5"), places=3), st.decimals(0, 1, places=2))
def test_annual_payments_discounted_are_the_purchase_less_what_is_left(purchase, years, interest, left):
    owned = Owned(Decimal(purchase), years, purchase * left, interest)
    payment = Fraction(owned.per_gpu_hour()) * 8_760
    value = sum(payment / (1 + Fraction(interest)) ** year for year in range(1, years + 1))
    due = Fraction(purchase) - Fraction(purchase * left) / (1 + Fraction(interest)) ** years
    assert abs(value - due) <= Fraction(years * 8_760, 2 * NANO_PER_UNIT)


def test_an_entry_is_owned_or_reserved_or_has_a_price(load):
    line = "devices: [{match: 'NVIDIA H100*', includes_energy: true, from: 2026-11-01, %s}]"
    assert hourly(load(line % "owned: {purchase: 8760, life_years: 1}")) == 1
    assert hourly(load(line % "reserved: {per_gpu_hour: 1, upfront: 8760, term_years: 1}")) == 2
    for wrong, why in (
        ("per_gpu_hour: 1, owned: {purchase: 1, life_years: 1}", "more than one of"),
        ("owned: {purchase: 1, life_years: 1.5}", "must be a whole number"),
        ("owned: {purchase: 1, life_years: 0}", "must be between 1"),
        ("owned: {purchase: 1, life_years: 3, cost_of_capital: 8}", "0.08 is 8 %"),
        ("owned: {purchase: 1, residual: 2, life_years: 3}", "more than the purchase"),
        ("owned: {purchase: 1, life_years: 3, utilisation: 1.2}", "at most 1"),
        ("owned: {purchase: 1, life_year: 3}", "The nearest is 'life_years'"),
        ("reserved: {upfront: 1, term_years: 1}", "per_gpu_hour is missing"),
        ("owned: 3", "must be a mapping"),
        ("tier: x", "say which one applies"),
    ):
        with pytest.raises(PriceBookError, match=why):
            load(line % wrong if "tier" not in wrong else line % "per_gpu_hour: 1, tier: x")


POOLS = """
devices:
  - {match: "NVIDIA H100 80GB HBM3", per_gpu_hour: 2, includes_energy: true, from: 2026-11-01}
  - {match: "NVIDIA H100*", per_gpu_hour: 3, includes_energy: true, from: 2026-11-01, region: eu}
  - {match: "NVIDIA*", per_gpu_hour: 4, includes_energy: true, from: 2026-11-01, pool: spot}
"""


@pytest.mark.parametrize(
    ("pool", "region", "due"), [("", "", 2), ("", "eu", 3), ("spot", "", 4), ("spot", "eu", 4), ("other", "us", 2)]
)
def test_the_pools_price_goes_before_the_regions_and_that_before_any(load, pool, region, due):
    assert hourly(load(POOLS, pool=pool, region=region)) == due


EUROS = """
devices: [{match: "*", per_gpu_hour: 2, includes_energy: false, from: 2026-11-01, currency: EUR}]
electricity: [{per_kwh: 0.20, from: 2026-11-01}]
exchange:
  - {currency: EUR, rate: 1.08, from: 2026-11-01}
  - {currency: EUR, rate: 1.10, from: 2026-11-10}
"""


def test_another_currency_is_worth_what_the_exchange_rate_of_the_day_says(load):
    book = load(EUROS)
    assert hourly(book) == Fraction("2.16")
    assert hourly(book, at=NOV + 9 * DAY) == Fraction("2.20")
    assert book.rate_for(H100, "gpu", NOV).currency == "USD"
    late = load(EUROS.replace("rate: 1.08, from: 2026-11-01", "rate: 1.08, from: 2026-11-05"))
    assert late.rate_for(H100, "gpu", NOV) is None
    assert "no exchange rate of EUR on 2026-11-01" in late.missing(H100, "gpu", NOV)
    with pytest.raises(PriceBookError, match="no exchange rate of EUR"):
        load(EUROS.split("exchange", maxsplit=1)[0])


def test_a_cached_token_has_its_own_price_and_the_sum_is_rounded_once():
    listed = ListPrice("m", Decimal("0.60"), Decimal("2.40"), NOV, per_million_cached=Decimal("0.06"))
    assert listed.exact(1_000_000, 400_000, 500_000) == (Fraction("0.36") + Fraction("0.024") + Fraction("1.2")) * 10**9
    assert ListPrice("m", Decimal(1), Decimal(0), NOV).exact(10, 10, 0) == 10_000
    tiny = ListPrice("m", Decimal("0.0001"), Decimal(0), NOV)  # a tenth of a nano-unit a token
    rows = [Ended(("t", "m"), "USD", 1, 1, 4, 0, 0, 0, 0)] * 5
    (line,) = price([(lambda model: tiny, rows)], [], "USD")
    assert line.price_nano == 2


def test_a_period_is_cut_where_a_list_price_changes():
    listed = [ListPrice("m", Decimal(1), Decimal(1), 10, 20), ListPrice("m", Decimal(2), Decimal(1), 20)]
    assert cuts(listed, 0, 30) == [(0, 10), (10, 20), (20, 30)]
    assert cuts([], 0, 30) == [(0, 30)]


OLD = """
devices:
  - {match: "NVIDIA H100*", per_gpu_hour: 2, includes_energy: true, from: 2020-01-01}
"""


@pytest.mark.parametrize(
    ("new", "code", "message"),
    [
        (OLD, 0, "no price differs"),
        (OLD + "  - {match: 'NVIDIA H100*', per_gpu_hour: 3, includes_energy: true, from: 2099-01-01}\n", 0, "added"),
        (OLD.replace("per_gpu_hour: 2", "per_gpu_hour: 3"), 1, "changes the past"),
        (OLD.replace("2020-01-01", "2021-01-01"), 1, "removed"),
        (OLD + "  - {match: 'NVIDIA H100*', per_gpu_hour: 3, includes_energy: true, from: 2021-01-01}\n", 1, "until"),
        (OLD + "  - {match: L40S, per_gpu_hour: 3, includes_energy: true, from: 2021-01-01}\n", 1, "added"),
        ("models: [{match: m, per_million_input: 1, per_million_output: 1, from: 2099-01-01}]\n" + OLD, 0, "added"),
    ],
)
def test_a_book_only_grows_and_what_changes_the_past_is_named(tmp_path, new, code, message):
    (tmp_path / "old.yaml").write_text(HEAD + OLD)
    (tmp_path / "new.yaml").write_text(HEAD + new)
    files = [str(tmp_path / "old.yaml"), str(tmp_path / "new.yaml")]
    done = CliRunner().invoke(prices, ["diff", *files])
    assert done.exit_code == code
    assert message in done.output
    checked = CliRunner().invoke(prices, ["check", files[1], "--previous", files[0]])
    assert checked.exit_code == code


def test_report_has_cost_price_and_margin_beside_each_other(tmp_path):
    write(tmp_path)
    book = tmp_path / "prices.yaml"
    models = "[{match: 'm-*', per_million_input: 3, per_million_output: 9, from: 2026-01-01}]"
    book.write_text(f"version: v\ncurrency: USD\nmodels: {models}\n")
    words = ["report", "--home", str(tmp_path), "--price-book", str(book), "--format", "json"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)
    rows = json.loads(done.stdout)["price_and_cost"]
    for row in rows:
        exact = Fraction(row["input_tokens"] * 3 + row["output_tokens"] * 9) * 1000
        assert row["price_nano"] == exact
        known = row["cost_nano"] is not None
        assert row["margin_nano"] == (row["price_nano"] - row["cost_nano"] if known else None)
    assert rows[-1]["tenant"] == "all requests"
    assert rows[-1]["price_nano"] == sum(row["price_nano"] for row in rows[:-1])
