"""`costtrace top`: its figures are those of `report`, its keys do what they say, and it fits its terminal."""

import json
import os
import pty
import re
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from contextlib import closing
from datetime import UTC
from fcntl import ioctl
from pathlib import Path

import pytest
from click.testing import CliRunner
from costtrace_ui.live.query import read_snapshot
from costtrace_ui.live.views import VIEWS, widths
from costtrace_ui.top.screen import as_filter, draw, explain_row, read_again, split_keys
from costtrace_ui.top.state import STRETCHES_NS, State
from honest_ledger import write
from rich.cells import cell_len

from costtrace.cli.app import cli
from costtrace.core.units import NS_PER_S
from costtrace.core.wall_time import show_time
from costtrace.ledger.reader import open_ledger

NASTY = "\x1b]0;owned\x07=cmd\u202e\u4e2d\u6587\u4e2d\u6587 [bold]"
HOUR_NS = 3_600 * NS_PER_S
WAIT_S = 60


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write(home)
    return home


def read(home, over_ns=HOUR_NS, limit=200, **options):
    with open_ledger(home) as store:
        return read_snapshot(store, over_ns, limit, **options)


def lines(state, snapshot, size=(80, 24)):
    return [line.plain for line in draw(state, snapshot, size, snapshot.period.until_ns + 5 * NS_PER_S, UTC)]


def pressed(state, snapshot, *keys):
    action = ""
    for key in keys:
        shown = [field for field, _ in widths(state.now.fields, 80)]
        action = state.press(key, state.rows(snapshot, shown), shown)
    return action


def json_of(home, *words):
    done = CliRunner().invoke(cli, [*words, "--home", str(home), "--format", "json"], catch_exceptions=False)
    return json.loads(done.stdout)


@pytest.mark.parametrize("by", ["tenant", "model", "engine"])
@pytest.mark.parametrize("over", ["30s", "1h"])
def test_its_sums_are_those_of_report_for_the_same_windows(home, by, over):
    printed = json_of(home, "top", "--once", "--over", over)
    period = read(home, {"30s": 30, "1h": 3_600}[over] * NS_PER_S).period
    assert period.until_ns - period.since_ns == (30 if over == "30s" else 130) * NS_PER_S - 1_234_567_891
    limits = [show_time(ns).replace(" ", "T") for ns in period]
    report = json_of(home, "report", "--by", by, "--since", limits[0], "--until", f"{limits[1]}")["summary"]
    names = ("gpu_ns", "wasted_ns", "cost_nano", "cost_unknown_gpu_ns", "energy_uj", "output_tokens", "requests")
    due = {(row[by], row["currency"]): [row[name] for name in names] for row in report if row["kind"] == "request"}
    rows = [row for row in printed[f"{by}s"] if row["kind"] == "request"]
    assert {(row["name"], row["currency"]): [row[name] for name in names] for row in rows} == due
    everything = [row for row in report if row["kind"] == "everything"]
    assert sum(row["gpu_ns"] for row in printed[f"{by}s"]) == sum(row["gpu_ns"] for row in everything)
    assert sum(row["device_ns"] for row in printed["devices"]) == sum(row["gpu_ns"] for row in everything)


@pytest.mark.parametrize(("currency", "digits"), [("JPY", 0), ("USD", 2), ("KWD", 3)])
def test_what_an_hour_costs_has_the_minor_units_of_its_currency(home, tmp_path, currency, digits):
    shutil.copy(home / "ledger.sqlite", tmp_path / "ledger.sqlite")
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection, connection:
        for table in ("rate", "usage"):
            connection.execute(f"UPDATE {table} SET currency = ?", (currency,))
    text = "\n".join(lines(State(HOUR_NS), read(tmp_path)))
    hourly = re.findall(rf" {currency}/s \(([\d,.]+)/h\)", text)
    assert [len(rate.partition(".")[2]) for rate in hourly] == [digits]


def test_a_device_in_json_has_the_names_of_the_ledger_in_their_order(home):
    (row, *_) = json_of(home, "top", "--once")["devices"]
    assert [name for name in row if not name.endswith("_ppm")] == [
        *("device", "name", "engines", "request_ns", "idle_ns", "overhead_ns", "unobserved_ns", "energy_uj", "gap_ns"),
        *("simulated", "kind", "span_ns", "device_ns", "power_mw"),
    ]


def test_a_joule_per_token_is_of_requests_whose_energy_is_known_in_full(home):
    snapshot = read(home)
    rows = {row["name"]: row for row in VIEWS[0].rows(snapshot)}
    with sqlite3.connect(home / "ledger.sqlite") as connection:
        sql = "SELECT sum(energy_uj), sum(output_tokens) FROM usage WHERE tenant = 'acme' AND gap_ns = 0"
        energy, tokens = connection.execute(sql + " AND energy_uj IS NOT NULL").fetchone()
    connection.close()
    assert rows["acme"]["uj_per_output_token"] == (2 * energy + tokens) // (2 * tokens)


def test_only_what_has_no_end_is_running_and_it_is_what_the_ledger_has_of_it(home):
    (row,) = json_of(home, "top", "--once")["running"]
    with sqlite3.connect(home / "ledger.sqlite") as connection:
        sql = """SELECT record_id, sum(gpu_ns), sum(device_nano + energy_nano) FROM posting
            WHERE kind = 'request' AND engine_id = 'engine-f'
            AND record_id NOT IN (SELECT record_id FROM usage) GROUP BY 1"""
        assert connection.execute(sql).fetchall() == [(row["record_id"], row["gpu_ns"], row["cost_nano"])]
    connection.close()


def test_what_an_engine_left_open_at_its_end_does_not_run(tmp_path):
    with sqlite3.connect(write(tmp_path)) as connection:
        connection.execute("UPDATE engine SET ended_ns = 1 WHERE engine_id = 'engine-f'")
    connection.close()
    assert read(tmp_path).running == []


def test_a_ledger_that_cannot_be_read_for_a_moment_leaves_what_was_there(tmp_path):
    path, state = write(tmp_path), State(HOUR_NS)
    snapshot = read(tmp_path)
    path.rename(tmp_path / "elsewhere")
    assert read_again(tmp_path, state, snapshot) == snapshot
    assert "there is no ledger" in lines(state, snapshot)[-1]


@pytest.mark.parametrize("size", [(80, 24), (60, 12), (132, 40), (40, 8)])
@pytest.mark.parametrize("view", range(len(VIEWS)))
def test_every_view_fits_the_terminal(home, size, view):
    snapshot = read(home)
    shown = lines(State(HOUR_NS, view), snapshot, size)
    assert len(shown) <= size[1]
    assert max(map(cell_len, shown)) <= size[0]
    if size[0] >= 80:
        assert not any(line.endswith("~") for line in shown), "something is cut off on 80 columns"


def test_names_that_clients_chose_cannot_steer_the_terminal(tmp_path):
    with sqlite3.connect(write(tmp_path)) as connection:
        connection.execute("UPDATE posting SET tenant = ? WHERE tenant = 'acme'", (NASTY,))
        connection.execute("UPDATE usage SET tenant = ?, request_id = ? WHERE tenant = 'acme'", (NASTY, NASTY))
    connection.close()
    snapshot = read(tmp_path)
    for view in range(len(VIEWS)):
        text = "\n".join(lines(State(HOUR_NS, view), snapshot, (160, 50)))
        assert not set("\x1b\x07\u202e") & set(text)
    assert r"\x1b]0;owned\x07=cmd" in "\n".join(lines(State(HOUR_NS), snapshot, (160, 50)))


def test_rows_are_sorted_by_the_column_that_was_chosen_and_unknown_comes_last(home):
    snapshot, state = read(home), State(HOUR_NS)
    pressed(state, snapshot, "6", "s")  # from cost to GPU time
    shown = [field for field, _ in widths(state.now.fields, 80)]
    times = [row["gpu_ns"] for row in state.rows(snapshot, shown)]
    assert times == sorted(times, reverse=True)
    pressed(state, snapshot, "r")
    assert [row["gpu_ns"] for row in state.rows(snapshot, shown)] == sorted(times)
    fresh = State(HOUR_NS, 5)
    costs = [row["cost_nano"] for row in fresh.rows(snapshot, shown)]
    assert costs == sorted((c for c in costs if c is not None), reverse=True) + [None] * costs.count(None)


def test_the_filter_shows_what_has_the_words_and_escape_drops_it(home):
    snapshot, state = read(home), State(HOUR_NS)
    pressed(state, snapshot, "/", *"ACM", "enter")
    text = "\n".join(lines(state, snapshot)[5:-1])
    assert "acme" in text
    assert "blue" not in text
    assert "with 'ACM'" in "\n".join(lines(state, snapshot))
    pressed(state, snapshot, "esc")
    assert "blue" in "\n".join(lines(state, snapshot))


def test_q_is_a_letter_while_a_filter_is_typed_and_quits_otherwise(home):
    snapshot, state = read(home), State(HOUR_NS)
    assert pressed(state, snapshot, "/", "q") == ""
    assert pressed(state, snapshot, "esc", "q") == "quit"


def test_enter_on_a_tenant_shows_its_requests_and_only_those(home):
    snapshot, state = read(home), State(HOUR_NS)
    rows = state.rows(snapshot, [field for field, _ in widths(state.now.fields, 80)])
    assert pressed(state, snapshot, "enter") == "read"
    behind = read(home, only=as_filter(state.chosen), period=snapshot.period)
    assert {row["tenant"] for row in state.rows(behind, list(state.now.fields))} == {rows[0]["name"]}
    assert f"tenant = {rows[0]['name']}" in "\n".join(lines(state, behind))


def test_a_frozen_screen_is_read_again_only_for_its_own_period(home):
    snapshot, state = read(home, 30 * NS_PER_S), State(30 * NS_PER_S)
    assert pressed(state, snapshot, "f") == ""
    assert "FROZEN" in "\n".join(lines(state, snapshot))
    state.over_ns = HOUR_NS
    assert read_again(home, state, snapshot).period == snapshot.period
    state.frozen = False
    assert read_again(home, state, snapshot).period == read(home).period != snapshot.period
    state.frozen = True
    assert pressed(state, snapshot, "f") == "read"


def test_plus_and_minus_walk_through_the_stretches_and_stop_at_their_ends(home):
    snapshot, state = read(home), State(300 * NS_PER_S)
    assert pressed(state, snapshot, "+") == "read"
    assert state.over_ns == 900 * NS_PER_S
    pressed(state, snapshot, *"-" * 20)
    assert state.over_ns == STRETCHES_NS[0]
    pressed(state, snapshot, *"+" * 20)
    assert state.over_ns == STRETCHES_NS[-1]


def test_e_explains_the_request_of_a_row_or_the_most_expensive_one_behind_it(home):
    snapshot = read(home)
    explained = CliRunner().invoke(cli, ["explain", "record-00004", "--home", str(home)]).stdout
    with open_ledger(home) as store:
        costliest = VIEWS[5].rows(snapshot)[0]
        assert costliest["record_id"] == "record-00004"
        of_request = explain_row(store, VIEWS[5], costliest, snapshot, "\u2588")
        acme = next(row for row in VIEWS[0].rows(snapshot) if row["name"] == "acme")
        of_group = explain_row(store, VIEWS[0], acme, snapshot, "\u2588")
        nobody = explain_row(store, VIEWS[0], {"name": "idle", "kind": "idle"}, snapshot, "#")
        running = explain_row(store, VIEWS[4], VIEWS[4].rows(snapshot)[0], snapshot, "#")
    assert of_request == explained.splitlines() == of_group
    assert nobody == ["No request that ended in this stretch is behind this row."]
    assert running[0] == "Request record-00108 runs still: its reasons are known when it has ended."


def test_keys_are_recognised_however_the_terminal_sends_them():
    assert list(split_keys("\x1b[A\x1bOBq\r\x1b[5~\x7f\u00e9\x1b")) == [
        *("up", "down", "q", "enter", "pgup", "backspace", "\u00e9", "esc")
    ]
    assert list(split_keys("\x1b[24~\x1b[1;5Cx")) == ["x"]


def test_an_empty_ledger_says_that_no_window_has_closed(tmp_path):
    write(tmp_path, plans=())
    text = "\n".join(lines(State(HOUR_NS), read(tmp_path)))
    assert "no window has closed yet" in text


def test_without_a_terminal_it_says_what_to_do_instead(home):
    done = CliRunner().invoke(cli, ["top", "--home", str(home)])
    assert "--once" in str(done.exception)


def test_a_snapshot_reads_the_tables_by_index_and_never_whole(home):
    class Explaining:
        def __init__(self, store):
            self.store, self.whole = store, []

        def rows(self, sql, parameters=None):
            # A view's rows are scanned where they were found by index; the table of re-ratings is a line a re-rating.
            names = "posting|usage|meter|rollup|adjustment" + (
                "" if "line" in sql or "(PARTITION" in sql else "|[pmuo]"
            )
            plan = [row[3] for row in self.store.rows(f"EXPLAIN QUERY PLAN {sql}", parameters)]
            self.whole += [step for step in plan if re.match(rf"SCAN ({names})\b", step)]
            # Nor all parts of requests that several engines worked on, whenever they ended.
            self.whole += [step for step in plan if "request_key>?" in step]
            return self.store.rows(sql, parameters)

    with open_ledger(home) as store:
        watched = Explaining(store)
        read_snapshot(watched, 30 * NS_PER_S, 200)
    assert watched.whole == []


class Terminal:
    """`costtrace top` in a pseudo-terminal, as a person has it."""

    def __init__(self, *words, columns=80, rows=24):
        script = str(Path(sys.executable).parent / "costtrace")
        self.fd, inner = pty.openpty()
        ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
        for name in ("COLUMNS", "LINES"):  # the terminal says it
            environment.pop(name, None)
        words = [script, "top", *words]
        self.process = subprocess.Popen(
            words, stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=True
        )
        os.close(inner)
        self.raw = ""

    def until(self, words):
        """Read on until *words* are on the screen."""
        end = time.monotonic() + WAIT_S
        while words not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw):
            assert time.monotonic() < end, f"{words!r} never came:\n{self.raw[-3000:]}"
            self._read()

    def _read(self):
        if select.select([self.fd], [], [], 0.2)[0]:
            try:
                self.raw += os.read(self.fd, 65536).decode("utf-8", "replace")
            except OSError:
                raise AssertionError(f"it ended:\n{self.raw[-3000:]}") from None

    def press(self, keys, words):
        self.raw = ""
        os.write(self.fd, keys.encode())
        self.until(words)

    def end(self):
        """Its exit code, and all that it wrote at its end."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                self._read()
            except AssertionError:
                break
        os.close(self.fd)
        return self.process.wait(timeout=WAIT_S)


def test_driven_in_a_terminal_it_shows_filters_freezes_explains_and_ends(home):
    terminal = Terminal("--home", str(home), "--over", "1h", "--every", "0.5")
    terminal.until("q quit")
    terminal.press("6", "req-record-00004")
    terminal.press("e", "Why: ")
    terminal.press("x", "q quit")
    terminal.press("/blue", "/blue_")
    terminal.press("\r", "with 'blue'")
    terminal.press("f", "FROZEN")
    terminal.press("\x1b[B\x1b[B", "> req-record-00027")
    terminal.press("\t", "[1 tenants]")
    terminal.press("?", "escape        back")
    os.write(terminal.fd, b"xq")
    assert terminal.end() == 0
    assert terminal.raw.rstrip().endswith("\x1b[?25h") or "\x1b[?1049l" in terminal.raw
    assert "\x1b[3" not in terminal.raw, "NO_COLOR is set"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(home, number):
    terminal = Terminal("--home", str(home))
    terminal.until("q quit")
    before = termios.tcgetattr(terminal.fd)[3] & termios.ECHO
    terminal.process.send_signal(number)
    code = terminal.end()
    assert before == 0
    assert code == 128 + number
    assert "\x1b[?1049l" in terminal.raw


def test_rows_that_the_agent_writes_meanwhile_appear_without_a_key(tmp_path):
    with sqlite3.connect(write(tmp_path)) as connection:
        terminal = Terminal("--home", str(tmp_path), "--over", "1h", "--every", "0.2")
        terminal.until("acme")
        connection.execute("UPDATE posting SET tenant = 'newcomer' WHERE tenant = 'acme'")
        connection.commit()
        terminal.until("newcomer")
        terminal.press("f", "FROZEN")
        connection.execute("UPDATE posting SET tenant = 'latecomer' WHERE tenant = 'newcomer'")
        connection.commit()
        time.sleep(0.5)  # two readings later
        terminal.press("/co", "/co_")
        assert "latecomer" not in terminal.raw
        assert "newcomer" in terminal.raw
        terminal.press("\rf", "latecomer")
        os.write(terminal.fd, b"q")
        assert terminal.end() == 0
    connection.close()
