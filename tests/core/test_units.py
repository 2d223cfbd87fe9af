"""Money as people read it: each currency's minor units."""

import pytest

from costtrace.core.units import minor_digits, show_amount

UNIT = 10**9


@pytest.mark.parametrize(
    ("nano", "currency", "shown"),
    [
        (1_234 * UNIT + UNIT // 2, "JPY", "1234 JPY"),  # half to even, as `round` does
        (1_235 * UNIT + UNIT // 2, "KRW", "1236 KRW"),
        (-7 * UNIT, "JPY", "-7 JPY"),
        (UNIT // 4, "JPY", "0.25 JPY"),
        (0, "JPY", "0 JPY"),
        (1_234_560_000, "KWD", "1.235 KWD"),
        (1_200_000_000, "BHD", "1.200 BHD"),
        (0, "KWD", "0.000 KWD"),
        (UNIT // 2, "KWD", "0.500 KWD"),
        (1_234_560_000, "USD", "1.23 USD"),
        (UNIT // 2, "USD", "0.50 USD"),
        (0, "USD", "0.00 USD"),
        (1, "USD", "0.000000001 USD"),
        (1, "JPY", "0.000000001 JPY"),
        (1_234_560_000, "CLF", "1.2346 CLF"),
        (None, "JPY", "unknown"),
        (1, None, "unknown"),
    ],
)
def test_money_has_the_minor_units_of_its_currency(nano, currency, shown):
    assert show_amount(nano, currency) == shown


def test_a_currency_that_is_not_listed_has_two():
    assert [minor_digits(currency) for currency in ("USD", "EUR", "XTS", "")] == [2, 2, 2, 2]
