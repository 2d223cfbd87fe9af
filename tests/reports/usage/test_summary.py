"""Reports are sums of the ledger's rows: nothing is added, dropped or turned from unknown into 0."""

from contextlib import closing
from datetime import UTC
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from honest_ledger import PLANS, WALL_NS, WINDOW_NS, write

from costtrace.ledger import Ledger
from costtrace.ledger.answers import Ended, Period, Used
from costtrace.ledger.dimensions import DIMENSIONS
from costtrace.ledger.queries import bounds, ended, used
from costtrace.ledger.reader import Filter, SqliteStore
from costtrace.reports.usage.summary import ALL_REQUESTS, EVERYTHING, summarize
from costtrace.reports.usage.summary_tables import summary_tables

SUMS = ("gpu_ns", "prefill_ns", "decode_ns", "wasted_ns")
NOTHING = dict.fromkeys((*SUMS, "energy_unknown_ns"), 0)
ALWAYS = Period(0, 2**62)
USD = tuple(plan for plan in PLANS if plan.engine_id in {"engine-a", "engine-c", "engine-f"})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with closing(Ledger(write(tmp_path_factory.mktemp("ledger")), read_only=True)) as ledger:
        yield SqliteStore(ledger)


def summary(store, by, period=ALWAYS, only=Filter(), zone=UTC):  # noqa: B008 - immutable
    return summarize(by, used(store, period, by, only), ended(store, period, by, only), zone)


UNKNOWN = dict.fromkeys(("energy_uj", "prefill_uj", "decode_uj", "wasted_uj", "device_nano", "energy_nano"))


def usage(keys, **more):
    return Used(keys, **{"kind": "request", "reason": "", "currency": "", **NOTHING, **UNKNOWN, **more})


def tokens(keys, currency="", requests=1, inputs=0, outputs=0):
    return Ended(keys, currency, requests, requests, inputs, 0, outputs, 0, 0)


@pytest.mark.parametrize(
    "by",
    [(), ("tenant", "model"), ("hour",), ("day", "tenant"), ("engine", "operation"), ("device",), tuple(DIMENSIONS)],
)
def test_the_lines_sum_to_the_postings_and_to_the_usage_records(store, by):
    summed = summary(store, by)
    lines = [*summed.lines, *summed.rest]
    for name in SUMS:
        (due,) = next(store.rows(f"SELECT sum({name}) FROM posting"))
        assert sum(getattr(line, name) for line in lines) == due
    for column, name in (
        ("energy_uj", "energy_uj"),
        ("device_nano", "device_cost_nano"),
        ("energy_nano", "energy_cost_nano"),
    ):
        (due,) = next(store.rows(f"SELECT sum({column}) FROM posting"))
        assert sum(getattr(line, name) or 0 for line in lines) == due
    (cost,) = next(store.rows("SELECT sum(device_nano + energy_nano) FROM posting"))
    assert sum(line.cost_nano or 0 for line in lines) == cost
    (unpriced,) = next(store.rows("SELECT sum(gpu_ns) FROM posting WHERE device_nano + energy_nano IS NULL"))
    assert sum(line.cost_unknown_ns for line in lines) == unpriced
    (unmeasured,) = next(store.rows("SELECT sum(gap_ns) FROM posting"))
    assert sum(line.energy_unknown_ns for line in lines) == unmeasured
    sums = next(store.rows("SELECT count(*), sum(input_tokens), sum(output_tokens) FROM usage"))
    names = ("requests", "input_tokens", "output_tokens")
    assert tuple(sum(getattr(line, name) for line in summed.lines) for name in names) == sums


def test_the_totals_are_the_sums_of_the_lines_for_each_currency(store):
    summed = summary(store, ("tenant",))
    assert [line.currency for line in summed.totals] == ["EUR", "EUR", "USD", "USD", "", ""]
    for requests, everything in zip(summed.totals[::2], summed.totals[1::2], strict=True):
        assert (requests.kind, everything.kind) == (ALL_REQUESTS, EVERYTHING)
        lines = [line for line in summed.lines if line.currency == requests.currency]
        rest = [line for line in summed.rest if line.currency == requests.currency]
        assert requests.gpu_ns == sum(line.gpu_ns for line in lines)
        assert everything.gpu_ns == requests.gpu_ns + sum(line.gpu_ns for line in rest)
        assert (everything.cost_nano or 0) == sum(line.cost_nano or 0 for line in [*lines, *rest])
        assert requests.input_tokens == everything.input_tokens


def test_a_period_takes_the_windows_that_begin_in_it(store):
    middle = WALL_NS + 3 * WINDOW_NS
    halves = [summary(store, ("tenant",), period) for period in (Period(0, middle), Period(middle, 2**62))]
    whole = summary(store, ("tenant",))
    for name in ("gpu_ns", "requests", "output_tokens"):
        both = sum(getattr(line, name) for half in halves for line in [*half.lines, *half.rest])
        assert both == sum(getattr(line, name) for line in [*whole.lines, *whole.rest])
    assert all(half.lines for half in halves)
    assert bounds(store).since_ns == WALL_NS


def test_a_tenants_report_holds_nobody_elses_rows(store):
    summed = summary(store, ("tenant",), only=Filter(tenant="acme"))
    assert {line.keys for line in summed.lines} == {("acme",)}
    assert summed.rest == []


def test_one_currency_and_some_time_without_a_price_are_one_total(tmp_path):
    with closing(Ledger(write(tmp_path, plans=USD))) as ledger:
        summed = summary(SqliteStore(ledger), ("tenant",))
    assert [line.currency for line in summed.totals] == ["USD", "USD"]
    everything = summed.totals[1]
    assert everything.cost_nano > 0
    assert everything.cost_unknown_ns > 0
    assert everything.per_million("total") is None


def test_cost_per_million_tokens_divides_by_the_basis_in_its_name():
    rows = [
        usage(("acme",), currency="USD", gpu_ns=10, decode_ns=10, energy_uj=1, device_nano=6_000, energy_nano=0),
        usage(("",), kind="idle", currency="USD", gpu_ns=30, energy_uj=1, device_nano=18_000, energy_nano=0),
    ]
    summed = summarize(("tenant",), rows, [tokens(("acme",), "USD", 1, inputs=4, outputs=2)], UTC)
    acme, idle, requests, everything = summary_tables(summed, "")[0].rows
    assert acme["cost_per_million_total_tokens"] == Decimal(1)
    assert acme["cost_per_million_input_tokens"] == Decimal("1.5")
    assert acme["cost_per_million_output_tokens"] == Decimal(3)
    assert idle["cost_per_million_total_tokens"] is None
    assert (requests["cost_includes_idle"], everything["cost_includes_idle"]) == (False, True)
    assert everything["cost_per_million_total_tokens"] == Decimal(4)


def test_unknown_is_not_zero_and_a_part_that_is_unknown_is_said():
    rows = [
        usage(("acme",), currency="USD", gpu_ns=10, energy_uj=5, device_nano=7, energy_nano=1),
        usage(("acme",), currency="USD", gpu_ns=20, energy_unknown_ns=20),
        usage(("blue",), gpu_ns=40, energy_unknown_ns=40),
    ]
    table = summary_tables(summarize(("tenant",), rows, [tokens(("acme",), "USD"), tokens(("blue",))], UTC), "")[0]
    shown = {column.heading: [column.show(line) for line in table.lines[:2]] for column in table.columns}
    assert shown["cost"] == ["0.000000008 USD + ?", "unknown"]
    assert shown["energy"] == ["0.000 J + ?", "unknown"]
    acme, blue = table.rows[:2]
    assert (acme["cost_nano"], acme["cost_unknown_gpu_ns"]) == (8, 20)
    assert (blue["cost_nano"], blue["energy_uj"], blue["cost_unknown_gpu_ns"]) == (None, None, 40)


def quarter(wall_s):
    return str(wall_s // 900 * 900 * 10**9)


def test_days_and_hours_begin_where_the_time_zone_says():
    kathmandu = ZoneInfo("Asia/Kathmandu")  # 5:45 ahead
    late, early = 1_790_014_500, 1_790_014_500 - 60  # 2026-09-21 18:15:00 UTC is midnight there
    rows = [usage((quarter(late), quarter(late)), gpu_ns=1), usage((quarter(early), quarter(early)), gpu_ns=2)]
    summed = summarize(("day", "hour"), rows, [], kathmandu)
    assert {line.keys: line.gpu_ns for line in summed.lines} == {
        ("2026-09-21", "2026-09-21 23:00+0545"): 2,
        ("2026-09-22", "2026-09-22 00:00+0545"): 1,
    }


def test_the_hour_that_a_clock_change_repeats_is_two_lines():
    berlin = ZoneInfo("Europe/Berlin")
    first = 1_792_886_400  # 2026-10-25 00:00 UTC: 02:00 in summer time, an hour before 02:00 in winter time
    rows = [usage((quarter(first + by),), gpu_ns=1) for by in (0, 1800, 3600, 5400)]
    summed = summarize(("hour",), rows, [], berlin)
    assert {line.keys[0]: line.gpu_ns for line in summed.lines} == {
        "2026-10-25 02:00+0200": 2,
        "2026-10-25 02:00+0100": 2,
    }


def test_shares_show_used_wasted_and_idle_time(store):
    shares = summary_tables(summary(store, ("tenant",)), "")[2]
    gpu_ns = {row["share"]: row["gpu_ns"] for row in shares.rows}
    assert list(gpu_ns) == ["used", "wasted", "idle", "overhead", "unobserved"]
    (whole,) = next(store.rows("SELECT sum(gpu_ns) FROM posting"))
    assert sum(gpu_ns.values()) == whole
    assert gpu_ns["wasted"] == next(store.rows("SELECT sum(wasted_ns) FROM posting"))[0]
