"""Actions on modules that somebody else imports."""

import sys

import pytest

from costtrace.capture.hooks import on_import
from costtrace.core import guard


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "late_one.py").write_text("class Thing:\n    def act(self, what): return what\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "late_one"
    sys.modules.pop("late_one", None)


def test_an_action_waits_until_its_module_is_imported(package):
    seen = []
    on_import.when_imported(package, seen.append)
    assert package not in sys.modules
    module = __import__(package)
    assert seen == [module]
    assert "exec_module" not in vars(module.__spec__.loader), "the loader is as it was"


def test_an_action_runs_at_once_on_a_module_that_is_loaded(package):
    module, seen = __import__(package), []
    on_import.when_imported(package, seen.append)
    assert seen == [module]


@pytest.mark.swallows
def test_a_failing_action_does_not_break_the_import(package):
    on_import.when_imported(package, lambda _: 1 / 0)
    assert __import__(package).Thing().act(3) == 3
    assert guard.failures[f"late.{package}"] == 1
