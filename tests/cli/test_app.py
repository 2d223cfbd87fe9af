"""The command line as a whole: groups, commands of other distributions, and what is reported where one is missing."""

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from costtrace.cli import app
from costtrace.cli.app import COMMANDS, GROUPS, cli, run
from costtrace.cli.distributions import NEEDS

PLUGINS = Path(__file__).parents[2] / "plugins"
PROJECTS = {
    path.parent.name: tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    for path in PLUGINS.glob("*/pyproject.toml")
}
ELSEWHERE = [name for name, place in COMMANDS.items() if place.distribution]


SOURCES = [*(PLUGINS.parent / "src").rglob("*.py"), *PLUGINS.glob("*/src/**/*.py")]


@pytest.fixture
def nothing_added(monkeypatch):
    monkeypatch.setattr(app, "entry_points", lambda **_: ())


def test_every_command_is_in_one_group_and_help_shows_the_groups_in_their_order():
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)
    text = CliRunner().invoke(cli, ["--help"]).output
    headings = [text.index(f"{title}:") for title in GROUPS]
    assert headings == sorted(headings)
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", text, re.MULTILINE), name


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_distribution_that_is_named_has_the_command(name):
    project = PROJECTS[COMMANDS[name].distribution]
    assert name in project["entry-points"][app.ENTRY_POINTS]


def test_what_other_distributions_add_is_what_the_table_has():
    added = {
        name for project in PROJECTS.values() for name in project.get("entry-points", {}).get(app.ENTRY_POINTS, ())
    }
    assert added == set(ELSEWHERE)


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("words", [[], ["--help"], ["--since", "today", "-x"]])
def test_a_command_that_is_not_installed_says_the_line_that_installs_it(nothing_added, capsys, name, words):
    assert run([name, *words]) == 2
    distribution = COMMANDS[name].distribution
    assert f"pip install {''.join(f'./plugins/{n} ' for n in NEEDS.get(distribution, ()))}./plugins/{distribution}" in (
        capsys.readouterr().err
    )


def test_the_line_names_all_that_the_distribution_needs_of_costtrace():
    for distribution in {COMMANDS[name].distribution for name in ELSEWHERE}:
        assert needed_by(distribution) == set(NEEDS.get(distribution, ()))


def needed_by(distribution):
    """The distributions of costtrace, beside the core, that one needs, and those that they need."""
    words = {re.match(r"[\w-]+", word)[0] for word in PROJECTS[distribution]["dependencies"]}
    ours = {word for word in words if word.startswith("costtrace-")} - {"costtrace-core"}
    return ours.union(*map(needed_by, ours))


def test_help_says_what_could_be_installed(nothing_added):
    text = CliRunner().invoke(cli, ["--help"]).output
    assert "Not installed" in text
    assert "./plugins/costtrace-ui" in text
    assert not re.search(r"^  board  ", text, re.MULTILINE)


def test_a_command_of_somebody_elses_is_shown_under_a_heading_of_its_own(monkeypatch):
    entry = EntryPoint("ours", "test_app_command:ours", app.ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", lambda _: click.Command("ours", help="What we added."))
    monkeypatch.setattr(app, "entry_points", lambda **_: (entry,))
    text = CliRunner().invoke(cli, ["--help"]).output
    assert re.search(rf"{app.OTHERS}:\n  ours +What we added", text)


def test_a_command_that_nobody_has_is_an_error():
    assert run(["frobnicate"]) == 2


def test_a_command_that_cannot_be_loaded_is_an_error_of_its_own_and_help_still_works(monkeypatch, capsys):
    entry = EntryPoint("board", "no_such_module_of_ours:board", app.ENTRY_POINTS)
    monkeypatch.setattr(app, "entry_points", lambda **_: (entry,))
    assert run(["board", "--since", "today"]) == 2
    assert "cannot be loaded from 'no_such_module_of_ours:board'" in capsys.readouterr().err
    assert "cannot be loaded" in CliRunner().invoke(cli, ["--help"]).output


def broken(_):
    raise RuntimeError("no such device")


@pytest.mark.parametrize(
    ("load", "why"),
    [(broken, "no such device"), (lambda _: "report", "it is no click.Command")],
)
def test_a_command_of_somebody_elses_that_is_broken_is_an_error_of_its_own_and_help_still_works(
    monkeypatch, capsys, load, why
):
    entry = EntryPoint("ours", "test_app_command:ours", app.ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", load)
    monkeypatch.setattr(app, "entry_points", lambda **_: (entry,))
    assert run(["ours", "--since", "today"]) == 2
    assert f"'ours' cannot be loaded from 'test_app_command:ours': {why}" in capsys.readouterr().err
    assert run(["--help"]) == 0
    assert "ours" in capsys.readouterr().out


def test_no_remedy_installs_from_a_package_index_what_is_on_none():
    remedy = re.compile(r"install ['\"]?costtrace-")
    assert [path for path in SOURCES if remedy.search(path.read_text(encoding="utf-8"))] == []
