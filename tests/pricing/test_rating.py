"""Money: exact at every point, unknown where something is unknown."""

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from costtrace.core.rows import Charge
from costtrace.core.units import NS_PER_HOUR, UJ_PER_KWH
from costtrace.pricing.price_book import DevicePrice, ElectricityPrice, PriceBook
from costtrace.pricing.rating import Rater, split_phases

prices = st.decimals(min_value=0, max_value=1000, places=6)
amounts = st.lists(
    st.tuples(st.integers(min_value=0, max_value=10**14), st.integers(min_value=0, max_value=10**12)), max_size=40
)


def rate(per_hour="2.10", per_kwh="0.14", pue="1.25", *, includes_energy=False, tariff=True):
    book = PriceBook(
        version="test",
        currency="USD",
        devices=[DevicePrice("H100", Decimal(per_hour), includes_energy, 0)],
        electricity=[ElectricityPrice(Decimal(per_kwh), 0, None, Decimal(pue))] if tariff else [],
    )
    return book.rate_for("H100", "gpu", 0)


def test_an_hour_costs_the_price_of_an_hour_and_a_kwh_the_tariff_times_pue():
    charge = Rater().charge("e", rate(), NS_PER_HOUR, UJ_PER_KWH)
    assert charge.device_nano == 2_100_000_000
    assert charge.energy_nano == 175_000_000
    assert charge.cost_nano == 2_275_000_000


@given(prices, prices, amounts)
def test_after_every_charge_the_sum_is_the_floor_of_the_exact_total(per_hour, per_kwh, postings):
    applied = rate(per_hour, per_kwh)
    rater = Rater()
    device = energy = ns = uj = 0
    for gpu_ns, energy_uj in postings:
        charge = rater.charge("e", applied, gpu_ns, energy_uj)
        device, energy, ns, uj = device + charge.device_nano, energy + charge.energy_nano, ns + gpu_ns, uj + energy_uj
        assert device == Fraction(per_hour) * ns / 3600 // 1
        assert energy == Fraction(per_kwh) * Fraction(5, 4) * uj / 3600 // 1


@given(amounts, st.integers(min_value=0, max_value=40))
def test_a_rater_that_goes_on_from_a_state_charges_what_an_undisturbed_one_does(postings, cut):
    applied = rate("1.234567", "0.098765")
    whole = Rater()
    expected = [whole.charge("e", applied, *posting) for posting in postings]
    first = Rater()
    got = [first.charge("e", applied, *posting) for posting in postings[:cut]]
    second = Rater(first.state())
    got += [second.charge("e", applied, *posting) for posting in postings[cut:]]
    assert got == expected
    assert second.state() == whole.state()


def test_engines_and_rates_are_rounded_apart():
    rater = Rater()
    for engine in ("a", "b"):
        rater.charge(engine, rate("1"), 3599, None)
    assert rater.charge("a", rate("1"), 1, None).device_nano == 1
    assert rater.charge("a", rate("2"), 1799, None).device_nano == 0
    assert rater.charge("b", rate("1"), 1, None).device_nano == 1


def test_a_state_is_plain_integers_and_an_ended_engine_leaves_none():
    rater = Rater()
    rater.charge("a", rate(), 1, 1)
    rater.charge("ab", rate(), 1, 1)
    assert all(type(value) is int and value >= 0 for value in rater.state().values())
    rater.forget("a")
    assert {key.split("|")[0] for key in rater.state()} == {"ab"}


def test_without_a_rate_all_is_unknown():
    charge = Rater().charge("e", None, 5, 5)
    assert charge == Charge("", None, None)
    assert charge.cost_nano is None


def test_energy_that_the_price_includes_costs_nothing_on_top_even_if_it_was_not_measured():
    charge = Rater().charge("e", rate(includes_energy=True), NS_PER_HOUR, None)
    assert charge.energy_nano == 0
    assert charge.cost_nano == 2_100_000_000


def test_energy_that_was_not_measured_or_has_no_tariff_is_unknown_and_so_is_the_cost():
    for charge in (
        Rater().charge("e", rate(), NS_PER_HOUR, None),
        Rater().charge("e", rate(tariff=False), NS_PER_HOUR, UJ_PER_KWH),
    ):
        assert charge.device_nano == 2_100_000_000
        assert charge.energy_nano is None
        assert charge.cost_nano is None


def test_phases_are_split_by_time_and_by_energy():
    charge = Charge("r", 100, 10)
    assert split_phases(charge, 3, 1, 1, 1) == (75 + 5, 25 + 5)
    assert split_phases(charge, 3, 1) == (75 + 8, 25 + 2)
    assert split_phases(charge, 0, 0, 0, 0) == (0, 110)
    assert split_phases(Charge("r", 100, None), 3, 1) == (None, None)


positive = st.integers(min_value=0, max_value=10**15)


charges = st.builds(Charge, st.just("r"), positive, positive)


@given(charges, st.tuples(positive, positive), st.tuples(st.none() | positive, st.none() | positive))
def test_the_phases_of_a_charge_sum_to_it(charge, times, energies):
    assert sum(split_phases(charge, *times, *energies)) == charge.cost_nano


def test_a_rate_as_the_ledger_keeps_it():
    row = rate().row()
    assert len(row) == 9
    assert row[1:4] == ("test", "USD", "H100 from 1970-01-01")
    assert Fraction(int(row[4]), int(row[5])) == Fraction("2.10") / 3600
    assert Fraction(int(row[6]), int(row[7])) == Fraction("0.175") / 3600
    assert rate(includes_energy=True).row()[6:] == ("", "", 1)
