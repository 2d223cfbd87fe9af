"""What earlier releases left on a disk is read by this one: journals, ledgers, settings (tests/golden/<version>)."""

import json
import re
import shutil
import sqlite3
import sys
from collections import Counter
from typing import get_args

import gen_golden
import pytest
from golden import GOLDEN, restored
from ledger_tables import check_settled

import costtrace
from costtrace.agent.loop import Agent
from costtrace.config import load as config
from costtrace.core.errors import LedgerError, LedgerTooNew, SchemaTooNew
from costtrace.core.events import JOURNAL_SCHEMA, AnyEvent, Heartbeat, SegmentHeader
from costtrace.journal import frames
from costtrace.journal.reader import JournalReader
from costtrace.ledger.budgets.file import load_budgets
from costtrace.ledger.reader import SqliteStore, open_ledger
from costtrace.ledger.schema.tables import MIGRATIONS, SCHEMA_VERSION
from costtrace.ledger.store import LEDGER_NAME, Ledger, _statements
from costtrace.ledger.verify.audit import Audit
from costtrace.pricing.price_book_file import load_price_book
from costtrace.reports.usage.organisation_file import load_tenants

RELEASES = sorted(path for path in GOLDEN.iterdir() if path.is_dir())
LEDGERS = ("whole", "half", "ledger", "closed", "compacted")
REMEDY = "run tools/gen_golden.py (while this version is not out), and see that nothing but the new is different"
COUNTED = ("engine", "posting", "meter", "usage", "rate", "window_sensor")
BILL = """SELECT engine_id, window_ns, kind, reason, record_id, tenant, model, method, rate_id, sum(gpu_ns),
    sum(prefill_ns), sum(decode_ns), sum(wasted_ns), sum(energy_uj), sum(gap_ns), sum(device_nano), sum(energy_nano)
    FROM posting GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9"""
NUMBERS = {"posting": "posting_id", "usage": "usage_id"}
"""Columns that only say in which order rows were written."""

releases = pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)


def content(path, table, columns="*"):
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    rows = [dict(row) for row in connection.execute(f"SELECT {columns} FROM {table}")]
    connection.close()
    for row in rows:
        row.pop(NUMBERS.get(table), None)
    return Counter(tuple(row.items()) for row in rows)


def bill(path):
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    rows = set(connection.execute(BILL))
    connection.close()
    return rows


def schema_of(path):
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {(kind, name): re.sub(r"\s+", " ", sql.replace('"', "")).strip() for kind, name, sql in rows}


RENAMED = {"Sensed": "DeviceSeen"}
"""Classes of events that have another name than when the files were written. Their tags are the same."""


def settings_of(release, home):
    return config.load({"home": home}, {"COSTTRACE_CONFIG": str(release / "costtrace.yaml")})


def booked(release, home):
    """Run this code's agent on journals of that release."""
    shutil.copytree(release / "journal", home / "journal")
    Agent(settings_of(release, home)).run_once()
    return home / LEDGER_NAME


def test_this_version_has_its_golden_files_with_every_kind_of_record():
    files = GOLDEN / costtrace.__version__
    assert files in RELEASES, REMEDY
    kinds = {type(event).__name__ for event in gen_golden.journal_events(files / "journal")}
    assert kinds == {kind.__name__ for kind in get_args(AnyEvent)}, REMEDY
    written = json.loads((files / "written.json").read_text())["kinds"]
    assert kinds == {RENAMED.get(name, name) for name in written}


def test_the_golden_files_of_this_version_have_its_schema(tmp_path):
    ledger = restored(GOLDEN / costtrace.__version__, "ledger", tmp_path / "ledger.sqlite")
    connection = sqlite3.connect(ledger)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION, REMEDY
    connection.close()


def test_golden_files_stay_small():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 200_000 * len(RELEASES)


def test_they_are_made_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        gen_golden.write(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


@releases
def test_old_journals_give_the_integers_that_they_gave_then(release, tmp_path):
    now, then = booked(release, tmp_path / "home"), restored(release, "whole", tmp_path / "then.sqlite")
    assert bill(now) == bill(then)
    columns = "record_id, gpu_ns, prefill_ns, decode_ns, energy_uj, cost_nano, input_tokens, output_tokens, tenant"
    assert content(now, "usage", columns) == content(then, "usage", columns)
    check_settled(tmp_path / "home")


@releases
def test_an_agent_goes_on_where_that_release_stopped_in_the_middle(release, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    half = restored(release, "half", home / LEDGER_NAME)
    before = content(half, "posting")
    assert before, "the middle of a life has rows"
    now, then = booked(release, home), restored(release, "ledger", tmp_path / "then.sqlite")
    assert content(now, "posting") >= before
    assert bill(now) == bill(then)
    check_settled(home)


@releases
@pytest.mark.parametrize("name", LEDGERS)
def test_an_old_ledger_is_brought_up_and_every_row_of_it_stays(release, name, tmp_path):
    path = restored(release, name, tmp_path / LEDGER_NAME)
    before = {table: content(path, table) for table in COUNTED}
    Ledger(path).close()
    fresh = tmp_path / "fresh.sqlite"
    Ledger(fresh).close()
    assert schema_of(path) == schema_of(fresh), "a migration that was released has been edited"
    for table, rows in before.items():
        columns = ", ".join(f'"{column}"' for column, _ in next(iter(rows), ()))
        assert content(path, table, columns or "*") == rows


@releases
@pytest.mark.parametrize("name", ["ledger", "closed", "compacted"])
def test_an_old_ledger_is_in_balance_and_its_seals_hold(release, name, tmp_path):
    ledger = Ledger(restored(release, name, tmp_path / LEDGER_NAME))
    audit = Audit(SqliteStore(ledger))
    assert list(audit.discrepancies()) == []
    seals = [row[0] for row in ledger.connection.execute("SELECT kind FROM seal ORDER BY seal_id")]
    assert seals == {"ledger": [], "closed": ["close"] * 2, "compacted": ["close"] * 2 + ["compact"] * 2}[name]
    lines = "SELECT sum(gpu_ns), sum(energy_uj) FROM line"
    assert tuple(ledger.connection.execute(lines).fetchone()) == tuple(
        ledger.connection.execute("SELECT sum(gpu_ns), sum(energy_uj) FROM posted").fetchone()
    )
    ledger.close()


def of_schema(number, path, source):
    """A ledger as a version with *number* migrations would have left it: with what *source* has for its tables."""
    connection = sqlite3.connect(path, isolation_level=None)
    for script in MIGRATIONS[:number]:
        for statement in _statements(script):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {number}")
    connection.execute("ATTACH ? AS source", (str(source),))
    tables = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        mine = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
        theirs = {row[1] for row in connection.execute(f"PRAGMA source.table_info({table})")}
        columns = ", ".join(f'"{column}"' for column in mine if column in theirs)
        connection.execute(f"INSERT OR REPLACE INTO main.{table} ({columns}) SELECT {columns} FROM source.{table}")
    connection.close()
    return path


@pytest.mark.parametrize("number", range(len(MIGRATIONS)))
def test_a_ledger_of_every_earlier_schema_is_brought_up(number, tmp_path):
    source = restored(RELEASES[-1], "ledger", tmp_path / "source.sqlite")
    Ledger(source).close()
    old = of_schema(number, tmp_path / LEDGER_NAME, source)
    Ledger(old).close()
    assert schema_of(old) == schema_of(source)
    connection = sqlite3.connect(old)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    connection.close()
    if number:
        assert bill(old) == bill(source)
        ledger = Ledger(old)
        assert list(Audit(SqliteStore(ledger)).discrepancies()) == []
        ledger.close()


def test_a_ledger_that_an_older_version_compacted_gives_no_number_again(tmp_path):
    source = Ledger(restored(RELEASES[-1], "compacted", tmp_path / "source.sqlite"))
    number = next(number for number, script in enumerate(MIGRATIONS) if "TABLE last_number" in script)
    old = Ledger(of_schema(number, tmp_path / LEDGER_NAME, source.path))
    for table in ("posting", "usage"):
        kept = old.connection.execute(f"SELECT coalesce(max({table}_id), 0) FROM {table}").fetchone()[0]
        assert old.last_number(table) == source.last_number(table) > kept
    source.close()
    old.close()


def test_a_reader_that_is_newer_than_the_agent_says_what_to_do_and_that_helps(tmp_path):
    source = restored(RELEASES[-1], "ledger", tmp_path / "source.sqlite")
    of_schema(1, tmp_path / LEDGER_NAME, source)
    with open_ledger(tmp_path) as store, pytest.raises(LedgerError, match=r"schema 1, .*costtrace agent --once"):
        list(store.rows("SELECT prompt_as FROM engine_fit"))
    Ledger(tmp_path / LEDGER_NAME).close()
    with open_ledger(tmp_path) as store:
        list(store.rows("SELECT prompt_as FROM engine_fit"))
        with pytest.raises(LedgerError, match="costtrace verify"):
            list(store.rows("SELECT nothing FROM engine_fit"))


def test_a_newer_ledger_is_refused_with_the_remedy_and_not_touched(tmp_path):
    path = restored(RELEASES[-1], "ledger", tmp_path / LEDGER_NAME)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    for read_only in (True, False):
        with pytest.raises(LedgerTooNew, match=r"Update costtrace-core here; the ledger was not touched"):
            Ledger(path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_newer_journal_is_refused_with_the_remedy(tmp_path):
    head = SegmentHeader(JOURNAL_SCHEMA + 1, "vllm-1", 1, 0, "node", "boot", 1, 1, 1)
    (tmp_path / "00000001.ctj").write_bytes(frames.pack(-1, [head]) + frames.pack(0, [Heartbeat(1, 1)]))
    with pytest.raises(SchemaTooNew, match=r"Update costtrace-core where the agent runs; nothing is lost meanwhile"):
        JournalReader(tmp_path).read(10)


@releases
def test_old_settings_files_are_read_as_they_were_meant(release, tmp_path):
    settings = settings_of(release, tmp_path)
    assert (settings.window_s, settings.attribution, settings.linger_ms) == (2, "roofline", 200)
    assert settings.tenant_headers == ("x-costtrace-tenant",)
    assert list(map(str, settings.tenant_trusted_peers)) == ["127.0.0.0/8", "10.20.0.0/16"]
    book = load_price_book(settings.prices)
    assert book.name == "golden-1"
    rate = book.rate_for("Simulated GPU", "gpu", 1_800_000_000 * 10**9)
    assert (rate.currency, rate.includes_energy) == ("USD", False)
    tenants = load_tenants(settings.tenants)
    assert (tenants["ant"].team, tenants["ant"].labels) == ("search", {"environment": "production"})
    month, rolling = load_budgets(settings.budgets)
    assert (month.amount_nano, month.soft_percent, rolling.rolling_days) == (5000 * 10**9, 80, 30)


def test_the_tool_writes_where_it_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gen_golden.py", "--out", str(tmp_path / "out")])
    assert gen_golden.main() == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    assert (tmp_path / "out" / "half.sql.gz").exists()
