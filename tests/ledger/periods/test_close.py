"""Closing, re-rating, compacting and copying a ledger: nothing is lost, and whatever is changed afterwards is found."""

import json
import signal
import stat
import subprocess
import threading
from collections import Counter
from contextlib import closing
from datetime import UTC
from decimal import Decimal
from zoneinfo import ZoneInfo

import honest_ledger
import pytest
from click.testing import CliRunner
from dying_command import command_that_dies
from honest_ledger import COSTLY, PLANS, WINDOW_NS, write

from costtrace.cli.app import cli, run
from costtrace.core.errors import LedgerError, PriceBookError
from costtrace.core.rows import Charge, Posting, UsageCost, UsageRecord
from costtrace.ledger import Ledger
from costtrace.ledger.answers import Period
from costtrace.ledger.backup import back_up
from costtrace.ledger.periods.close import close_period, parse_period
from costtrace.ledger.periods.compact import compact_period, compactable
from costtrace.ledger.periods.rerate import rerate
from costtrace.ledger.queries import ended, used
from costtrace.ledger.reader import Filter, SqliteStore
from costtrace.ledger.verify.audit import Audit
from costtrace.ledger.verify.sealed_rows import seals
from costtrace.pricing.price_book import DevicePrice, ElectricityPrice, PriceBook
from costtrace.telemetry.totals import Totals

DAY = parse_period("2026-09-21", UTC)
NEXT = parse_period("2026-09-22", UTC)
HOUR_NS = 3600 * 10**9
ALWAYS = Period(0, 2**62)
LATER_NS = NEXT.until_ns + 10**9
EVERYTHING = ("tenant", "model", "engine", "operation", "hour")


def book(per_hour="3.1", match="*", currency="USD", tariff="0.2"):
    device = DevicePrice(match, Decimal(per_hour), False, 0)
    electricity = [ElectricityPrice(Decimal(tariff), 0)]
    return PriceBook(version=f"new {per_hour}", currency=currency, devices=[device], electricity=electricity)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A ledger whose engines live across midnight; none of them runs any more."""
    monkeypatch.setattr(honest_ledger, "WALL_NS", DAY.until_ns - 5 * WINDOW_NS)
    write(tmp_path, plans=PLANS[:5])
    return tmp_path


@pytest.fixture
def ledger(home):
    with closing(Ledger(home / "ledger.sqlite")) as ledger:
        yield ledger


def unbalanced(ledger):
    return list(Audit(SqliteStore(ledger)).discrepancies())


def whole_hours(keys):
    """A store groups by quarters of an hour, which a compacted period has no more."""
    return (*keys[:-1], int(keys[-1]) // HOUR_NS)


def report(ledger, period=ALWAYS, by=EVERYTHING):
    """All sums of a period, by name."""
    store = SqliteStore(ledger)
    sums = Counter()
    for row in used(store, period, by, Filter()):
        for field in row._fields[row._fields.index("gpu_ns") : row._fields.index("simulated")]:
            known = "unknown" if row.device_nano is None or row.energy_nano is None else "known"
            sums[whole_hours(row.keys), row.kind, row.reason, row.currency, known, field] += getattr(row, field) or 0
    for row in ended(store, period, by, Filter()):
        for field in row._fields[2:]:
            sums[whole_hours(row.keys), row.currency, field] += getattr(row, field)
    return {key: value for key, value in sums.items() if value}


def money(ledger, period=ALWAYS):
    sums = Counter()
    for row in used(SqliteStore(ledger), period, ("tenant",), Filter()):
        if row.device_nano is not None and row.energy_nano is not None:
            sums[row.currency] += row.device_nano + row.energy_nano
    return {currency: nano for currency, nano in sums.items() if nano}


def gpu_ns(ledger, period=ALWAYS):
    return sum(row.gpu_ns for row in used(SqliteStore(ledger), period, ("tenant",), Filter()))


def close(ledger, period=DAY, name="2026-09-21"):
    return close_period(ledger, name, period, LATER_NS)


def test_adjustments_sum_to_the_difference_exactly_and_time_stays(ledger):
    before, time_before = money(ledger), gpu_ns(ledger)
    rerated = rerate(ledger, book(), ALWAYS, "contract corrected", LATER_NS)
    assert rerated.adjustments == rerated.postings > 0
    after = money(ledger)
    currencies = before.keys() | after.keys()
    difference = {c: rerated.after.get(c, 0) - rerated.before.get(c, 0) for c in currencies}
    assert {c: after.get(c, 0) - before.get(c, 0) for c in currencies} == difference
    assert gpu_ns(ledger) == time_before
    assert unbalanced(ledger) == []


def test_a_cost_that_was_unknown_becomes_known_and_another_currency_replaces_the_first(ledger):
    assert "EUR" in money(ledger)
    rerate(ledger, book(), ALWAYS, "now there is a price", LATER_NS)
    rows = list(used(SqliteStore(ledger), ALWAYS, ("engine",), Filter()))
    assert {row.currency for row in rows} == {"USD"}
    assert all(row.device_nano is not None for row in rows if row.keys == ("engine-c",))


def test_the_same_prices_adjust_nothing_and_the_old_prices_bring_the_old_time_cost_back(ledger):
    rerate(ledger, book(), ALWAYS, "up", LATER_NS)
    assert rerate(ledger, book(), ALWAYS, "again", LATER_NS).adjustments == 0
    first = report(ledger)
    rerate(ledger, book("9.9"), ALWAYS, "up", LATER_NS)
    rerate(ledger, book(), ALWAYS, "back", LATER_NS)
    assert report(ledger) == first
    assert unbalanced(ledger) == []


def test_only_what_was_used_since_the_price_changed_is_adjusted(ledger):
    before = report(ledger, DAY)
    rerated = rerate(ledger, book(), NEXT, "from midnight", LATER_NS)
    assert 0 < rerated.adjustments < ledger.connection.execute("SELECT count(*) FROM posting").fetchone()[0]
    assert report(ledger, DAY) == before


def test_a_book_without_a_price_for_a_device_adjusts_nothing(ledger):
    with pytest.raises(PriceBookError, match=r"nothing was adjusted.*no price for the gpu"):
        rerate(ledger, book(match="NVIDIA H100"), ALWAYS, "x", LATER_NS)
    assert ledger.connection.execute("SELECT count(*) FROM adjustment").fetchone()[0] == 0


def test_a_closed_period_does_not_change_when_it_is_rerated_and_the_open_one_carries_the_difference(ledger):
    close(ledger)
    day, total = report(ledger, DAY), money(ledger)
    rerated = rerate(ledger, book(), ALWAYS, "audit", LATER_NS)
    assert rerated.periods == ("2026-09-21",)
    assert report(ledger, DAY) == day
    after = Period(DAY.until_ns, 2**62)
    reasons = {row.reason for row in used(SqliteStore(ledger), after, ("tenant",), Filter())}
    assert {"adjustment of 2026-09-21", "startup adjustment of 2026-09-21"} <= reasons
    due = {c: total.get(c, 0) + rerated.after.get(c, 0) - rerated.before.get(c, 0) for c in ("USD", "EUR")}
    assert money(ledger) == {currency: nano for currency, nano in due.items() if nano}
    assert unbalanced(ledger) == []


@pytest.mark.parametrize("currencies", [("GBP",), ("GBP", "JPY")])
def test_a_closed_period_that_is_re_rated_into_another_currency_moves_money_and_no_time(ledger, currencies):
    close(ledger)
    by, after = ("tenant", "price_book", "hour"), Period(DAY.until_ns, 2**62)
    day, was, whole = report(ledger, DAY), report(ledger, after, by), gpu_ns(ledger)
    before = money(ledger, after)
    for currency in currencies:
        rerated = rerate(ledger, book(currency=currency), DAY, "invoiced elsewhere", LATER_NS)
    assert report(ledger, DAY) == day
    assert gpu_ns(ledger) == whole
    now = report(ledger, after, by)
    moved = {key for key in now.keys() | was.keys() if now.get(key, 0) != was.get(key, 0)}
    assert {key[-1] for key in moved} == {"device_nano", "energy_nano"}
    assert {key[3] for key in moved} >= {"USD", "EUR", currencies[-1]}
    due = {c: before.get(c, 0) + rerated.after.get(c, 0) for c in before.keys() | rerated.after.keys()}
    if len(currencies) == 1:
        due = {c: due.get(c, 0) - rerated.before.get(c, 0) for c in due.keys() | rerated.before.keys()}
        assert money(ledger, after) == {currency: nano for currency, nano in due.items() if nano}
    assert unbalanced(ledger) == []


def test_a_row_that_comes_late_is_booked_in_the_open_period(ledger):
    late = ledger.connection.execute("SELECT * FROM posting WHERE window_ns < ? LIMIT 1", (DAY.until_ns,)).fetchone()
    usage = ledger.connection.execute("SELECT * FROM usage WHERE ended_ns < ? LIMIT 1", (DAY.until_ns,)).fetchone()
    close(ledger)
    day = report(ledger, DAY)
    for table, row in (("posting", late), ("usage", usage)):
        values = {**dict(row), f"{table}_id": None, **({"record_id": "late"} if table == "usage" else {})}
        places = ", ".join("?" * len(values))
        ledger.connection.execute(f"INSERT INTO {table} VALUES ({places})", tuple(values.values()))
    assert report(ledger, DAY) == day
    booked = Period(DAY.until_ns, 2**62)
    everywhere = gpu_ns(ledger, DAY) + gpu_ns(ledger, booked)
    assert everywhere == ledger.connection.execute("SELECT sum(gpu_ns) FROM posting").fetchone()[0]
    assert not [item for item in unbalanced(ledger) if item.check == "closed periods"]


TAMPERED = [
    ("posting", "tenant", "'mallory'"),
    ("posting", "reason", "'x'"),
    ("posting", "device_nano", "coalesce(device_nano, 0) + 1"),
    ("usage", "input_tokens", "input_tokens + 1"),
    ("usage", "tenant_source", "'jwt'"),
    ("meter", "energy_scope", "'x'"),
    ("rate", "device_entry", "'x'"),
]


@pytest.mark.parametrize(("table", "column", "value"), TAMPERED)
def test_one_row_that_was_changed_after_closing_is_found_and_named(ledger, table, column, value):
    close(ledger)
    number, one = (
        0,
        {
            "rate": f"rate_id = '{COSTLY[0]}'",
            "meter": f"start_ns = (SELECT min(start_ns) FROM meter) AND window_ns < {DAY.until_ns}",
        }.get(table),
    )
    if one is None:
        key, at = {"posting": ("posting_id", "window_ns"), "usage": ("usage_id", "ended_ns")}[table]
        sql = f"SELECT max({key}) FROM {table} WHERE {at} < {DAY.until_ns}"
        number = ledger.connection.execute(sql).fetchone()[0]
        one = f"{key} = {number}"
    ledger.connection.execute(f"UPDATE {table} SET {column} = {value} WHERE {one}")
    discrepancies = [
        item for item in unbalanced(ledger) if item.check == "closed periods" and "changed after" in item.meaning
    ]
    assert discrepancies
    assert all(item.row.startswith(f"{table} ") and "2026-09-21" in item.row for item in discrepancies)
    if number:
        assert [item.row for item in discrepancies] == [f"{table} {number} of closed period 2026-09-21"]


def test_rows_that_were_deleted_or_put_in_after_closing_are_named(ledger):
    close(ledger)
    number = ledger.connection.execute("SELECT min(posting_id) FROM posting").fetchone()[0]
    ledger.connection.execute("DELETE FROM posting WHERE posting_id = ?", (number,))
    discrepancies = [item for item in unbalanced(ledger) if item.meaning.startswith("it was deleted")]
    assert [item.row for item in discrepancies] == [f"posting {number} of closed period 2026-09-21"]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE seal SET content = replace(content, 'totals', 'Totals') WHERE seal_id = 1",
        "UPDATE seal SET until_ns = until_ns + 3600000000000 WHERE seal_id = 1",
        "UPDATE seal SET hash = 'x' WHERE seal_id = 2",
        "DELETE FROM seal WHERE seal_id = 1",
        "UPDATE seal_block SET digests = substr(digests, 17) WHERE part = 'usage' AND seal_id = 2",
        "DELETE FROM seal_block WHERE part = 'posting' AND seal_id = 1",
    ],
)
def test_a_chain_that_was_changed_is_found(ledger, sql):
    close(ledger)
    close(ledger, NEXT, "2026-09-22")
    assert unbalanced(ledger) == []
    ledger.connection.execute(sql)
    assert {item.check for item in unbalanced(ledger)} >= {"closed periods"}


def test_what_an_adjustment_says_is_checked_against_its_posting_and_its_run(ledger):
    rerate(ledger, book(), ALWAYS, "x", LATER_NS)
    for change in (
        "adjustment SET device_nano = device_nano + 1 WHERE adjustment_id = 7",
        "adjustment SET from_device_nano = coalesce(from_device_nano, 0) + 1 WHERE adjustment_id = 7",
        "adjustment SET tenant = 'mallory' WHERE adjustment_id = 7",
        "adjustment SET booked_ns = booked_ns + 1 WHERE adjustment_id = 7",
        "rerate SET after = '{}'",
    ):
        ledger.connection.execute("BEGIN")
        ledger.connection.execute(f"UPDATE {change}")
        rows = [item.row for item in unbalanced(ledger)]
        ledger.connection.execute("ROLLBACK")
        assert any(row.startswith(("adjustment 7 ", "re-rating 1")) for row in rows), change


def test_compaction_keeps_every_total_and_verify_proves_it(ledger):
    rerate(ledger, book(), DAY, "x", LATER_NS)
    close(ledger)
    before = report(ledger)
    (seal,) = compactable(seals(SqliteStore(ledger)), LATER_NS)
    compact_period(ledger, seal, LATER_NS)
    assert report(ledger) == before
    assert unbalanced(ledger) == []
    assert compactable(seals(SqliteStore(ledger)), LATER_NS) == []
    kept = ledger.connection.execute("SELECT count(*) FROM posting WHERE window_ns < ?", (DAY.until_ns,)).fetchone()[0]
    crossing = ledger.connection.execute(
        "SELECT count(*) FROM posting p JOIN usage u USING (record_id) WHERE p.window_ns < ? AND u.ended_ns >= ?",
        (DAY.until_ns, DAY.until_ns),
    ).fetchone()[0]
    assert kept == crossing > 0
    close(ledger, NEXT, "2026-09-22")
    (seal,) = compactable(seals(SqliteStore(ledger)), LATER_NS)
    compact_period(ledger, seal, LATER_NS)
    assert report(ledger) == before
    assert unbalanced(ledger) == []


def compact_all(ledger):
    for seal in compactable(seals(SqliteStore(ledger)), LATER_NS):
        compact_period(ledger, seal, LATER_NS)


def newest_numbers(ledger):
    """Of the postings and of the usage records that are there."""
    sql = "SELECT (SELECT max(posting_id) FROM posting), (SELECT max(usage_id) FROM usage)"
    return tuple(ledger.connection.execute(sql).fetchone())


COUNTED = (
    *("gpu_ns", "prefill_ns", "decode_ns", "wasted_ns"),
    *("input_tokens", "cached_tokens", "output_tokens", "computed_tokens", "sequences", "steps", "batch_milli"),
)


def book_one_more(ledger, name="new", at_ns=LATER_NS, model="m-small", **changes):
    """A posting and a record of nothing, of an engine that the ledger has."""
    names = {"engine_id": "engine-e", "tenant": "acme", "model": model, "method": "affine", "record_id": name}
    ledger.post([(Posting(window_ns=at_ns, kind="request", **names), Charge())])
    names |= {"request_key": name, "request_id": name, "tenant_source": "header", "operation": "chat"}
    times = dict.fromkeys(("arrived_ns", "scheduled_ns", "decode_ns_at", "ended_ns"), at_ns)
    row = {**names, **times, **dict.fromkeys(COUNTED, 0), "simulated": True, **changes}
    ledger.put_usage([(UsageRecord(**row), UsageCost())])


def test_numbers_of_rows_that_are_compacted_are_not_given_again(ledger):
    rerate(ledger, book(), ALWAYS, "x", LATER_NS)
    postings, records = newest_numbers(ledger)
    close(ledger)
    close(ledger, NEXT, "2026-09-22")
    compact_all(ledger)
    assert newest_numbers(ledger) < (postings, records), "the newest are compacted"
    book_one_more(ledger)
    assert newest_numbers(ledger) == (postings + 1, records + 1)
    assert unbalanced(ledger) == []


def test_metrics_go_on_where_they_were_when_a_period_is_compacted(ledger):
    def totals():
        sums = Totals()
        sums.load(ledger.connection, [])
        return sums.gpu_ns, sums.energy_uj, sums.cost_nano, sums.wasted_ns, sums.tokens, sums.requests

    close(ledger)
    before = totals()
    compact_period(ledger, compactable(seals(SqliteStore(ledger)), LATER_NS)[0], LATER_NS)
    assert totals() == before
    assert any(before)


def test_compaction_counts_each_request_once_as_before(ledger):
    """Sequences over two engines, halves that say what counts, halves of before, and a lost worker's successor."""
    at_ns, elsewhere = DAY.until_ns - 2 * WINDOW_NS, {"counted_input": 0, "counted_cached": 0}
    parts = [
        {"request_key": "n-3", "input_tokens": 84, "output_tokens": 18},
        {"request_key": "n-3", "input_tokens": 84, "output_tokens": 9, "part": 2, "model": "m-2", **elsewhere},
        {"request_key": "dynamo:a", "role": "prefill", "input_tokens": 18, "output_tokens": 1, "part": 2,
         "counted_output": 0},
        {"request_key": "dynamo:a", "role": "decode", "input_tokens": 18, "output_tokens": 12, **elsewhere},
        {"request_key": "dynamo:b", "role": "prefill", "input_tokens": 18, "output_tokens": 1},
        {"request_key": "dynamo:b", "role": "decode", "input_tokens": 18, "output_tokens": 12},
        {"request_key": "dynamo:c", "input_tokens": 18, "output_tokens": 14, "finish_reasons": ("interrupted",)},
        {"request_key": "dynamo:c", "input_tokens": 18, "output_tokens": 8},
        {"request_key": "dynamo:d", "input_tokens": 7, "output_tokens": 8},
    ]  # fmt: skip
    before = report(ledger)
    for number, part in enumerate(parts):
        book_one_more(ledger, f"part-{number}", at_ns + number, **part)
    whole = report(ledger)
    ends = ("requests", "input_tokens", "output_tokens")
    counted = [sum(n for key, n in whole.items() if key[-1] == end) for end in ends]
    counted_before = [sum(n for key, n in before.items() if key[-1] == end) for end in ends]
    added = [now - then for now, then in zip(counted, counted_before, strict=True)]
    assert added == [5, 84 + 18 + 18 + 18 + 7, 27 + 12 + 12 + 8 + 8]
    totals = Totals()
    totals.load(ledger.connection, [])
    close(ledger)
    compact_all(ledger)
    again = Totals()
    again.load(ledger.connection, [])
    assert report(ledger) == whole
    assert (again.tokens, again.requests) == (totals.tokens, totals.requests)
    assert unbalanced(ledger) == []
    kept = ledger.connection.execute("SELECT DISTINCT request_key FROM usage WHERE record_id LIKE 'part-%'").fetchall()
    assert {key for (key,) in map(tuple, kept)} == {"dynamo:b", "dynamo:c"}, "a roll-up cannot be corrected"


def test_a_row_asks_for_the_newest_seal_by_an_index(ledger):
    sql = "EXPLAIN QUERY PLAN SELECT max(until_ns) FROM seal"
    assert "seal_by_end" in ledger.connection.execute(sql).fetchone()["detail"]


@pytest.mark.parametrize(
    "change",
    [
        "rollup SET device_nano = device_nano + 1 WHERE rollup_id = 3",
        "rollup SET tenant = 'mallory' WHERE rollup_id = 3",
        "rollup SET gpu_ns = gpu_ns + 1 WHERE rollup_id = 3",
        "usage_rollup SET output_tokens = output_tokens + 1 WHERE rollup_id = 3",
    ],
)
def test_a_roll_up_that_was_changed_is_named(ledger, change):
    close(ledger)
    compact_period(ledger, compactable(seals(SqliteStore(ledger)), LATER_NS)[0], LATER_NS)
    ledger.connection.execute(f"UPDATE {change}")
    assert f"{change.split()[0]} 3 of closed period 2026-09-21" in [item.row for item in unbalanced(ledger)]


def test_what_is_compacted_cannot_be_rerated_and_says_so(ledger):
    close(ledger)
    compact_period(ledger, compactable(seals(SqliteStore(ledger)), LATER_NS)[0], LATER_NS)
    with pytest.raises(LedgerError, match="2026-09-21 is compacted to hours"):
        rerate(ledger, book(), ALWAYS, "x", LATER_NS)


def test_a_period_is_not_compacted_before_its_spans_are_sent_or_its_adjustments_are_closed(ledger):
    close(ledger)
    ledger.connection.execute("INSERT INTO cursor VALUES ('spans', 1, 0)")
    with pytest.raises(LedgerError, match="spans has not been sent"):
        compact_period(ledger, compactable(seals(SqliteStore(ledger)), LATER_NS)[0], LATER_NS)
    ((last,),) = SqliteStore(ledger).rows(
        "SELECT max(usage_id) FROM usage WHERE ended_ns < :until", {"until": DAY.until_ns}
    )
    ledger.connection.execute("UPDATE cursor SET usage_id = 1000000")
    ledger.connection.execute(f"INSERT INTO cursor VALUES ('spans#{last}', {last} - 1, 0), ('spans#2', 1, 0)")
    with pytest.raises(LedgerError, match=r"^spans has not been sent"):  # these records are held, and named once
        compact_period(ledger, compactable(seals(SqliteStore(ledger)), LATER_NS)[0], LATER_NS)
    ledger.connection.execute("DELETE FROM cursor")
    rerate(ledger, book(), DAY, "x", LATER_NS)
    with pytest.raises(LedgerError, match="has adjustments in the open period"):
        compact_period(ledger, compactable(seals(SqliteStore(ledger)), LATER_NS)[0], LATER_NS)


def test_a_period_closes_once_in_order_when_it_is_over_and_in_balance(ledger):
    with pytest.raises(LedgerError, match="is not over"):
        close_period(ledger, "2026-09-21", DAY, DAY.until_ns - 1)
    with pytest.raises(LedgerError, match="close the periods before 2026-09-22 first"):
        close(ledger, NEXT, "2026-09-22")
    with pytest.raises(LedgerError, match="there is nothing in 2026-09-20"):
        close(ledger, parse_period("2026-09-20", UTC), "2026-09-20")
    ledger.connection.execute("UPDATE posting SET gpu_ns = gpu_ns + 1 WHERE posting_id = 5")
    with pytest.raises(LedgerError, match="not in balance, so nothing was closed"):
        close(ledger)
    ledger.connection.execute("UPDATE posting SET gpu_ns = gpu_ns - 1 WHERE posting_id = 5")
    close(ledger)
    with pytest.raises(LedgerError, match="closed already"):
        close(ledger)
    with pytest.raises(LedgerError, match="begins in a period that is closed already"):
        close_period(ledger, "2026-09", parse_period("2026-09", UTC), 2 * LATER_NS)


def test_a_period_is_settled_only_when_every_engine_is_booked_to_its_end(tmp_path):
    with closing(Ledger(write(tmp_path))) as ledger:
        with pytest.raises(LedgerError, match="has not booked engine-f up to its end"):
            close(ledger)
        close_period(ledger, "2026-09-21", DAY, LATER_NS, open_engines=True)
        assert unbalanced(ledger) == []


@pytest.mark.parametrize(
    ("name", "zone", "hours"),
    [("2026-11", UTC, 720), ("2026-12", UTC, 744), ("2026", UTC, 8760), ("2026-10-25", ZoneInfo("Europe/Berlin"), 25)],
)
def test_a_period_is_a_year_a_month_or_a_day_of_its_zone(name, zone, hours):
    period = parse_period(name, zone)
    assert period.until_ns - period.since_ns == hours * 3600 * 10**9


OUT_OF_RANGE = ["9999", "9999-12", "9999-12-31", "1600", "2300"]


@pytest.mark.parametrize(
    "name", ["", "2026-13", "2026-1", "last month", "2026-11-31", "../2026", "2026-Q4", *OUT_OF_RANGE]
)
def test_what_is_no_period_is_refused(name):
    with pytest.raises(LedgerError, match="is no period"):
        parse_period(name, UTC)


def test_a_backup_is_made_beside_the_agent_and_is_in_balance(home, tmp_path):
    target, stop = tmp_path / "copy" / "ledger.sqlite", threading.Event()
    target.parent.mkdir()

    def write_on():
        with closing(Ledger(home / "ledger.sqlite")) as writer:
            while not stop.is_set():
                with writer.transaction():
                    writer.notice("test", "x" * 1000)

    thread = threading.Thread(target=write_on)
    thread.start()
    try:
        with closing(Ledger(home / "ledger.sqlite", read_only=True)) as ledger:
            back_up(ledger, target)
            with pytest.raises(LedgerError, match="never replaces a file"):
                back_up(ledger, target)
    finally:
        stop.set()
        thread.join()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in target.parent.iterdir()] == ["ledger.sqlite"]
    with closing(Ledger(target, read_only=True)) as copy:
        assert unbalanced(copy) == []


BOOK = """
version: new
currency: USD
devices: [{match: "*", per_gpu_hour: 3.1, includes_energy: true, from: 2026-01-01}]
"""
KILLED = [
    ("close", "INSERT INTO seal VALUES", 1),
    ("close", "COMMIT", 1),  # what was read is staged, nothing is written
    ("close", "COMMIT", 2),  # all is written, and not yet committed
    ("rerate", "INSERT INTO rerate", 1),
    ("rerate", "INSERT INTO adjustment", 1),
    ("rerate", "COMMIT", 2),
    ("compact", "INSERT INTO meter", 1),
    ("compact", "INSERT INTO seal_block", 1),
    ("compact", "DELETE FROM posting", 1),
    ("compact", "COMMIT", 2),
]


@pytest.mark.parametrize(("command", "statement", "count"), KILLED)
def test_a_command_that_is_killed_leaves_all_or_nothing(home, ledger, command, statement, count):
    prices = home / "prices.yaml"
    prices.write_text(BOOK)
    words = {
        "close": ["close", "2026-09-21"],
        "rerate": ["rerate", "--price-book", str(prices), "--since", "2026-09-21", "--reason", "x"],
        "compact": ["compact", "--keep", "0d"],
    }[command]
    if command == "compact":
        close(ledger)
    before = report(ledger)
    words = [*words, "--home", str(home)]
    killed = subprocess.run(
        command_that_dies(statement, count, *words), capture_output=True, text=True, check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert unbalanced(ledger) == []
    assert report(ledger) == before
    assert not any(seal.kind == command for seal in seals(SqliteStore(ledger)))
    assert run(words) == 0
    assert unbalanced(ledger) == []
    assert command == "rerate" or report(ledger) == before


def test_a_chain_that_was_made_again_is_found_by_the_hash_that_was_kept(home, ledger, capsys):
    kept = close(ledger).hash
    assert run(["verify", "--head", kept, "--home", str(home)]) == 0
    assert f"1 closed periods, the newest hash is {kept}" in capsys.readouterr().out
    for table in ("seal", "seal_block"):
        ledger.connection.execute(f"DELETE FROM {table}")
    ledger.connection.execute("UPDATE usage SET input_tokens = input_tokens + 1 WHERE usage_id = 1")
    close(ledger)
    assert run(["verify", "--home", str(home)]) == 0
    assert run(["verify", "--head", kept, "--home", str(home)]) == 1
    assert "a closed period is another than it was" in capsys.readouterr().out


def test_the_commands_say_what_they_did(home):
    def costtrace(*words):
        done = CliRunner().invoke(cli, [*words, "--home", str(home)], catch_exceptions=False, standalone_mode=False)
        return done.stdout

    assert "2026-09-21 is closed" in costtrace("close", "2026-09-21")
    (home / "prices.yaml").write_text(BOOK)
    output = costtrace(
        "rerate", "--price-book", str(home / "prices.yaml"), "--since", "2026-09-21", "--reason", "audit"
    )
    assert "re-rating 1" in output
    assert "2026-09-21 is closed: its adjustments are booked in the open period" in output
    (row,) = json.loads(costtrace("periods", "--format", "json"))["periods"]
    assert (row["period"], row["kind"]) == ("2026-09-21", "close")
    assert "adjustment of 2026-09-21" in costtrace("report")
    assert "bytes" in costtrace("backup", str(home / "copy.sqlite"))
    assert "in balance" in costtrace("verify")
