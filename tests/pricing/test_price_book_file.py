"""Reading a price book: exact numbers in, and complaints that say file, entry, field, value and remedy."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from costtrace.core.errors import PriceBookError
from costtrace.core.units import NS_PER_HOUR
from costtrace.pricing.price_book_file import load_price_book

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "prices"
DAY = 24 * NS_PER_HOUR

GOOD = """
version: 2026-11
currency: EUR
devices:
  - match: NVIDIA H100*
    per_gpu_hour: 2.10
    includes_energy: false
    from: 2026-11-01
    source: contract 4711
electricity:
  - per_kwh: 0.140000000000000001
    pue: 1.25
    from: 2026-11-01
    until: 2027-01-01T12:00:00+01:00
"""


@pytest.fixture
def load(tmp_path):
    def write(text, **arguments):
        path = tmp_path / "prices.yaml"
        path.write_text(text)
        return load_price_book(path, **arguments)

    return write


def complaint(load, text, **arguments):
    with pytest.raises(PriceBookError) as caught:
        load(text, **arguments)
    return str(caught.value)


def test_numbers_are_what_their_text_says(load):
    book = load(GOOD)
    assert book.devices[0].per_gpu_hour == Decimal("2.10")
    assert book.electricity[0].per_kwh == Decimal("0.140000000000000001")
    rate = book.rate_for("NVIDIA H100 80GB HBM3", "gpu", book.devices[0].from_ns)
    assert Fraction(rate.device_numerator, rate.device_denominator) == Fraction("2.1") / 3600


def test_a_date_is_its_midnight_in_utc_and_a_time_has_its_zone(load):
    book = load(GOOD)
    assert book.devices[0].from_ns == 20_758 * DAY
    assert book.electricity[0].until_ns == 20_819 * DAY + 11 * NS_PER_HOUR


def test_a_version_may_look_like_a_date_or_a_number(load):
    assert load(GOOD).version == "2026-11"
    assert load(GOOD.replace("version: 2026-11", "version: 2026-11-01")).version == "2026-11-01"
    assert load(GOOD.replace("version: 2026-11", "version: 1.10")).version == "1.10"


def test_quoted_numbers_and_dates_are_read_too(load):
    book = load(GOOD.replace("2.10", '"2.10"').replace("from: 2026-11-01", 'from: "2026-11-01"'))
    assert book.devices == load(GOOD).devices


def test_the_expected_currency_is_checked(load):
    assert load(GOOD, currency="EUR").currency == "EUR"
    message = complaint(load, GOOD, currency="USD")
    assert "currency: EUR" in message
    assert "expects USD" in message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version: 2026-11", "", ["version is missing"]),
        ("EUR", "euro", ["currency: 'euro'", "ISO 4217"]),
        ("match: NVIDIA H100*", "matches: x", ["devices: entry 1", "'matches'", "nearest is 'match'"]),
        ("per_gpu_hour: 2.10", "per_gpu_hour: cheap", ["entry 1 (NVIDIA H100*)", "per_gpu_hour: 'cheap'", "2.10"]),
        ("per_gpu_hour: 2.10", "per_gpu_hour: -1", ["per_gpu_hour: -1", "between 0 and"]),
        ("per_gpu_hour: 2.10", "per_gpu_hour: true", ["per_gpu_hour: True", "number"]),
        ("per_gpu_hour: 2.10", "per_gpu_hour: .nan", ["number"]),
        ("per_gpu_hour: 2.10", "per_gpu_hour: .inf", ["number"]),
        ("per_gpu_hour: 2.10", "per_gpu_hour: '1e999999999'", ["between"]),
        ("per_gpu_hour: 2.10", "per_gpu_hour: '1e-99999'", ["decimal places"]),
        ("per_gpu_hour: 2.10", "", ["per_gpu_hour is missing", "per_gpu_hour: 2.10"]),
        ("includes_energy: false", "", ["includes_energy is missing", "covers power"]),
        ("includes_energy: false", "includes_energy: 0", ["includes_energy: 0", "true or false"]),
        ("    from: 2026-11-01\n    source", "    source", ["entry 1", "from is missing"]),
        ("from: 2026-11-01\n    source", "from: soon\n    source", ["from: 'soon'", "2026-11-01"]),
        ("from: 2026-11-01\n    source", "from: 2026-11-01T00:00:00\n    source", ["zone"]),
        ("from: 2026-11-01\n    source", "from: 0001-01-01\n    source", ["from: 0001-01-01", "1971"]),
        (
            "from: 2026-11-01\n    source",
            "from: 2026-11-01\n    kind: tpu\n    source",
            ["kind: 'tpu'", "gpu, mig, cpu"],
        ),
        ("from: 2026-11-01\n    source", "from: 2026-11-01\n    tier: spot\n    source", ["tier: spot"]),
        ("pue: 1.25", "pue: 0.9", ["electricity: entry 1", "pue: 0.9", "between 1 and"]),
        ("per_kwh: ", "per_kwh: 1\n    per_kwh: ", ["'per_kwh' appears twice", "line"]),
        ("devices:\n  -", "devices:\n   ", ["devices", "list"]),
        ("devices:\n", "devices:\n  - H100\n", ["devices: entry 1", "mapping", "H100"]),
        ("contract 4711", "[1, 2]", ["source: [1, 2]", "text"]),
        ("contract 4711", '"a\\nb"', ["source", "printable"]),
        ("currency: EUR", "currency: EUR\nlabel: real", ["label: 'real'", "sample, demo, list"]),
    ],
)
def test_what_is_wrong_is_named_with_file_entry_field_value_and_remedy(load, tmp_path, old, new, says):
    assert old in GOOD
    message = complaint(load, GOOD.replace(old, new, 1))
    assert message.startswith((str(tmp_path), f"the price book {tmp_path}"))
    for part in says:
        assert part in message


def test_entries_that_contradict_each_other_are_refused_with_the_file(load, tmp_path):
    twice = GOOD.replace(
        "devices:\n",
        'devices:\n  - {match: "nvidia h100*", per_gpu_hour: 1, includes_energy: true, from: 2026-11-01}\n',
    )
    message = complaint(load, twice)
    assert message.startswith(str(tmp_path))
    assert "overlap" in message


@pytest.mark.parametrize(
    "text", ["- a\n", "a: [", "!!python/object/apply:os.system ['true']", "a: *b", "[" * 5000, "\0"]
)
def test_a_file_that_is_no_price_book_is_refused(load, text):
    assert "price book" in complaint(load, text)


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    for name in ("x", "nowhere"):
        with pytest.raises(PriceBookError, match=name):
            load_price_book(tmp_path / name)


def test_the_sample_prices_what_it_says_and_is_labelled():
    book = load_price_book(EXAMPLES / "sample-2026-11.yaml")
    assert book.label == "sample"
    now = 20_780 * DAY
    for name, price in {
        "NVIDIA H100 80GB HBM3": "1.69",
        "NVIDIA H200": "1.74",
        "NVIDIA B200": "2.34",
        "NVIDIA GB200": "2.75",
        "AMD Instinct MI355X": "1.90",
    }.items():
        assert str(book.device_price(name, "gpu", now).per_gpu_hour) == price
        assert book.missing(name, "gpu", now) == ""
    assert book.device_price("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "mig", now) is None
    assert all(entry.source for entry in book.devices)


def test_the_demo_prices_the_cpu_only_and_is_labelled():
    book = load_price_book(ROOT / "plugins/costtrace-lab/src/costtrace_lab/demo/prices.yaml")
    assert book.name == "demo-cpu [demo]"
    assert book.rate_for("whatever the CPU is called", "cpu", 20_780 * DAY) is not None
    assert book.rate_for("NVIDIA H100 80GB HBM3", "gpu", 20_780 * DAY) is None
