"""What another distribution brings beside commands: the store that `--store` names."""

import tomllib
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from honest_ledger import write

from costtrace.cli import distributions
from costtrace.cli.app import run
from costtrace.cli.distributions import STORES
from costtrace.ledger.reader import open_ledger

FLEET = Path(__file__).parents[2] / "plugins" / "costtrace-fleet" / "pyproject.toml"
LINE = "In a checkout of costtrace: pip install ./plugins/costtrace-fleet."
READING = (["report"], ["verify"], ["requests"], ["policies", "--period", "2026-11"])


@pytest.fixture
def found(monkeypatch):
    """The entry points that are there: none, until a test adds some."""
    entries = []
    monkeypatch.setattr(distributions, "entry_points", lambda **asked: [e for e in entries if e.matches(**asked)])
    monkeypatch.delenv("COSTTRACE_STORE", raising=False)
    return entries


def test_the_distribution_that_is_named_has_the_store():
    project = tomllib.loads(FLEET.read_text(encoding="utf-8"))["project"]
    assert project["name"] in LINE
    assert project["entry-points"][STORES] == {"fleet": "costtrace_fleet.store:open_store"}


@pytest.mark.parametrize("words", READING)
def test_a_store_without_the_distribution_that_opens_it_says_the_line_that_installs_it(found, capsys, words):
    assert run([*words, "--store", "clickhouse://me@host:8123"]) == 2
    assert LINE in capsys.readouterr().err


def test_the_setting_says_so_too_and_home_reads_the_ledger_without_it(found, capsys, monkeypatch, tmp_path):
    write(tmp_path)
    monkeypatch.setenv("COSTTRACE_STORE", "clickhouse://me@host:8123")
    assert run(["report"]) == 2
    assert LINE in capsys.readouterr().err
    assert run(["report", "--home", str(tmp_path)]) == 0


def test_what_cannot_be_loaded_is_one_clear_line(found, capsys):
    found.append(EntryPoint("fleet", "no_such_module_of_ours:open_store", STORES))
    assert run(["report", "--store", "clickhouse://me@host:8123"]) == 2
    assert "'no_such_module_of_ours:open_store' cannot be loaded" in capsys.readouterr().err


def test_it_is_opened_with_address_and_password_and_closed(found, capsys, monkeypatch, tmp_path):
    write(tmp_path)
    (tmp_path / "password").write_text("hunter2\n")
    monkeypatch.setenv("COSTTRACE_STORE_PASSWORD_FILE", str(tmp_path / "password"))
    calls = []

    @contextmanager
    def open_store(dsn, *, password):
        calls.append((dsn, password))
        with open_ledger(tmp_path) as ledger:
            yield ledger
        calls.append("closed")

    monkeypatch.setattr(EntryPoint, "load", lambda _: open_store)
    found.append(EntryPoint("fleet", "ours:open_store", STORES))
    assert run(["report", "--store", "any://where"]) == 0
    assert calls == [("any://where", "hunter2"), "closed"]
    shown = capsys.readouterr().out
    assert run(["report", "--home", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == shown.splitlines()[1:]
