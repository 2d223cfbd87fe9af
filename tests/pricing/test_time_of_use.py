"""Prices of electricity by the hour of the day, by the clocks of a place, through its clock changes."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from costtrace.core.errors import PriceBookError
from costtrace.core.wall_time import wall_ns
from costtrace.pricing.price_book_file import load_price_book

BERLIN = ZoneInfo("Europe/Berlin")
BOOK = """
version: tou
currency: EUR
devices:
  - {match: "*", kind: gpu, per_gpu_hour: 1, includes_energy: false, from: 2020-01-01}
electricity:
  - {per_kwh: 0.10, from: 2020-01-01}
  - {per_kwh: 0.30, from: 2020-01-01, hours: "07:00-20:00", days: mon-fri, zone: Europe/Berlin}
  - {per_kwh: 0.02, from: 2020-01-01, hours: "22:00-06:00", days: "sat,sun", zone: Europe/Berlin}
"""


def book(tmp_path, text=BOOK):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    return load_price_book(path)


def price(prices, *when):
    return str(prices.electricity_price(wall_ns(datetime(*when, tzinfo=BERLIN))).per_kwh)


@pytest.mark.parametrize(
    ("when", "per_kwh"),
    [
        ((2026, 11, 23, 6, 59), "0.10"),  # a Monday
        ((2026, 11, 23, 7, 0), "0.30"),
        ((2026, 11, 23, 19, 59), "0.30"),
        ((2026, 11, 23, 20, 0), "0.10"),
        ((2026, 7, 20, 7, 0), "0.30"),  # a Monday in summer: by Berlin's clocks, not by UTC
        ((2026, 7, 20, 6, 59), "0.10"),
        ((2026, 11, 28, 12, 0), "0.10"),  # a Saturday
        ((2026, 11, 28, 22, 0), "0.02"),
        ((2026, 11, 29, 5, 59), "0.02"),  # the night of Saturday ends on Sunday morning
        ((2026, 11, 30, 5, 59), "0.02"),  # and that of Sunday on Monday morning
        ((2026, 11, 28, 5, 59), "0.10"),  # that of Friday is none of them
    ],
)
def test_a_price_holds_by_the_clocks_of_its_place(tmp_path, when, per_kwh):
    assert price(book(tmp_path), *when) == per_kwh


def test_the_rate_of_a_window_is_that_of_its_time(tmp_path):
    prices = book(tmp_path)
    day, night = (wall_ns(datetime(2026, 11, 24, hour, tzinfo=BERLIN)) for hour in (12, 3))
    rates = [prices.rate_for("x", "gpu", at) for at in (day, night)]
    assert rates[0].energy_numerator * rates[1].energy_denominator == (
        3 * rates[1].energy_numerator * rates[0].energy_denominator
    )
    assert rates[0].rate_id != rates[1].rate_id


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('hours: "07:00-08:00", days: fri, zone: Europe/Berlin', "can hold at the same time"),
        ('hours: "21:00-22:00", days: fri, zone: Europe/Paris', "give all of them the same `zone`"),
        ('hours: "7-20"', 'hours: "07:00-20:00"'),
        ('hours: "07:00-24:01"', "must be a stretch of a day"),
        ("days: weekdays", "days: mon-fri"),
        ('hours: "21:00-22:00", zone: Mars/Olympus', "is no time zone"),
        ("zone: Europe/Berlin", "says nothing without"),
    ],
)
def test_a_time_of_use_that_cannot_be_is_named_with_the_remedy(tmp_path, entry, says):
    with pytest.raises(PriceBookError, match="electricity") as error:
        book(tmp_path, BOOK + f"  - {{per_kwh: 0.5, from: 2020-01-01, {entry}}}\n")
    assert says in str(error.value)


def test_a_later_price_ends_the_one_of_the_same_hours_only(tmp_path):
    prices = book(
        tmp_path,
        BOOK + '  - {per_kwh: 0.50, from: 2026-01-01, hours: "07:00-20:00", days: mon-fri, zone: Europe/Berlin}\n',
    )
    assert price(prices, 2025, 11, 24, 12) == "0.30"
    assert price(prices, 2026, 11, 23, 12) == "0.50"
    assert price(prices, 2026, 11, 24, 3) == "0.10"
