"""Two tenants read a fleet store, and try to read each other's rows: our grants and policies on the real engine.

The embedded engine cannot create users, and its session is always the user `default`. So each tenant is a process of
its own whose configuration gives that user what `costtrace fleet ddl --row-policies` gives to `tenant_reader`: the same
grants, and the same conditions on the same tables.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from costtrace_fleet.schema import Layout, row_policies, statements
from month import TENANTS, write_month

from costtrace.ledger.reader import open_ledger

SCRIPT = Path(sys.executable).parent / "costtrace"
ASK = """
import chdb, json, sys
connection = chdb.connect(sys.argv[1])
for statement in json.load(sys.stdin):
    try:
        print(json.dumps(["rows", str(connection.query(statement, "TSV"))]))
    except Exception as error:
        print(json.dumps(["refused", str(error)]))
"""
POLICY = re.compile(r"CREATE ROW POLICY .* ON costtrace\.(\w+) USING (.*) TO tenant_reader")
GRANT = re.compile(r"(GRANT SELECT.*) TO tenant_reader")
pytestmark = pytest.mark.heavy


def configuration(folder, me):
    """Of an engine whose user is the tenant *me*; "default" is who `currentUser()` says, others are named."""
    made = row_policies(Layout())
    grants = "".join(f"<query>{match[1]}</query>" for text in made if (match := GRANT.fullmatch(text)))
    policies = [match.groups() for text in made if (match := POLICY.fullmatch(text))]
    condition = f"tenant = '{me}'"
    filters = "".join(
        f"<{table}><filter>{own if me == 'default' else condition}</filter></{table}>" for table, own in policies
    )
    users = folder / f"users-{me}.xml"
    users.write_text(
        "<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default><password></password>"
        f"<networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota><grants>{grants}</grants>"
        f"<databases><costtrace>{filters}</costtrace></databases></default></users></clickhouse>"
    )
    config = folder / f"config-{me}.xml"
    config.write_text(f"<clickhouse><users_config>{users}</users_config></clickhouse>")
    return config


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    pytest.importorskip("chdb", reason="chdb is missing: install costtrace-fleet[test]")
    home = tmp_path_factory.mktemp("home")
    write_month(home, tenants=["default", *TENANTS[1:]], requests_per_window=2)
    path = home / "store"
    for words in (("init",), ("push", "--home", str(home))):
        subprocess.run([SCRIPT, "fleet", *words, "--store", f"chdb://{path}"], check=True, timeout=300)
    return home, path


def ask(store, me, *sql):
    home, path = store
    where = f"{path}?config-file={configuration(home, me)}"
    done = subprocess.run(
        [sys.executable, "-c", ASK, where],
        input=json.dumps(sql),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("me", "other"), [("default", TENANTS[1]), (TENANTS[1], "default")])
def test_a_tenant_reads_all_rows_of_its_own_and_none_of_another(store, me, other):
    sql = "SELECT count(*), sum(gpu_ns), sum(device_nano) FROM posting WHERE tenant = :me"
    with open_ledger(store[0]) as ledger:
        own = "\t".join(map(str, next(ledger.rows(sql, {"me": me}))))
        (records,) = next(ledger.rows("SELECT count(*) FROM usage WHERE tenant = :me", {"me": me}))
    assert records > 0
    sums = "SELECT count(*), sum(gpu_ns), sum(device_nano) FROM costtrace"
    honest = [f"{sums}.posting", f"{sums}.line", f"{sums}.posting_rows"]
    counts = [f"SELECT count(*) FROM costtrace.{name}" for name in ("usage", "usage_line", "usage_rows")]
    answers = ask(store, me, *honest, *counts)
    assert answers == [("rows", f"{own}\n")] * 3 + [("rows", f"{records}\n")] * 3
    tables = ("posting", "line", "posting_rows", "usage", "usage_line", "usage_rows")
    asked = [f"SELECT countIf(tenant = '{other}'), groupUniqArray(tenant) FROM costtrace.{name}" for name in tables]
    assert ask(store, me, *asked) == [("rows", f"0\t['{me}']\n")] * len(tables)


@pytest.mark.parametrize(("me", "other"), [("default", TENANTS[1]), (TENANTS[1], "default")])
def test_what_a_tenant_tries_to_see_more_shows_nothing(store, me, other):
    nothing = [
        f"SELECT count(*) FROM costtrace.posting WHERE tenant = '{other}'",
        f"SELECT count(*) FROM costtrace.usage WHERE tenant = '{other}' OR tenant != '{me}'",
        f"SELECT count(*) FROM costtrace.line WHERE tenant != '{me}'",
        f"SELECT countIf(tenant != '{me}') FROM costtrace.posting_rows FINAL",
        f"SELECT countIf(tenant != '{me}') FROM costtrace.posting_rows SETTINGS optimize_use_projections = 0",
        f"SELECT count(*) FROM costtrace.posting_rows PREWHERE tenant != '{me}'",
        # An error that depends on rows that must not be read would tell of them.
        f"SELECT count(*) FROM costtrace.posting WHERE throwIf(tenant = '{other}') = 1",
        f"SELECT count(*) FROM costtrace.posting_rows FINAL PREWHERE throwIf(tenant = '{other}') = 1",
        f"SELECT count(*) FROM costtrace.usage u JOIN costtrace.posting p USING engine_id WHERE p.tenant != '{me}'",
    ]
    assert ask(store, me, *nothing) == [("rows", "0\n")] * len(nothing)


@pytest.mark.parametrize("me", ["default", TENANTS[1]])
def test_what_a_tenant_has_no_grant_for_is_refused(store, me):
    _, path = store
    refused = [
        "SELECT count(*) FROM costtrace.meter",
        "SELECT count(*) FROM costtrace.rate",
        "SELECT * FROM costtrace.rate_rows",
        "SELECT before FROM costtrace.rerate_rows",
        "SELECT count(*) FROM costtrace.bill_day",
        "SELECT count(*) FROM costtrace.engine",
        "SELECT count(*) FROM merge('costtrace', 'rate.*')",
        f"SELECT count(*) FROM file('{path}/store/*/*/*.bin', 'RawBLOB')",
        "INSERT INTO costtrace.posting_rows (tenant) VALUES ('x')",
        "ALTER TABLE costtrace.posting_rows DELETE WHERE 1",
        "TRUNCATE TABLE costtrace.posting_rows",
        "CREATE VIEW costtrace.mine SQL SECURITY NONE AS SELECT * FROM costtrace.posting_rows",
        "DROP TABLE costtrace.posting_rows",
        "CREATE ROW POLICY more ON costtrace.posting_rows USING 1 TO ALL",
        "GRANT SELECT ON *.* TO default",
    ]
    for statement, (kind, text) in zip(refused, ask(store, me, *refused), strict=True):
        assert kind == "refused", (statement, text)
        assert "ACCESS_DENIED" in text or "Not enough privileges" in text, (statement, text)


@pytest.mark.parametrize("layout", [Layout(), Layout("bills", "main", 2555, 90, "s3")], ids=["server", "cluster"])
def test_the_engine_can_parse_every_statement_of_the_ddl(store, layout):
    made = [*statements(layout), *row_policies(layout)]
    for statement, (kind, text) in zip(
        made, ask(store, "default", *(f"EXPLAIN AST {one}" for one in made)), strict=True
    ):
        assert kind == "rows", (statement, text)
