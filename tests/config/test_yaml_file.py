"""Files that people write: a number is what is written, in decimal, or an error that names the file and the line."""

from decimal import Decimal

import pytest
from costtrace_statements.commands.billing_options import read_quotas
from hypothesis import given
from hypothesis import strategies as st

from costtrace.config.load import load
from costtrace.config.yaml_fields import Fields
from costtrace.config.yaml_file import load_mapping
from costtrace.core.errors import ConfigError, CosttraceError, PriceBookError
from costtrace.core.numbers import exact
from costtrace.ledger.budgets.file import load_budgets
from costtrace.pricing.price_book_file import load_price_book
from costtrace.reports.usage.organisation_file import load_tenants

NUMBERS = {
    "012": "12",
    "05000": "5000",
    "007": "7",
    "0123456": "123456",
    "08": "8",
    "0.10": "0.10",
    ".5": "0.5",
    "5.": "5",
    "+5": "5",
    "1e3": "1000",
    "1.5e3": "1500",
    "1.0e+3": "1000",
    '"012"': "12",
    "!!str 012": "12",
}
NONE = [
    "1_000", "1_", "1_0.5_0", "1:30", "1:30:00", "1:30.5", "0x1F", "0b11", "0o17", "1,5", ".inf", ".nan", "NaN", "=",
    "-012", "yes", "on", "no", "off", "2026-11-01", "2026-11-01T10:00:00", "[1]", "{a: 1}", "1e999999999", "\uff11",
    '!!int "012"', "!!float 1", "!!bool x", "!!timestamp x", "!!binary MTI=", "!own 1",
]  # fmt: skip


def book(number):
    return f"""version: 007
currency: EUR
devices:
  - match: 0815
    includes_energy: on
    per_gpu_hour: {number}
    from: 2026-11-01
    pool: 1_000
    region: 1.0e+3
    source: 2026-11-01
"""


def budgets(number):
    return f"currency: EUR\nbudgets:\n  - name: 012\n    tenant: 1:30\n    model: 0x1F\n    amount: {number}\n"


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "file.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(("number", "value"), NUMBERS.items())
def test_a_number_is_the_decimal_number_that_is_written(written, number, value):
    assert load_price_book(written(book(number))).devices[0].per_gpu_hour == Decimal(value)
    assert load_budgets(written(budgets(number)))[0].amount_nano == Decimal(value) * 10**9


@pytest.mark.parametrize("number", NONE)
def test_what_is_no_decimal_number_is_an_error_that_names_file_and_line(written, number):
    path = written(book(number))
    with pytest.raises(PriceBookError, match=r"(?s)file\.yaml.*line 6\b") as caught:
        load_price_book(path)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ConfigError, match=r"(?s)file\.yaml.*line 6\b"):
        load_budgets(written(budgets(number)))


def test_names_are_as_they_are_written(written):
    read = load_price_book(written(book("012")))
    device = read.devices[0]
    assert (read.version, device.match, device.pool, device.region, device.source, device.includes_energy) == (
        "007", "0815", "1_000", "1.0e+3", "2026-11-01", True,
    )  # fmt: skip
    budget = load_budgets(written(budgets("1")))[0]
    assert (budget.name, budget.tenant, budget.model) == ("012", "1:30", "0x1F")
    tenants = load_tenants(
        written("tenants:\n- name: 007\n  cost_centre: 0417\n  team: 1_0\n  labels: {012: .5, 2026-11-01: 1e3}\n")
    )
    assert tenants["007"].cost_centre == "0417"
    assert tenants["007"].team == "1_0"
    assert tenants["007"].labels == {"012": ".5", "2026-11-01": "1e3"}
    assert {type(text) for text in (*tenants, *tenants["007"].labels, *tenants["007"].labels.values())} == {str}


def test_quotas_are_as_they_are_written(written):
    quota = read_quotas(written("quotas:\n- {tenant: 012, share: 0.10}\n- {tenant: a, share: .5, pool: 0815}\n"))
    assert quota == (("012", Decimal("0.10"), ""), ("a", Decimal("0.5"), "0815"))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{tenant: no, share: 0.5}", "tenant: False must be a text"),
        ("{tenant: [a], share: 0.5}", "must be a text"),
        ("{tenant: , share: 0.5}", "tenant is missing"),
        ("{tenant: a, share: NaN}", "share: 'NaN' must be a number"),
        ("{tenant: a, share: 1:30}", "share: 1:30 must be a number"),
        ("{tenant: a, share: -0.5}", "share: -0.5 must be"),
        ("{tenant: a, share: yes}", "share: True must be a number"),
        ("{tenant: a, share: 0.5, pol: x}", "'pol'"),
        ("5", "must be a mapping"),
    ],
)
def test_a_quota_that_cannot_be_is_an_error_that_names_file_and_line(written, entry, says):
    with pytest.raises(CosttraceError, match=r"file\.yaml.*line 3\b") as caught:
        read_quotas(written(f"quotas:\n- {{tenant: b, share: 0.1}}\n- {entry}\n"))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("window_s: 060", "window_s", 60),
        ("prometheus_port: 09464", "prometheus_port", 9464),
        ("prometheus_port: 02222", "prometheus_port", 2222),
        ("journal_cap_bytes: 040000000", "journal_cap_bytes", 40_000_000),
        ("sensor_hz: .5", "sensor_hz", 0.5),
        ("carbon_intensity: 380", "carbon_intensity", "380"),
        ("carbon_intensity: 0380.50", "carbon_intensity", "0380.50"),
        ("carbon_pue: 01.2", "carbon_pue", Decimal("1.2")),
        ("tenant_default: 012", "tenant_default", "012"),
        ("host: 2026-11-01", "host", "2026-11-01"),
        ("tenant_models: {lora: 012}", "tenant_models", {"lora": "012"}),
        ("enabled: off", "enabled", False),
    ],
)
def test_a_setting_is_what_its_variable_would_be(written, text, key, value):
    settings = load(env={"HOME": "/home/someone", "COSTTRACE_CONFIG": str(written(text))})
    assert getattr(settings, key) == value
    if isinstance(value, str):
        assert type(getattr(settings, key)) is str


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("window_s: 0070", "window_s='0070' (line 3): must divide 3600"),
        ("window_s: 1:00", "window_s='1:00' (line 3)"),
        ("prometheus_port: 0x24F8", "prometheus_port='0x24F8' (line 3)"),
        ("agent: off", "agent='false' (line 3)"),
        ("tenant_default: no", "tenant_default='false' (line 3)"),
        ("pricebook: x", "'pricebook' (line 3). The nearest is 'prices'"),
        ("012: x", "'012' (line 3). The nearest is"),
        ("on: x", "line 3"),
        ("host: y", "'host' appears twice"),
    ],
)
def test_a_setting_that_cannot_be_is_an_error_that_names_file_and_line(written, line, shown):
    with pytest.raises(ConfigError, match=r"file\.yaml.*line 3\b") as caught:
        load(env={"HOME": "/home/someone", "COSTTRACE_CONFIG": str(written(f"# mine\nhost: x\n{line}\n"))})
    assert shown in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: {c: 1, c: 2}", 2),
        ("a: 1\n'a': 2", 2),
        ("a: 1\nno: 2", 2),
        ("a: 1\n? [x]\n: 2", 2),
        ("a: 1\n~: 2", 2),
        ("a: &a [*a]", 1),
        ("a: &a {b: *a}", 1),
        ("a: !!set {x, y}", 1),
        ("a: !!omap [x: 1]", 1),
        ("a: !!map [1]", 1),
        ("a:\n- !!python/name:os.system", 2),
    ],
)
def test_what_has_no_plain_meaning_is_refused_with_its_line(written, text, line):
    with pytest.raises(ConfigError, match=rf"it .*file\.yaml .*line {line}\b"):
        load_mapping(written(text), ConfigError, "it")


def test_aliases_cannot_make_a_small_file_large(written):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 10)}]\n" for depth in range(1, 40)
    )
    with pytest.raises(ConfigError, match=r"file\.yaml.*aliases.*line 6\b"):
        load_mapping(written(bomb), ConfigError, "it")
    assert load_mapping(written("a: &a [1]\nb: [*a, *a]"), ConfigError, "it") == {"a": ["1"], "b": [["1"], ["1"]]}


@pytest.mark.parametrize(
    ("written_as", "wall_s"),
    [
        ("2026-11-01", 1_793_491_200),
        ("2026-11-01T00:00:00Z", 1_793_491_200),
        ("2026-11-01 00:00:00+01:00", 1_793_487_600),
        ("'2026-11-01'", 1_793_491_200),
    ],
)
def test_a_date_is_a_date_quoted_or_not(written, written_as, wall_s):
    raw = load_mapping(written(f"from: {written_as}"), ConfigError, "it")
    assert Fields(raw, "it", ("from",)).time("from") == wall_s * 10**9


@given(st.text(alphabet="0123456789_:.eExob+-,", min_size=1, max_size=8))
def test_no_reading_of_a_number_differs_from_the_decimal_one(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "number.yaml"
    path.write_text(f"n: {text}")
    value = exact(text)
    if value is None or not 0 <= value <= 10**9 or value.as_tuple().exponent < -18:
        with pytest.raises(PriceBookError, match="line 1"):
            Fields(load_mapping(path, PriceBookError, "it"), "it", ("n",)).number("n", "one")
    else:
        assert Fields(load_mapping(path, PriceBookError, "it"), "it", ("n",)).number("n", "one") == Decimal(text)
