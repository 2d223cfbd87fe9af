"""A store that an earlier version made is upgraded with its rows, while an older node pushes: on the real engine.

`stores` has what `costtrace fleet ddl` printed when the tables had each of their earlier shapes, for one server and for
a cluster; `tests/golden` has what each release prints. The embedded engine has a cluster of one server, itself, and no
Keeper: distributed tables are real here, `ON CLUSTER` and replication are left out.
"""

import gzip
import re
from contextlib import closing
from pathlib import Path

import pytest
from costtrace_fleet.push import Cursor, push
from costtrace_fleet.schema import Layout, statements
from costtrace_fleet.store import ClickHouseStore
from costtrace_fleet.tables import MAYBE, PLAIN_TABLES, TABLES
from golden import GOLDEN
from month import END_NS, ENGINES, START_NS, write_month

import costtrace
from costtrace.core.errors import LedgerError
from costtrace.ledger import Ledger
from costtrace.ledger.answers import Period
from costtrace.ledger.queries import bounds, ended, requests, used
from costtrace.ledger.reader import Filter, open_ledger
from costtrace.ledger.verify.audit import Audit

MONTH = Period(START_NS, END_NS)
STORES = sorted([*(Path(__file__).parent / "stores").glob("*.sql.gz"), *GOLDEN.glob("*/fleet*.sql.gz")])
CONFIG = """<clickhouse><tcp_port>9000</tcp_port><remote_servers><main><shard><replica><host>localhost</host>
<port>9000</port></replica></shard></main></remote_servers></clickhouse>"""
NOW = {table.name: list(table.columns) for table in TABLES}


def statements_of(path):
    return gzip.decompress(path.read_bytes()).decode().rstrip().rstrip(";").split(";\n\n")


def columns_of(ddl):
    """Columns by table, with their types."""
    found = {}
    for text in ddl:
        if made := re.match(r"CREATE TABLE IF NOT EXISTS \w+\.(\w+)_(?:rows|local)(?: ON CLUSTER \w+)? \(\n", text):
            found[made[1]] = dict(re.findall(r"^    `(\w+)` (\S+?(?:\(\w+\))?)(?: CODEC|,|$)", text, re.MULTILINE))
            assert found[made[1]].pop("pushed_ns") == "UInt64"
    return found


def named(path):
    return f"{path.parent.name}-{path.name.removesuffix('.sql.gz')}"


stores = pytest.mark.parametrize("path", STORES, ids=named)


@stores
def test_later_columns_are_nullable_and_the_others_keep_their_types_and_keys(path):
    """What a row of an older node lacks is "not known", and a column cannot change under the rows that have it."""
    ddl = statements_of(path)
    earlier = columns_of(ddl)
    assert {table.name for table in PLAIN_TABLES} <= earlier.keys()
    for table in TABLES:
        if (columns := earlier.get(table.name)) is None:
            continue
        assert columns == {name: table.columns[name] for name in columns}
        assert {table.columns[name] for name in table.columns.keys() - columns} <= {MAYBE}
        (made,) = [text for text in ddl if re.match(rf"CREATE TABLE .*\.{table.name}_(rows|local)\b.*\(\n", text)]
        assert f"\nORDER BY ({', '.join(table.key)})" in made


@pytest.mark.parametrize(("name", "layout"), [("fleet", Layout()), ("fleet-cluster", Layout(cluster="main"))])
def test_the_golden_store_of_this_version_is_what_it_makes(name, layout):
    golden = GOLDEN / costtrace.__version__ / f"{name}.sql.gz"
    assert statements_of(golden) == statements(layout), "run tools/gen_golden.py, while this version is not out"


@stores
def test_what_a_table_can_lack_is_added_before_a_view_names_it(path):
    layout = Layout(cluster="main" if "cluster" in path.name else "")
    ddl = statements(layout)
    before = ddl[: next(n for n, text in enumerate(ddl) if "VIEW" in text)]
    for table, columns in columns_of(statements_of(path)).items():
        for rows in ("local", "rows") if layout.cluster else ("rows",):
            (added,) = [text for text in before if re.match(rf"ALTER TABLE costtrace\.{table}_{rows}\b", text)]
            at = before.index(added)
            assert any(f"costtrace.{table}_{rows}" in text for text in before[:at] if text.startswith("CREATE"))
            for name in NOW[table]:
                assert name in columns or f"ADD COLUMN IF NOT EXISTS `{name}` " in added


class Older:
    """The store as a node of the version with these columns sees it: it sends no others."""

    def __init__(self, fleet, columns):
        self.where, self.fleet, self.columns = fleet.where, fleet, columns

    def insert(self, table, rows, pushed_ns):
        if table.name not in self.columns:
            assert not list(rows)
            return
        known = {name: table.columns[name] for name in self.columns[table.name]}
        places = [list(table.columns).index(name) for name in known]
        self.fleet.insert(
            table._replace(columns=known), [tuple(row[place] for place in places) for row in rows], pushed_ns
        )


def ledger_of(month, home, *engines):
    """A node's ledger: of the month, what these engines did."""
    chosen = ", ".join(f"'{name}'" for name in engines)
    home.mkdir()
    with closing(Ledger(home / "ledger.sqlite")) as ledger:
        ledger.connection.execute("ATTACH DATABASE ? AS whole", (str(month / "ledger.sqlite"),))
        ledger.connection.execute("INSERT INTO main.rate SELECT * FROM whole.rate")
        for table in ("engine", "posting", "meter", "usage", "position"):
            ledger.connection.execute(
                f"INSERT INTO main.{table} SELECT * FROM whole.{table} WHERE engine_id IN ({chosen})"
            )
    return home


def send(home, store, cursors):
    (cursors / home.name).mkdir(exist_ok=True)
    with open_ledger(home) as ledger:
        return push(ledger, store, Cursor(cursors / home.name, store.where))


def answers_of(store, engine=""):
    """What reports ask, of one engine or of all."""
    rows = [row for ask in (used, ended) for row in ask(store, MONTH, ("engine", "tenant", "model", "day"))]
    return sorted((row for row in rows if row.keys[0] == engine or not engine), key=repr)


def alone(statement):
    """The statement of a cluster for one server that has no Keeper."""
    return re.sub(
        r"Replicated(\w*MergeTree)\('[^']*', '\{replica\}'(?:, )?", r"\1(", statement.replace(" ON CLUSTER main", "")
    )


def run_all(store, ddl):
    store._client.database = "default"
    for statement in ddl:
        store.run(alone(statement))
    store._client.database = store.database


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """The month; and three nodes that had its engines."""
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "month").mkdir()
    write_month(folder / "month", requests_per_window=2)
    first, second, *others = ENGINES
    names = {"first": [first], "second": [second], "third": others}
    return folder / "month", [ledger_of(folder / "month", folder / name, *names[name]) for name in names]


@pytest.fixture
def fleet(tmp_path):
    pytest.importorskip("chdb", reason="chdb is missing: install costtrace-fleet[test]")
    from clickhouse_connect import get_client

    (tmp_path / "config.xml").write_text(CONFIG)
    options = {"config-file": str(tmp_path / "config.xml")}
    client = get_client(interface="chdb", path=str(tmp_path / "store"), chdb_options=options)
    with closing(ClickHouseStore(client, "chdb://store", "costtrace")) as store:
        yield store


@pytest.mark.heavy
@stores
def test_a_store_of_an_earlier_version_is_upgraded_with_its_rows_while_an_older_node_pushes(
    fleet, nodes, path, tmp_path
):
    month, (first, second, third) = nodes
    ddl = statements_of(path)
    columns = {name: list(kinds) for name, kinds in columns_of(ddl).items()}
    run_all(fleet, ddl)
    older = Older(fleet, columns)
    assert send(first, older, tmp_path).usage_records
    lacking = [(table, name) for table in columns for name in NOW[table] if name not in columns[table]]
    if lacking or columns.keys() != NOW.keys():
        with pytest.raises(LedgerError, match=r"earlier version.*costtrace fleet init"):
            send(third, fleet, tmp_path)
    cluster = "cluster" in path.name
    for _ in range(2):  # each statement can be run again
        if cluster:
            run_all(fleet, statements(Layout(cluster="main")))
        else:
            fleet.create(Layout())
    with open_ledger(first) as ledger:
        assert answers_of(fleet, "h-1") == answers_of(ledger)
    assert send(second, older, tmp_path).usage_records
    assert send(third, fleet, tmp_path).usage_records
    with open_ledger(month) as ledger:
        assert answers_of(fleet) == answers_of(ledger)
        audit = Audit(fleet)
        assert list(audit.discrepancies()) == []
        assert audit.counts() == Audit(ledger).counts()
        for table, name in lacking:
            if table == "usage":  # what the older nodes could not say is not known, and not 0
                sql = f"SELECT count(*), count({name}) FROM usage WHERE engine_id IN ('h-1', 'h-2')"
                (records, known) = next(fleet.rows(sql))
                assert records > known == 0
        for home in (first, second):  # upgraded, and sent once more
            (cursor,) = (tmp_path / home.name).glob("fleet-*.json")
            cursor.unlink()
            send(home, fleet, tmp_path)
        everything = (MONTH, Filter(), "ended", 10**6)
        assert bounds(fleet) == bounds(ledger)
        assert requests(fleet, *everything) == requests(ledger, *everything)
        assert answers_of(fleet) == answers_of(ledger)
    fleet.run("SYSTEM REFRESH VIEW costtrace.bill_day")
    fleet.run("SYSTEM WAIT VIEW costtrace.bill_day")
    names = "sum(gpu_ns), sum(energy_uj), sum(device_nano), sum(energy_nano)"
    assert next(fleet.rows(f"SELECT {names} FROM bill_day")) == next(fleet.rows(f"SELECT {names} FROM posting"))
