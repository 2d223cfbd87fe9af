"""What changes a bill after it was pushed: on the real engine, the fleet store says of it what SQLite says."""

from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal

import month as world
import pytest
from costtrace_fleet.push import Cursor, push
from costtrace_fleet.schema import Layout
from costtrace_fleet.store import open_store
from costtrace_fleet.tables import TABLES
from costtrace_statements.idle_policies import POLICIES
from costtrace_statements.query import load
from costtrace_statements.settlement import IdlePolicy, settle

from costtrace.core.errors import LedgerError
from costtrace.ledger import Ledger
from costtrace.ledger.answers import Period
from costtrace.ledger.cost_by_now import renew
from costtrace.ledger.periods.close import close_period, parse_period
from costtrace.ledger.periods.compact import compact_period, compactable
from costtrace.ledger.periods.rerate import rerate
from costtrace.ledger.queries import bounds, claims, ended, requests, used
from costtrace.ledger.reader import Filter as Only
from costtrace.ledger.reader import SqliteStore, open_ledger
from costtrace.ledger.verify.audit import Audit
from costtrace.ledger.verify.sealed_rows import seals
from costtrace.pricing.price_book import DevicePrice, ElectricityPrice, PriceBook

NOVEMBER = Period(world.START_NS, world.END_NS)
ALWAYS = Period(0, 2**62)
LATER_NS = 2**61
DIMENSIONS = ((), ("tenant", "model", "device"), ("engine", "operation", "price_book"), ("day",), ("method", "role"),
              ("workload", "user"), ("tenant", "label:team.a"))  # fmt: skip
pytestmark = pytest.mark.heavy


def prices(version, h100, currency="USD"):
    devices = [
        DevicePrice("NVIDIA H100", Decimal(h100), False, 0),
        DevicePrice("NVIDIA L40S", Decimal("0.9"), True, 0),
    ]
    electricity = [ElectricityPrice(Decimal("0.2"), 0)]
    return PriceBook(version=version, currency=currency, devices=devices, electricity=electricity)


def bill(store):
    """Nano-dollars of everything."""
    return sum((row.device_nano or 0) + (row.energy_nano or 0) for row in used(store, ALWAYS, ()))


class Books:
    """A ledger that is written on, and the fleet store that follows it."""

    def __init__(self, home, fleet):
        self.home, self.fleet = home, fleet
        self.ledger = Ledger(home / "ledger.sqlite")
        self.month = world.Month(self.ledger, requests_per_window=2)

    def push(self, **options):
        with open_ledger(self.home) as ledger:
            return push(ledger, self.fleet, Cursor(self.home, self.fleet.where), **options)

    def rerate(self, version, h100, now_ns):
        assert rerate(self.ledger, prices(version, h100), NOVEMBER, "corrected", now_ns).adjustments

    def late(self):
        """Another window of an engine, with its requests, meter and usage records, of a month that is closed."""
        pool, model, devices, (first, last) = world.ENGINES["l-2"]
        world.ENGINES["l-2"] = (pool, model, devices, (first, last + 1))
        try:
            with self.ledger.transaction():
                self.month.engine("l-2")
                before = len(self.month.late)
                rows = self.month.window("l-2", last)
                rows.records.extend(record for _, record in self.month.late[before:])
                self.month.booking.write(self.ledger, self.month.booking.rate(rows))
        finally:
            world.ENGINES["l-2"] = (pool, model, devices, (first, last))
        return self.ledger.connection.execute("SELECT max(booked_ns) FROM late_posting").fetchone()[0]

    def close(self, name):
        close_period(self.ledger, name, parse_period(name, UTC), LATER_NS)

    def compact(self):
        store = SqliteStore(self.ledger)
        for seal in compactable(seals(store), NOVEMBER.until_ns):
            compact_period(self.ledger, seal, LATER_NS)


def most_expensive(store, prefix=""):
    """What the most expensive requests cost by now. The number of a re-rating is the store's own."""
    costliest = [each for each in requests(store, ALWAYS, Only(), "cost", 10**6) if each.record_id.startswith(prefix)]
    return [each._replace(rerated=bool(each.rerated)) for each in renew(store, costliest[:12])]


def answers_of(store):
    """Everything that reports ask of a store."""
    answers = [sorted(ask(store, ALWAYS, by), key=repr) for ask in (used, ended) for by in DIMENSIONS]
    answers += [bounds(store), list(claims(store, ALWAYS)), requests(store, ALWAYS, Only(), "ended", 10**6)]
    answers.append(most_expensive(store))
    for period in (NOVEMBER, Period(NOVEMBER.until_ns, 2**62)):
        source = load(store, period, UTC, slots=True)
        answers += [settle(source, IdlePolicy(policy)) for policy in POLICIES]
    audit = Audit(store)
    assert list(audit.discrepancies()) == []
    return [*answers, audit.counts(), audit.accounts(), audit.devices(), audit.engine_totals(), audit.totals()]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    pytest.importorskip("chdb", reason="chdb is missing: install costtrace-fleet[test]")
    with open_store(f"chdb://{tmp_path_factory.mktemp('chdb') / 'store'}") as fleet:
        yield fleet


@pytest.fixture
def books(fleet, tmp_path):
    fleet.create(Layout())
    for table in TABLES:
        fleet.run(f"TRUNCATE TABLE costtrace.{table.name}_rows SYNC")
    books = Books(tmp_path, fleet)
    with closing(books.ledger):
        books.month.write()
        yield books


def stages(books):
    """What can happen to a ledger, in order."""
    yield "as it was booked"
    books.rerate("first correction", "2.7", LATER_NS)
    yield "re-rated in the open month"
    books.close("2026-11")
    booked_ns = books.late()
    yield "late rows of the closed month"
    books.rerate("second correction", "3.1", booked_ns)
    yield "re-rated after it was closed"
    books.close(datetime.fromtimestamp(booked_ns // 10**9, UTC).strftime("%Y-%m"))
    books.compact()
    yield "compacted"


def test_re_ratings_late_rows_and_compaction_are_the_same_on_both_stores(books):
    bills = []
    for stage in stages(books):
        books.push(batch=701)
        with open_ledger(books.home) as ledger:
            due = answers_of(ledger)
        assert answers_of(books.fleet) == due, stage
        bills.append(bill(books.fleet))
        if stage == "as it was booked":
            assert bills == [books.month.bill()]
        next(books.home.glob("fleet-*.json")).unlink()
        books.push()
        assert answers_of(books.fleet) == due, f"{stage}, sent once more"
    assert len(set(bills)) == len(bills) - 1
    assert bills[-1] == bills[-2]  # compaction moves no nano-dollar


def test_a_closed_month_in_another_currency_is_the_same_on_both_stores(books):
    books.close("2026-11")
    assert rerate(books.ledger, prices("euros", "2.7", "EUR"), NOVEMBER, "invoiced in euros", LATER_NS).adjustments
    books.push()
    with open_ledger(books.home) as ledger:
        due = answers_of(ledger)
    assert answers_of(books.fleet) == due
    moved = list(used(books.fleet, Period(NOVEMBER.until_ns, 2**62), ("tenant",)))
    assert {row.currency for row in moved} == {"USD", "EUR"}
    assert {(row.gpu_ns, row.energy_uj, row.energy_unknown_ns) for row in moved} == {(0, 0, 0)}


def test_a_ledger_that_was_compacted_before_its_first_push_is_the_same_on_both_stores(books):
    for _ in stages(books):
        pass
    books.push()
    with open_ledger(books.home) as ledger:
        assert answers_of(books.fleet) == answers_of(ledger)


class Breaking:
    """The store whose insert number *left* arrives, and the connection breaks before the answer."""

    def __init__(self, fleet, left):
        self.where, self.fleet, self.left = fleet.where, fleet, left

    def insert(self, *given):
        self.fleet.insert(*given)
        self.left -= bool(given[1])
        if not self.left:
            raise LedgerError("the line broke")


def test_readers_see_a_re_rating_and_a_compaction_whole_or_not_at_all(books):
    """A push is broken after each of its inserts: the bill is the old one or the new one."""
    was = None
    for stage in stages(books):
        with open_ledger(books.home) as ledger:
            due = bill(ledger)
            time = sum(row.gpu_ns for row in used(ledger, ALWAYS, ()))
            for count in range(1, 400):
                try:
                    push(ledger, Breaking(books.fleet, count), Cursor(books.home, books.fleet.where), batch=700)
                    break
                except LedgerError:
                    if stage in {"re-rated in the open month", "re-rated after it was closed", "compacted"}:
                        assert bill(books.fleet) in {was, due}, (stage, count)
                        assert sum(row.gpu_ns for row in used(books.fleet, ALWAYS, ())) == time
        assert bill(books.fleet) == due, stage
        was = due


@pytest.mark.parametrize("last", ["re-rated after it was closed", "compacted"])
def test_two_nodes_with_the_same_numbers_do_not_meet(books, tmp_path_factory, last):
    for stage in stages(books):
        if stage == last:
            break
    books.push()
    alone, ours = bill(books.fleet), most_expensive(books.fleet, "r-")
    assert ours or last == "compacted"
    home = tmp_path_factory.mktemp("second")
    with closing(Ledger(home / "ledger.sqlite")) as second:
        connection = second.connection
        connection.execute("ATTACH DATABASE ? AS one", (str(books.home / "ledger.sqlite"),))
        tables = ("engine", "posting", "meter", "usage", "rate", "position", "rerate", "adjustment", "rollup",
                  "usage_rollup", "late_posting", "late_usage", "late_meter", "seal")  # fmt: skip
        for table in tables:
            connection.execute(f"INSERT INTO main.{table} SELECT * FROM one.{table}")
        for table in ("engine", "posting", "meter", "usage", "position", "adjustment", "rollup", "usage_rollup",
                      "late_meter"):  # fmt: skip
            connection.execute(f"UPDATE main.{table} SET engine_id = 'other-' || engine_id")
        for table in ("posting", "usage", "adjustment"):
            connection.execute(f"UPDATE main.{table} SET record_id = 'other-' || record_id WHERE record_id != ''")
        for table in ("meter", "late_meter"):
            connection.execute(f"UPDATE main.{table} SET device = 'other-' || device")
        connection.execute("UPDATE main.engine SET host = 'node-2', devices = replace(devices, 'GPU', 'other-GPU')")
        if last != "compacted":
            assert rerate(second, prices("theirs", "4.4"), NOVEMBER, "higher prices there", LATER_NS).adjustments
    with open_ledger(home) as opened:
        push(opened, books.fleet, Cursor(home, books.fleet.where))
        assert bill(books.fleet) == alone + bill(opened)
        assert (bill(opened) == alone) == (last == "compacted")
    assert most_expensive(books.fleet, "r-") == ours
    assert list(Audit(books.fleet).discrepancies()) == []
