"""After a re-rating, single requests show what they cost by now, and what they were first given."""

import json
import sqlite3
from contextlib import closing
from decimal import Decimal

import pytest
from click.testing import CliRunner
from honest_ledger import PLANS, WALL_NS, WINDOW_NS, write

from costtrace.agent.node_health import reratings
from costtrace.cli.app import cli
from costtrace.ledger import Ledger
from costtrace.ledger.answers import Period
from costtrace.ledger.cost_by_now import renew
from costtrace.ledger.periods.rerate import rerate
from costtrace.ledger.queries import requests
from costtrace.ledger.reader import Filter, SqliteStore
from costtrace.pricing.price_book import DevicePrice, ElectricityPrice, PriceBook

ALWAYS = Period(0, 2**62)
LATER_NS = WALL_NS + 30 * 86_400 * 10**9


def book(per_hour, *, includes_energy=True):
    device = DevicePrice("*", Decimal(per_hour), includes_energy, 0)
    electricity = [ElectricityPrice(Decimal("0.2"), 0)]
    return PriceBook(version=f"at {per_hour}", currency="USD", devices=[device], electricity=electricity)


@pytest.fixture
def home(tmp_path):
    write(tmp_path, plans=PLANS[:5])
    return tmp_path


@pytest.fixture
def ledger(home):
    with closing(Ledger(home / "ledger.sqlite")) as ledger:
        yield ledger


def requests_now(ledger, order="ended", limit=10_000):
    store = SqliteStore(ledger)
    return renew(store, requests(store, ALWAYS, Filter(), order, limit))


def billed(ledger):
    """What the bill has of each record, adjustments included."""
    sql = "SELECT record_id, sum(device_nano) + sum(energy_nano) FROM line WHERE record_id != '' GROUP BY record_id"
    return dict(map(tuple, ledger.connection.execute(sql)))


def test_without_a_re_rating_a_cost_is_the_one_that_was_first_given(ledger):
    for request in requests_now(ledger):
        assert request.rerated == 0
        assert (request.cost_nano, request.currency) == (request.first_cost_nano, request.first_currency)


def test_a_re_rated_request_costs_what_the_bill_has_of_it_and_its_phases_add_up(ledger):
    before = {request.record_id: request for request in requests_now(ledger)}
    assert {request.cost_nano is None for request in before.values()} == {True, False}, "some cost was unknown"
    rerate(ledger, book("3.1"), ALWAYS, "corrected", LATER_NS)
    rerate(ledger, book("2.9"), ALWAYS, "corrected again", LATER_NS)
    due = billed(ledger)
    for request in requests_now(ledger):
        assert request.cost_nano == due[request.record_id] == request.prefill_nano + request.decode_nano
        assert (request.rerated, request.currency, request.price_book) == (2, "USD", "at 2.9")
        was = before[request.record_id]
        first = (request.first_cost_nano, request.first_currency, request.first_price_book)
        assert first == (was.cost_nano, was.currency, was.price_book)


def test_a_request_that_is_re_rated_in_part_costs_its_old_and_its_new_charges(ledger):
    rerate(ledger, book("3.1"), ALWAYS, "one currency, all known", LATER_NS)
    rerate(ledger, book("9.9"), Period(WALL_NS + WINDOW_NS, 2**62), "from the second window on", LATER_NS)
    due = billed(ledger)
    renewed = requests_now(ledger)
    assert {request.rerated for request in renewed} == {1, 2}
    assert all(request.cost_nano == due[request.record_id] for request in renewed)


def test_a_cost_that_the_new_prices_do_not_know_is_unknown_and_comes_last(ledger):
    rerate(ledger, book("3.1"), ALWAYS, "all known", LATER_NS)
    rerate(ledger, book("3.1", includes_energy=False), ALWAYS, "energy is metered", LATER_NS)
    renewed = requests_now(ledger, "cost")
    unknown = [request.cost_nano is None for request in renewed]
    assert set(unknown) == {True, False}
    assert all((request.energy_uj is None) <= none for request, none in zip(renewed, unknown, strict=True))
    assert all(request.first_cost_nano is None or request.rerated == 2 for request in renewed)


def test_sorted_by_cost_is_by_the_cost_of_now(ledger):
    rerate(ledger, book("3.1"), ALWAYS, "one currency, all known", LATER_NS)
    rerate(ledger, book("99"), Period(WALL_NS + 2 * WINDOW_NS, 2**62), "much more later", LATER_NS)
    costs = [request.cost_nano for request in requests_now(ledger, "cost")]
    assert costs == sorted(costs, reverse=True)
    assert [request.cost_nano for request in requests_now(ledger, "cost", 3)] == costs[:3]


def test_people_see_both_costs(home, ledger):
    def costtrace(*words):
        done = CliRunner().invoke(cli, [*words, "--home", str(home)], catch_exceptions=False, standalone_mode=False)
        return done.stdout

    request = next(each for each in requests_now(ledger) if each.cost_nano)
    assert "at first" not in costtrace("requests")
    assert "first_cost" not in costtrace("requests", "--id", request.record_id)
    assert "first given" not in costtrace("explain", request.record_id)
    rerate(ledger, book("3.1"), ALWAYS, "corrected", LATER_NS)
    assert "at first" in costtrace("requests")
    assert "first_cost_nano" in costtrace("requests", "--id", request.record_id)
    assert "re-rating 1 changed that" in costtrace("explain", request.record_id)
    (row,) = json.loads(costtrace("requests", "--id", request.record_id, "--format", "json"))["requests"]
    assert (row["first_cost_nano"], row["rerated"]) == (request.cost_nano, 1)
    assert row["cost_nano"] == billed(ledger)[request.record_id]


class TwoLedgers:
    """The rows of two ledgers in one store, where numbers of postings and adjustments come twice."""

    def __init__(self, path):
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute("ATTACH DATABASE ? AS one", (f"file:{path}?mode=ro",))
        for table in ("posting", "adjustment", "rate", "rerate"):
            self.connection.execute(f"CREATE TABLE {table} AS SELECT * FROM one.{table}")
        self.connection.execute("INSERT INTO posting SELECT * FROM one.posting WHERE record_id != ''")
        self.connection.execute("INSERT INTO adjustment SELECT * FROM one.adjustment WHERE record_id != ''")
        for table in ("posting", "adjustment"):
            sql = f"UPDATE {table} SET record_id = 'b-' || record_id, device_nano = device_nano + 7 WHERE rowid > ?"
            (rows,) = self.connection.execute(f"SELECT count(*) FROM one.{table}").fetchone()
            self.connection.execute(sql, (rows,))

    def rows(self, sql, parameters=None):
        return iter(self.connection.execute(sql, parameters or {}).fetchall())


def test_another_ledgers_adjustment_of_the_same_number_is_not_ones_own(home, ledger):
    rerate(ledger, book("3.1"), ALWAYS, "corrected", LATER_NS)
    due = {request.record_id: request for request in requests_now(ledger)}
    store = TwoLedgers(home / "ledger.sqlite")
    with closing(store.connection):
        for one in due.values():
            first = one._replace(cost_nano=one.first_cost_nano, rerated=0)
            other = first._replace(record_id=f"b-{one.record_id}")
            mine, others = renew(store, [first, other])
            assert mine == one
            assert others.cost_nano > one.cost_nano


def test_re_ratings_are_counted_for_whoever_reads_metrics(home, ledger):
    assert reratings(home) == 0
    rerate(ledger, book("3.1"), ALWAYS, "corrected", LATER_NS)
    assert reratings(home) == 1
    assert reratings(home / "nowhere") == 0
