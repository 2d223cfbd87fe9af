from decimal import Decimal

import pytest

from costtrace.core.numbers import exact


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("012", "12"),
        ("05000", "5000"),
        (".5", "0.5"),
        ("5.", "5"),
        ("+5", "5"),
        ("-0.25", "-0.25"),
        ("1e3", "1000"),
        ("1.5E-3", "0.0015"),
        (" 1.10\n", "1.10"),
    ],
)
def test_a_decimal_number_is_read_as_it_is_written(text: str, value: str) -> None:
    assert exact(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1,5",
        "1_000",
        "0x1F",
        "0b11",
        "1:30",
        "NaN",
        "inf",
        "-Infinity",
        "1e",
        "1e1000",
        "1 2",
        "\uff11\uff12",  # full-width digits
        "\u0663",  # an Arabic digit
        "9" * 401,
    ],
)
def test_what_is_no_decimal_number_is_none(text: str) -> None:
    assert exact(text) is None
