"""The reading commands as people and scripts meet them: what they print, how they end, and what they refuse."""

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from honest_ledger import WALL_NS, write

from costtrace.cli.app import COMMANDS, cli, run
from costtrace.cli.time_words import parse
from costtrace.core.client_text import short
from costtrace.core.errors import CosttraceError
from costtrace.core.wall_time import show_time

SCRIPT = Path(sys.executable).parent / "costtrace"
NASTY = "=cmd|' /C calc'!A0\x1b]0;owned\x07\u202e"
HOUR_NS = 3600 * 10**9


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write(home)
    return home


@pytest.fixture
def broken(tmp_path):
    """A ledger in which one posting was changed; its number."""
    with sqlite3.connect(write(tmp_path)) as connection:
        (number,) = connection.execute("SELECT max(posting_id) FROM posting WHERE engine_id = 'engine-a'").fetchone()
        connection.execute("UPDATE posting SET device_nano = device_nano + 1 WHERE posting_id = ?", (number,))
    connection.close()
    return tmp_path, number


def script(*words, home=None, **environment):
    if home is not None:
        words = (*words, "--home", str(home))
    env = {**os.environ, "COLUMNS": "100", **environment}
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False, env=env, timeout=60)


def printed(home, *words):
    done = CliRunner().invoke(cli, [*words, "--home", str(home)], catch_exceptions=False, standalone_mode=False)
    return done.stdout


def test_verify_says_in_balance_and_ends_with_0(home):
    done = script("verify", home=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nin balance\n" in done.stdout
    assert "engine-a" in done.stdout


def test_verify_names_the_row_that_is_off_and_ends_with_1(broken):
    home, number = broken
    done = script("verify", home=home)
    assert done.returncode == 1
    assert f"posting {number} (" in done.stdout
    assert "device_nano: expected" in done.stdout
    assert "NOT in balance: " in done.stdout
    assert script("verify", "--format", "json", home=home).returncode == 1


def test_verify_counts_what_it_does_not_name(tmp_path):
    with sqlite3.connect(write(tmp_path)) as connection:
        connection.execute("UPDATE posting SET method = ''")
    connection.close()
    done = script("verify", "--limit", "2", home=tmp_path)
    assert done.returncode == 1
    assert "--limit" in done.stdout
    assert done.stdout.count("method: expected") == 2


def test_verify_as_json_holds_the_balance_and_the_discrepancies(broken):
    home, number = broken
    parsed = json.loads(script("verify", "--format", "json", home=home).stdout)
    assert [f"posting {number} " in item["row"] for item in parsed["discrepancies"]] == [True]
    assert {row["device"] for row in parsed["time"]} == {"GPU-1", "GPU-2", "GPU-3", "GPU-4", "GPU-5"}
    assert any(row["difference_nano"] == 1 for row in parsed["money"])


def test_a_row_that_is_too_large_is_named_and_not_a_traceback(tmp_path):
    with sqlite3.connect(write(tmp_path)) as connection:
        connection.execute("UPDATE meter SET idle_ns = 9223372036854775807 WHERE device = 'GPU-3'")
    connection.close()
    done = script("verify", home=tmp_path)
    assert done.returncode == 1
    assert "meter GPU-3" in done.stdout
    assert done.stderr == ""
    assert "GPU-3" in script("verify", "--limit", "1000", home=tmp_path).stdout


@pytest.fixture
def torn(tmp_path):
    """A ledger with a page overwritten that `verify` itself reads no row from."""
    path = write(tmp_path)
    with sqlite3.connect(path) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'notice'").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * page_bytes)
        file.write(b"\xa5" * page_bytes)
    return tmp_path


def test_verify_finds_pages_that_are_damaged_and_the_advice_is_another_than_verify(torn):
    done = script("verify", home=torn)
    assert (done.returncode, done.stderr) == (1, "")
    assert "NOT in balance: " in done.stdout
    assert "costtrace backup" in done.stdout
    (first, *_) = json.loads(script("verify", "--format", "json", home=torn).stdout)["discrepancies"]
    assert (first["check"], first["field"]) == ("file", "pages")
    assert script("verify", "--format", "csv", home=torn).returncode == 1
    doctor = script("doctor", home=torn).stdout
    assert "report it as a bug" not in doctor
    assert "costtrace backup" in doctor


def test_the_advice_for_a_damaged_page_is_a_copy(tmp_path):
    path = write(tmp_path)
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (path.stat().st_size - 8192))
    done = script("report", home=tmp_path)
    assert done.returncode == 2
    assert "costtrace backup" in done.stderr
    assert "costtrace verify" not in done.stderr


@pytest.mark.parametrize("command", ["report", "requests", "verify"])
def test_json_is_json_and_csv_has_a_header(home, command):
    assert json.loads(printed(home, command, "--format", "json"))
    header, *rows = csv.reader(io.StringIO(printed(home, command, "--format", "csv")))
    assert all(len(row) == len(header) for row in rows)
    assert bool(rows) == (command != "verify")


@pytest.mark.parametrize("words", [(), ("--why",)])
def test_the_header_of_no_requests_has_the_names_that_requests_have(home, words):
    some, none = (
        next(csv.reader(io.StringIO(printed(home, "requests", "--format", "csv", *words, *which))))
        for which in ((), ("--tenant", "nobody"))
    )
    assert some == none
    assert "gap_ns" in none


def test_report_takes_dimensions_and_a_period(home):
    until = show_time(WALL_NS + HOUR_NS).replace(" ", "T")
    text = printed(home, "report", "--by", "engine,hour", "--since", "2026-09-21", "--until", until, "--format", "json")
    rows = json.loads(text)["summary"]
    assert list(rows[0])[:2] == ["engine", "hour"]
    assert {row["engine"] for row in rows if row["kind"] == "request"} == {f"engine-{x}" for x in "abcdef"}
    assert "nothing was used 2020-01-01" in printed(home, "report", "--since", "2020-01-01", "--until", "2020-01-02")


def test_the_dearest_requests_come_first_with_a_reason(home):
    parsed = json.loads(printed(home, "requests", "--dearest", "--limit", "5", "--format", "json"))["requests"]
    costs = [row["cost_nano"] for row in parsed]
    assert costs == sorted(costs, reverse=True)
    assert all(row["why"] for row in parsed)


def test_one_request_is_found_by_any_of_its_ids(home):
    (one,) = json.loads(printed(home, "requests", "--id", "record-00007", "--format", "json"))["requests"]
    for identifier in (one["request_id"], one["request_key"], one["traceparent"][3:35]):
        (parsed,) = json.loads(printed(home, "requests", "--id", identifier, "--format", "json"))["requests"]
        assert parsed["record_id"] == "record-00007"
    assert "cost_per_million_total_tokens" in printed(home, "requests", "--id", "record-00007")


def test_a_request_is_found_by_the_whole_id_that_was_cut_and_what_is_printed_of_it_is_cut_again(tmp_path):
    whole, old = "resp_" + "y" * 3_000, "resp_" + "x" * 3_000
    with sqlite3.connect(write(tmp_path)) as connection:
        for name, record in ((short(whole), "record-00007"), (old, "record-00008")):
            connection.execute("UPDATE usage SET request_id = ? WHERE record_id = ?", (name, record))
    connection.close()
    for identifier, record in ((whole, "record-00007"), (short(whole), "record-00007"), (old, "record-00008")):
        asked = ("requests", "--id", identifier)
        (parsed,) = json.loads(printed(tmp_path, *asked, "--format", "json"))["requests"]
        assert parsed["record_id"] == record
        shown = printed(tmp_path, *asked) + printed(tmp_path, "requests", "--limit", "100000")
        assert max(map(len, shown.splitlines())) < 1_000
        assert max(map(len, printed(tmp_path, "explain", identifier).splitlines())) < 1_000
    with pytest.raises(CosttraceError) as error:
        printed(tmp_path, "requests", "--id", "z" * 3_000)
    assert len(str(error.value)) < 200


def test_the_newest_requests_of_one_tenant(home):
    parsed = json.loads(printed(home, "requests", "--tenant", "acme", "--limit", "9", "--format", "json"))["requests"]
    assert {row["tenant"] for row in parsed} == {"acme"}
    ends = [row["ended_ns"] for row in parsed]
    assert ends == sorted(ends, reverse=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "--by", "tenant,colour"), "there is no dimension 'colour': --by takes tenant, model"),
        (("report", "--since", "last tuesday"), "cannot read the time 'last tuesday': use a date"),
        (("report", "--tz", "Mars/Olympus"), "there is no time zone 'Mars/Olympus'"),
        (("report", "--since", "2026-11-02", "--until", "2026-11-01"), "the period is empty"),
        (("requests", "--id", "nobody"), "no request 'nobody' is in the ledger"),
        (("journal", "show"), "there is no journal under"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line_and_2(home, words, message):
    done = script(*words, home=home)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"costtrace: {message}")
    assert done.stderr.count("\n") == 1


def test_a_home_without_a_ledger_says_so_and_nothing_is_made(tmp_path):
    done = script("report", home=tmp_path / "none")
    assert done.returncode == 2
    assert "there is no ledger at" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.sqlite").write_text("this is not a ledger, it is a letter\n" * 100)
    done = script("verify", home=tmp_path)
    assert done.returncode == 2
    assert "cannot open the ledger" in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    done = script("--debug", "report", home=tmp_path)
    assert "Traceback" in done.stderr
    assert "LedgerError" in done.stderr


def test_home_is_costtrace_home_unless_it_is_given(home, tmp_path):
    assert script("verify", COSTTRACE_HOME=str(home)).returncode == 0
    assert script("verify", COSTTRACE_HOME=str(tmp_path)).returncode == 2
    assert script("verify", home=home, COSTTRACE_HOME=str(tmp_path)).returncode == 0


def test_a_reader_that_has_seen_enough_is_no_error(home):
    producer = subprocess.Popen(
        [SCRIPT, "requests", "--limit", "9999", "--format", "json", "--home", str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # unbuffered, Python itself drops what is left, and says nothing
    )
    producer.stdout.read(10)
    producer.stdout.close()
    errors = producer.stderr.read()
    producer.stderr.close()
    assert errors == b""
    assert producer.wait(30) == 141


@pytest.fixture(scope="module")
def nasty_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("nasty")
    with sqlite3.connect(write(home)) as connection:
        for table in ("posting", "usage"):
            connection.execute(f"UPDATE {table} SET tenant = ? WHERE tenant = 'acme'", (NASTY,))
        connection.execute("UPDATE usage SET request_id = ?", (NASTY,))
        connection.execute("UPDATE usage SET gpu_ns = gpu_ns + 1 WHERE record_id = 'record-00002'")
    connection.close()
    return home


@pytest.mark.parametrize("form", ["table", "json", "csv"])
@pytest.mark.parametrize(
    "words", [("report",), ("requests", "--dearest"), ("verify",), ("requests", "--id", "record-00002")]
)
def test_a_tenants_name_commands_neither_terminal_nor_spreadsheet(nasty_home, words, form):
    done = script(*words, "--format", form, home=nasty_home)
    assert "calc" in done.stdout
    assert not {"\x1b", "\x07", "\u202e"}.intersection(done.stdout)
    if form == "csv":
        cells = [cell for row in csv.reader(io.StringIO(done.stdout)) for cell in row]
        assert not [cell for cell in cells if cell.startswith("=")]


def test_an_error_does_not_command_the_terminal_either(home):
    done = script("requests", "--id", NASTY.replace("\x00", ""), home=home)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_a_terminal_that_knows_only_ascii_gets_escapes(nasty_home):
    done = script("requests", "--tenant", "blue", home=nasty_home, PYTHONIOENCODING="ascii")
    assert done.returncode == 0


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_that_is_there_has_help_with_examples(name, capsys):
    if name not in cli.list_commands(None):
        pytest.skip(f"the distribution with `costtrace {name}` is not installed: `make setup` installs all")
    assert run([name, "--help"]) == 0
    assert "Usage: costtrace" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["report", "requests", "verify", "agent"])
def test_help_teaches_by_examples(name, capsys):
    assert run([name, "--help"]) == 0
    assert f"Examples:\n    costtrace {name}" in capsys.readouterr().out


def test_python_m_costtrace_is_the_same(home):
    done = subprocess.run(
        [sys.executable, "-m", "costtrace", "verify", "--home", str(home)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "in balance" in done.stdout


def test_without_click_the_message_says_what_to_install(tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('No module named click', name='click')\n")
    done = script("report", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "In a checkout of costtrace: pip install '.[agent]'" in done.stderr
    assert "Traceback" not in done.stderr


BERLIN = ZoneInfo("Europe/Berlin")
NOW_NS = 1_795_480_496_789_000_000  # 2026-11-24 00:34:56.789 UTC


@pytest.mark.parametrize(
    ("words", "zone", "expected"),
    [
        ("2026-11-23", UTC, "2026-11-23 00:00:00.000Z"),
        ("2026-11-23", BERLIN, "2026-11-22 23:00:00.000Z"),
        ("2026-11-23T14:30", BERLIN, "2026-11-23 13:30:00.000Z"),
        ("2026-11-23 14:30:00+05:45", BERLIN, "2026-11-23 08:45:00.000Z"),
        ("2026-11-23T14:30Z", BERLIN, "2026-11-23 14:30:00.000Z"),
        ("2h", UTC, "2026-11-23 22:34:56.789Z"),
        ("30min", UTC, "2026-11-24 00:04:56.789Z"),
        ("7d", BERLIN, "2026-11-17 00:34:56.789Z"),
        ("now", UTC, "2026-11-24 00:34:56.789Z"),
        ("today", UTC, "2026-11-24 00:00:00.000Z"),
        ("today", BERLIN, "2026-11-23 23:00:00.000Z"),
        ("yesterday", BERLIN, "2026-11-22 23:00:00.000Z"),
    ],
)
def test_times_are_read_in_the_zone_that_was_asked_for(words, zone, expected):
    assert show_time(parse(words, NOW_NS, zone)) == expected


@pytest.mark.parametrize(
    "words", ["", "h", "2y", "-2h", "2026-13-01", "tomorrow", "1e9", "2026-11-23T25:00", "\u0662h"]
)
def test_a_time_that_is_none_is_refused(words):
    with pytest.raises(CosttraceError, match="cannot read the time"):
        parse(words, NOW_NS, UTC)


@pytest.mark.parametrize("words", ["0001-01-01", "1677-09-21", "2262-04-12", "9999-12-31", "999999999w"])
def test_a_time_that_64_bits_of_nanoseconds_cannot_hold_is_refused(words, home):
    with pytest.raises(CosttraceError, match="cannot read the time"):
        parse(words, NOW_NS, UTC)
    done = script("report", "--since", words, home=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot read the time" in done.stderr
