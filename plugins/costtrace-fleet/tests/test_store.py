"""The fleet store without a server: its DDL, the dialect, the cursor of a push, and what is refused."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from costtrace_fleet.day_copy import copy_day
from costtrace_fleet.push import Cursor, push
from costtrace_fleet.schema import Layout, row_policies, statements
from costtrace_fleet.store import ClickHouseStore, open_store
from costtrace_fleet.tables import PLAIN_TABLES, POSTING, ROW_TABLES, TABLES, run_number

from costtrace.cli.app import cli
from costtrace.config.load import load
from costtrace.core.errors import ConfigError, CosttraceError, LedgerError
from costtrace.ledger import Ledger
from costtrace.ledger.reader import open_ledger


def run(*words):
    return CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False).stdout


class Memory:
    """A store that keeps each row once by its key, as ReplacingMergeTree does. Insert *breaks* arrives, and raises."""

    where = "clickhouse.test"

    def __init__(self, breaks=0):
        self.tables, self.inserts, self.breaks = {}, 0, breaks

    def insert(self, table, rows, pushed_ns):
        self.inserts += 1
        assert pushed_ns > 0
        places = [list(table.columns).index(name) for name in table.key]
        kept = self.tables.setdefault(table.name, {})
        for row in rows:
            kept[tuple(row[place] for place in places)] = tuple(row)
        if self.inserts == self.breaks:
            raise LedgerError("the line broke")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    from month import write_month

    home = tmp_path_factory.mktemp("month")
    write_month(home, requests_per_window=2)
    return home


def test_the_store_has_the_columns_of_the_ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for table in TABLES:
        if table.name == "compacted":
            continue  # the store's own
        columns = {row[1] for row in ledger.connection.execute(f"PRAGMA table_info({table.name})")}
        if table.name.startswith("late_"):
            columns |= {row[1] for row in ledger.connection.execute(f"PRAGMA table_info({table.name[5:]})")}
        assert set(table.columns) <= columns
        if table.name != "position":
            assert columns <= set(table.columns), f"{table.name}: columns of the ledger that the fleet store lacks"
    ledger.close()


@pytest.mark.parametrize("breaks", [0, 1, 2, 3, 5, 8, 11, 20, 40])
def test_a_push_that_breaks_anywhere_ends_with_each_row_once(home, tmp_path, breaks):
    store = Memory(breaks)
    with open_ledger(home) as ledger:
        if breaks:
            with pytest.raises(LedgerError):
                push(ledger, store, Cursor(tmp_path, store.where), batch=37)
        push(ledger, store, Cursor(tmp_path, store.where), batch=37)
        for table in PLAIN_TABLES:
            (due,) = next(ledger.rows(f"SELECT count(*) FROM {table.name}"))
            assert len(store.tables[table.name]) == due
        (due,) = next(ledger.rows("SELECT sum(gpu_ns) FROM posting"))
        place = list(POSTING.columns).index("gpu_ns")
        assert sum(row[place] for row in store.tables["posting"].values()) == due
        again = push(ledger, store, Cursor(tmp_path, store.where))
    assert tuple(again) == (0, 0, 0)


def test_without_its_cursor_all_is_sent_again_and_nothing_doubles(home, tmp_path):
    store = Memory()
    with open_ledger(home) as ledger:
        first = push(ledger, store, Cursor(tmp_path, store.where))
        (file,) = tmp_path.glob("fleet-*.json")
        assert file.stat().st_mode & 0o777 == 0o600
        file.unlink()
        assert push(ledger, store, Cursor(tmp_path, store.where)) == first
        assert len(store.tables["posting"]) == first.postings


@pytest.mark.parametrize("text", ["{", "[1]", '{"posting": "x"}'])
def test_a_damaged_cursor_is_named_with_its_remedy(tmp_path, text):
    Cursor(tmp_path, "x").move("posting", 1)
    (file,) = tmp_path.glob("fleet-*.json")
    file.write_text(text)
    with pytest.raises(LedgerError, match="all is sent again"):
        Cursor(tmp_path, "x")


class Streaming:
    """A client that answers each query with these blocks, one stream at a time as the embedded engine does."""

    def __init__(self, *blocks):
        self.blocks, self.open, self.asked = blocks, False, {}

    def query_row_block_stream(self, sql, parameters, settings):
        assert not self.open, "the embedded engine has one stream at a time"
        self.asked = {"sql": sql, "parameters": parameters, "settings": settings}
        return self

    def __enter__(self):
        self.open = True
        return self

    def __iter__(self):
        assert self.open
        return iter(self.blocks)

    def __exit__(self, *_):
        self.open = False


def test_parameters_are_bound_by_name_and_type():
    pytest.importorskip("clickhouse_connect", reason="clickhouse-connect is missing: install costtrace-fleet")
    client = Streaming([[1, 2]])
    store = ClickHouseStore(client, "chdb:///x", "costtrace")
    assert list(store.rows("SELECT 1 WHERE a = :tenant AND b < :until", {"tenant": "' OR 1", "until": 5})) == [(1, 2)]
    assert client.asked["sql"] == "SELECT 1 WHERE a = {tenant:String} AND b < {until:Int64}"
    assert client.asked["parameters"] == {"tenant": "' OR 1", "until": 5}


@pytest.mark.parametrize("memory", [1, 1 << 24])
def test_two_long_answers_of_the_embedded_engine_are_read_side_by_side_from_disk(monkeypatch, memory):
    pytest.importorskip("clickhouse_connect", reason="clickhouse-connect is missing: install costtrace-fleet")
    monkeypatch.setattr("costtrace_fleet.store.SPOOL_BYTES", memory)
    blocks = [[[n, 2**100 + n, None, "Zoë \x00"] for n in range(k * 500, k * 500 + 500)] for k in range(4)]
    store = ClickHouseStore(Streaming(*blocks), "chdb:///x", "costtrace")
    both = zip(store.rows("SELECT 1"), store.rows("SELECT 2"), strict=True)
    assert list(both) == [(tuple(row), tuple(row)) for block in blocks for row in block]


@pytest.mark.parametrize(
    ("kind", "message", "lacks"),
    [
        ("ProgrammingError", "Unrecognized column 'prefix_ns' in table usage_rows", True),
        ("DatabaseError", "Code: 60. DB::Exception: Table costtrace.rollup_rows does not exist. (UNKNOWN_TABLE)", True),
        ("DatabaseError", f"Code: 47. Unknown expression identifier{' x' * 300}. (UNKNOWN_IDENTIFIER)", True),
        ("DatabaseError", "Code: 81. DB::Exception: Database costtrace does not exist. (UNKNOWN_DATABASE)", True),
        ("DatabaseError", "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)", False),
    ],
)
def test_a_store_that_lacks_what_this_version_needs_is_refused_with_the_command_that_adds_it(kind, message, lacks):
    exceptions = pytest.importorskip(
        "clickhouse_connect.driver.exceptions", reason="clickhouse-connect is missing: install costtrace-fleet"
    )

    class Refusing:
        def query_row_block_stream(self, *_, **__):
            raise getattr(exceptions, kind)(message)

        insert = query_row_block_stream

    store = ClickHouseStore(Refusing(), "node:8123", "costtrace")
    for ask in (lambda: list(store.rows("SELECT 1")), lambda: store.insert(POSTING, [(1,)], 1)):
        with pytest.raises(LedgerError, match=r"the store node:8123 refuses: ") as refused:
            ask()
        assert ("earlier version" in str(refused.value)) == lacks
        assert ("run `costtrace fleet init`" in str(refused.value)) == lacks


class Day:
    """A store whose postings of a day are these rows; of other tables it has none."""

    def __init__(self, rows, breaks_at=None):
        self._rows, self._breaks_at = rows, breaks_at

    def rows(self, sql, parameters):
        assert parameters["until"] - parameters["since"] == 86_400 * 10**9
        for number, row in enumerate(self._rows if " FROM posting " in sql else ()):
            if number == self._breaks_at:
                raise LedgerError("the line broke")
            yield row


def postings_of_a_day(count):
    kinds = POSTING.columns.items()
    return [tuple(n if "Int" in of else f"{name}-{n}" for name, of in kinds) for n in range(count)]


def test_a_days_copy_goes_through_in_groups_and_is_typed_alike_when_it_is_empty(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing: install costtrace-core[reports]")
    monkeypatch.setattr("costtrace.reports.output.parquet.GROUP_ROWS", 10)
    rows, schemas = postings_of_a_day(25), []
    for name, of_day in (("full", rows), ("empty", [])):
        written = dict(copy_day(Day(of_day), "2026-11-03", tmp_path / name, 2**62))
        path = tmp_path / name / "posting-2026-11-03.parquet"
        assert written[path] == len(of_day)
        with parquet.ParquetFile(path) as file:
            schemas.append(file.schema_arrow)
            assert file.metadata.num_row_groups == (3 if of_day else 0)
            assert [tuple(row.values()) for row in file.read().to_pylist()] == of_day
    assert schemas[0].equals(schemas[1], check_metadata=True)


def test_a_days_copy_that_breaks_leaves_no_file(tmp_path):
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing: install costtrace-core[reports]")
    with pytest.raises(LedgerError, match="the line broke"):
        list(copy_day(Day(postings_of_a_day(25), breaks_at=20), "2026-11-03", tmp_path, 2**62))
    assert not [path for path in tmp_path.iterdir() if "posting" in path.name or path.name.startswith(".")]


def test_the_ddl_of_a_cluster_is_replicated_distributed_and_tiered():
    ddl = "\n".join(statements(Layout("bills", "main", 2555, 90, "s3")))
    assert ddl.count("ON CLUSTER main") == len(statements(Layout("bills", "main")))
    assert len(re.findall(r"ReplicatedReplacingMergeTree\('/clickhouse/tables/\{shard\}/bills/", ddl)) == len(TABLES)
    assert ddl.count("Distributed('main', 'bills'") == len(TABLES)
    assert ddl.count("INTERVAL 90 DAY TO VOLUME 's3'") == ddl.count("INTERVAL 2555 DAY DELETE") == len(ROW_TABLES)


def test_the_ddl_of_one_server_has_nothing_of_a_cluster():
    ddl = "\n".join(statements(Layout()))
    assert not re.search(r"ON CLUSTER|Replicated|Distributed|TTL", ddl)


@pytest.mark.parametrize(("layout", "suffixes"), [(Layout(), ["rows"]), (Layout(cluster="main"), ["rows", "local"])])
def test_every_table_with_tenants_has_row_policies(layout, suffixes):
    ddl = row_policies(layout)
    on = " ON CLUSTER main" if layout.cluster else ""
    for table in TABLES:
        for suffix in suffixes:
            where = f"{on} ON costtrace.{table.name}_{suffix}"
            policy = (
                f"CREATE ROW POLICY IF NOT EXISTS costtrace_own{where} USING tenant = currentUser() TO tenant_reader"
            )
            assert (policy in ddl) == ("tenant" in table.columns)
    granted = {
        text.split(" ON costtrace.")[1].split()[0] for text in ddl if text.startswith("GRANT") and "tenant_" in text
    }
    assert not granted & {"meter", "rate", "rate_rows", "engine", "engine_rows", "bill_day", "*"}


def test_ddl_refuses_names_that_are_statements():
    with pytest.raises(CosttraceError, match="is no name"):
        run("fleet", "ddl", "--cluster", "x; DROP TABLE y")
    assert "CREATE ROW POLICY" in run("fleet", "ddl", "--row-policies")
    assert "CREATE ROW POLICY" not in run("fleet", "ddl")


def test_a_store_without_address_or_of_another_kind_is_refused(monkeypatch):
    monkeypatch.delenv("COSTTRACE_STORE", raising=False)
    with pytest.raises(CosttraceError, match="no store is set"):
        run("fleet", "init")
    with pytest.raises(CosttraceError, match="a store is"), open_store("postgres://secret@host"):
        pass


def test_a_password_in_the_store_setting_is_refused_and_never_shown():
    with pytest.raises(ConfigError, match="store_password_file") as refused:
        load({"store": "clickhouse://me:hunter2@host"}, {})
    assert "hunter2" not in str(refused.value)
    assert load({"store": "clickhouse://me@host:8123"}, {}).store


def test_a_push_sends_to_nobody_when_its_password_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setenv("COSTTRACE_STORE_PASSWORD_FILE", str(tmp_path / "none"))
    with pytest.raises(CosttraceError, match="password file"):
        run("fleet", "push", "--store", "clickhouse://127.0.0.1:1", "--home", str(tmp_path))


def test_a_store_that_is_not_there_is_one_clear_line(tmp_path):
    pytest.importorskip("clickhouse_connect", reason="clickhouse-connect is missing: install costtrace-fleet")
    with (
        pytest.raises(LedgerError, match=r"cannot open the store 127.0.0.1:1"),
        open_store("clickhouse://me@127.0.0.1:1"),
    ):
        pass


def test_the_cursor_is_json_that_a_person_can_read(tmp_path):
    Cursor(tmp_path, "x").move("posting", 7)
    (file,) = Path(tmp_path).glob("fleet-*.json")
    assert json.loads(file.read_text()) == {"posting": 7}


def test_re_ratings_of_two_ledgers_have_different_numbers():
    numbers = {run_number(engine, run) for engine in ("a", "b") for run in range(100)}
    assert len(numbers) == 200
    assert all(0 <= number < 2**63 for number in numbers)


def test_a_clock_that_was_set_back_does_not_make_an_older_copy_of_a_row(home, tmp_path, monkeypatch):
    versions = []

    class Watched(Memory):
        def insert(self, table, rows, pushed_ns):
            versions.append(pushed_ns)

    for now_ns in (2_000, 1_000):
        monkeypatch.setattr("time.time_ns", lambda now_ns=now_ns: now_ns)
        with open_ledger(home) as ledger:
            push(ledger, Watched(), Cursor(tmp_path, "x"))
    assert set(versions) == {2_000, 2_001}
    assert versions == sorted(versions)
