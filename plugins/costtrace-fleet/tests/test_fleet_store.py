"""The same suite on the real ClickHouse engine, embedded: every reading command says there what it says of SQLite."""

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from costtrace_fleet.push import Cursor, push
from costtrace_fleet.schema import Layout
from costtrace_fleet.store import open_store
from costtrace_statements.idle_policies import POLICIES
from costtrace_statements.query import load
from costtrace_statements.settlement import IdlePolicy, settle
from month import END_NS, START_NS, TENANTS, write_month
from otlp_receiver import engine, record, turn, write

from costtrace.ledger import Ledger
from costtrace.ledger.answers import Period
from costtrace.ledger.dimensions import DIMENSIONS
from costtrace.ledger.queries import bounds, ended, requests, used
from costtrace.ledger.reader import Filter as Only
from costtrace.ledger.reader import SqliteStore, open_ledger
from costtrace.ledger.verify.audit import Audit

SCRIPT = Path(sys.executable).parent / "costtrace"
MONTH = Period(START_NS, END_NS)
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    pytest.importorskip("chdb", reason="chdb is missing: install costtrace-fleet[test]")
    home = tmp_path_factory.mktemp("month")
    made = write_month(home)
    made.home = home
    made.dsn = f"chdb://{tmp_path_factory.mktemp('chdb') / 'store'}"
    return made


@pytest.fixture(scope="module")
def stores(month):
    """The ledger, and the fleet store with the same rows: sent twice, in small batches."""
    with open_store(month.dsn) as fleet, open_ledger(month.home) as ledger:
        fleet.create(Layout())
        push(ledger, fleet, Cursor(month.home, fleet.where), batch=701)
        next(month.home.glob("fleet-*.json")).unlink()
        push(ledger, fleet, Cursor(month.home, fleet.where))
        yield ledger, fleet


@pytest.mark.parametrize("by", [(), *((name,) for name in DIMENSIONS), ("tenant", "model", "day", "device")])
def test_sums_are_the_same_on_both_stores(stores, by):
    for ask in (used, ended):
        answers = [sorted(ask(store, MONTH, by), key=repr) for store in stores]
        assert answers[0] == answers[1]
        assert answers[0]


def test_requests_and_bounds_are_the_same_on_both_stores(stores):
    ledger, fleet = stores
    assert bounds(ledger) == bounds(fleet)
    only = Only(tenant="tenant-3")
    assert requests(ledger, MONTH, only, "cost", 20) == requests(fleet, MONTH, only, "cost", 20)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_month_is_the_bill_on_the_fleet_store_under_every_policy(stores, month, policy):
    ledger, fleet = (settle(load(store, MONTH, UTC, slots=True), IdlePolicy(policy)) for store in stores)
    assert sum(line.pot.cost_nano or 0 for line in fleet.lines) == month.bill()
    assert fleet == ledger


def test_the_fleet_store_is_in_balance(stores):
    audit = Audit(stores[1])
    assert list(audit.discrepancies()) == []
    assert audit.counts() == Audit(stores[0]).counts()


def test_a_row_that_is_off_is_named_on_the_fleet_store_too(stores, tmp_path):
    ledger, fleet = stores
    fleet.run(
        "INSERT INTO costtrace.posting_rows SELECT * REPLACE (device_nano + 1 AS device_nano, pushed_ns + 1 AS "
        "pushed_ns) FROM costtrace.posting_rows FINAL WHERE engine_id = 'h-2' AND kind = 'idle' LIMIT 1"
    )
    try:
        assert any("device_nano" in item.field for item in Audit(fleet).discrepancies())
    finally:
        push(ledger, fleet, Cursor(tmp_path, fleet.where))  # without a cursor: all is sent again, and mends it
    assert list(Audit(fleet).discrepancies()) == []


def test_sums_beyond_64_bits_do_not_wrap(stores):
    _, fleet = stores
    fleet.run("INSERT INTO costtrace.rate_rows (rate_id) VALUES ('none')")
    sql = "SELECT sum(gpu_ns * 1000000) FROM posting"
    (whole,) = next(fleet.rows(sql))
    assert whole == 10**6 * next(fleet.rows("SELECT sum(gpu_ns) FROM posting"))[0] > 2**63
    fleet.run("ALTER TABLE costtrace.rate_rows DELETE WHERE rate_id = 'none' SETTINGS mutations_sync = 1")


def test_the_roll_up_of_days_is_the_sum_of_its_postings(stores):
    _, fleet = stores
    fleet.run("SYSTEM REFRESH VIEW costtrace.bill_day")
    fleet.run("SYSTEM WAIT VIEW costtrace.bill_day")
    names = "sum(gpu_ns), sum(energy_uj), sum(device_nano), sum(energy_nano)"
    assert next(fleet.rows(f"SELECT {names}, sum(lines) FROM bill_day")) == next(
        fleet.rows(f"SELECT {names}, count(*) FROM posting")
    )


def test_several_nodes_share_a_store_and_two_dialects_agree(stores, month, tmp_path):
    """A second node's ledger, with the same numbers of postings and records: nothing meets."""
    ledger, fleet = stores
    with Ledger(tmp_path / "ledger.sqlite").connection as connection:
        connection.execute("ATTACH DATABASE ? AS one", (str(month.home / "ledger.sqlite"),))
        for table in ("engine", "posting", "meter", "usage", "rate", "position"):
            connection.execute(f"INSERT INTO main.{table} SELECT * FROM one.{table}")
        for table in ("engine", "posting", "meter", "usage", "position"):
            connection.execute(f"UPDATE main.{table} SET engine_id = 'other-' || engine_id")
        connection.execute("UPDATE main.engine SET host = 'node-2'")
        connection.execute("UPDATE main.meter SET device = 'other-' || device")
        connection.execute("UPDATE main.engine SET devices = replace(devices, 'GPU', 'other-GPU')")
        for table in ("posting", "usage"):
            connection.execute(f"UPDATE main.{table} SET record_id = 'other-' || record_id WHERE record_id != ''")
        before = [row[0] for row in fleet.rows("SELECT sum(gpu_ns) FROM posting")]
    with open_ledger(tmp_path) as second:
        push(second, fleet, Cursor(tmp_path, fleet.where))
    try:
        assert [row[0] for row in fleet.rows("SELECT sum(gpu_ns) FROM posting")] == [2 * before[0]]
        assert list(Audit(fleet).discrepancies()) == []
        whole = settle(load(fleet, MONTH, UTC), IdlePolicy("weighted"))
        assert sum(line.pot.cost_nano or 0 for line in whole.lines) == 2 * month.bill()
    finally:
        for table in ("engine", "posting", "meter", "usage", "position"):
            fleet.run(
                f"ALTER TABLE costtrace.{table}_rows DELETE WHERE startsWith(engine_id, 'other-') "
                "SETTINGS mutations_sync = 1"
            )
    assert list(used(ledger, MONTH, ()))


def script(*words):
    done = subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parts_that_two_nodes_pushed_are_joined_out_of_the_store(tmp_path):
    """A prefill part on one node, its decode part on another: provisional with one of them in, then one total."""
    pytest.importorskip("chdb", reason="chdb is missing: install costtrace-fleet[test]")
    store = ("--store", f"chdb://{tmp_path / 'store'}")
    joined = ("requests", "--joined", "--since", "2020-01-01", "--format", "json")
    script("fleet", "init", *store)
    homes, shown = [], []
    for number, (role, tokens) in enumerate({"prefill": 1, "decode": 12}.items()):
        home = tmp_path / role
        home.mkdir()
        part = record(
            number, record_id=role, request_key="dynamo:r", request_id="r", engine_id=f"engine-{role}", role=role,
            output_tokens=tokens, cached_tokens=0, finish_reasons=("length",), tenant="acme",
        )  # fmt: skip
        ledger = Ledger(home / "ledger.sqlite")
        write(ledger, turn([part]), engine(f"engine-{role}", role=role, settings={"dynamo_worker": f"worker-{role}"}))
        ledger.connection.close()
        script("fleet", "push", *store, "--home", str(home))
        homes.append(str(home))
        (row,) = json.loads(script(*joined, *store))["requests"]
        shown.append(row)
    assert "never came" in shown[0]["notes"][0]
    assert shown[1]["notes"] == []
    assert (shown[1]["parts"], shown[1]["workers"]) == (2, ["worker-prefill", "worker-decode"])
    assert shown[1]["output_tokens"] == 12
    (both,) = json.loads(script(*joined, "--home", homes[0], "--also", homes[1]))["requests"]
    assert shown[1] == both


@pytest.mark.timeout(1_800)  # two dozen processes, most of which start an engine
def test_the_commands_say_the_same_of_both_stores(tmp_path):
    """In processes of their own, from an empty store on: an engine is embedded once in a process."""
    pytest.importorskip("chdb", reason="chdb is missing: install costtrace-fleet[test]")
    write_month(tmp_path)
    store, home = ("--store", f"chdb://{tmp_path / 'store'}"), ("--home", str(tmp_path))
    script("fleet", "init", *store)
    assert "sent 3,945 postings" in script("fleet", "push", *store, *home)
    assert "sent 0 postings" in script("fleet", "push", *store, *home)
    assert "\nin balance\n" in script("verify", *store)
    month = ("--period", "2026-11", "--policy", "weighted")
    for words in (
        ("report", "--by", "tenant,model", "--since", "2026-11-01", "--until", "2026-12-01", "--format", "csv"),
        ("requests", "--dearest", "--limit", "5", "--format", "json"),
        ("statement", "--tenant", TENANTS[2], *month),
        ("policies", *month, "--format", "csv"),
        ("focus", *month, "--view", "allocation"),
        ("focus", *month, "--view", "service"),
        ("tenants", "claims", "--since", "2026-11-01", "--until", "2026-12-01", "--format", "csv"),
    ):
        assert script(*words, *store) == script(*words, *home), words
    (tmp_path / "budgets.yaml").write_text(
        "currency: USD\nbudgets:\n- {name: a, tenant: tenant-2, amount: 9, period: year}\n"
        "- {name: all, amount: 9, period: year}\n"
    )
    budgets = ("budgets", "--file", str(tmp_path / "budgets.yaml"), "--format", "json")
    spent = [[row["spent_nano"] for row in json.loads(script(*budgets, *of))["budgets"]] for of in (store, home)]
    assert spent[0] == spent[1]
    text = script("fleet", "copy", *store, "--day", "2026-11-03", "--out", str(tmp_path / "copy"))
    assert "posting-2026-11-03.parquet" in text
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing: install costtrace-core[reports]")
    rows = parquet.read_table(tmp_path / "copy" / "posting-2026-11-03.parquet").to_pylist()
    begin = int(datetime(2026, 11, 3, tzinfo=UTC).timestamp()) * 10**9
    with open_ledger(tmp_path) as ledger:
        assert isinstance(ledger, SqliteStore)
        due = used(ledger, Period(begin, begin + 86_400 * 10**9), ())
        assert sum(row["gpu_ns"] for row in rows) == sum(row.gpu_ns for row in due)
    assert json.loads(script("verify", *store, "--format", "json"))["discrepancies"] == []
    assert list(csv.DictReader(io.StringIO(script("focus", *month, *store))))
