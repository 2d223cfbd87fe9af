"""The contract with TensorRT-LLM: its data, what it says of a source tree, and what happens where it is not kept."""

import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from costtrace_tensorrt_llm import contract
from costtrace_tensorrt_llm.contract import check, hook_list
from costtrace_tensorrt_llm.contract.hook_list import HOOKS
from double.signatures import COLUMNS, SEEN
from source_tree import EXECUTOR, edit, tree_of

from costtrace.cli.app import cli


@pytest.fixture
def tree(tmp_path):
    return tree_of(tmp_path, "main")


# -- the data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)
def test_every_version_that_is_claimed_has_the_parameters_that_the_wrapper_relies_on(hook):
    for column, seen in SEEN.get(hook.name, {}).items():
        assert column in COLUMNS
        positional = tuple(takewhile(lambda name: name != "*", seen.parameters))
        assert positional[: len(hook.parameters)] == hook.parameters, column


def test_the_step_hooks_are_known_in_every_version_by_definition_or_call_and_newest_by_definition():
    for hook in HOOKS:
        if hook.tier == "T1" and hook.function:
            assert SEEN[hook.name].keys() == COLUMNS.keys(), hook.name
            assert SEEN[hook.name]["main"].evidence == SEEN[hook.name]["1.0"].evidence == "def", hook.name


# -- a source tree -------------------------------------------------------------------------------------------------


def broken(package):
    return {row.hook.name: row.why for row in contract.check_source(package) if not row.ok}


NOT_YET = {
    "stats": "without gpu_forward_time_ms",
    "batch state": f"tensorrt_llm.{EXECUTOR} has no class BatchState",
}
"""What the older columns do not have, and T1 does not need."""


@pytest.mark.parametrize("column", COLUMNS)
def test_a_source_tree_that_keeps_the_contract_fits_and_nothing_of_it_is_imported(tmp_path, column):
    package = tree_of(tmp_path, column)
    assert broken(package) == ({} if column == "main" else NOT_YET)
    assert contract.summary(package, contract.check_source(package)).endswith("tier T1 would be used")
    assert "tensorrt_llm" not in sys.modules


def test_a_renamed_method_is_named_and_the_tier_falls_back(tree):
    edit(tree, EXECUTOR, "def _forward_step(", "def _forward_one(")
    assert broken(tree) == {"forward": "it does not exist"}
    sentence = contract.summary(tree, contract.check_source(tree))
    assert sentence.endswith("tier T2 would be used (without the hook forward)")


def test_a_changed_signature_is_named(tree):
    edit(tree, EXECUTOR, "_sample_async(self, scheduled_batch=None,", "_sample_async(self, batch=None,")
    assert broken(tree)["sample"] == (
        "its parameters are (batch, batch_outputs), not (scheduled_batch, batch_outputs, ...)"
    )


def test_a_missing_attribute_is_named(tree):
    edit(tree, "_torch.pyexecutor.llm_request", "py_client_id: int", "client: int")
    assert broken(tree) == {"request": "without py_client_id"}


def test_a_version_outside_of_the_contract_falls_back_with_that_reason(tmp_path):
    package = tree_of(tmp_path, "main", version="1.5.0rc1")
    outside = "version 1.5.0rc1 is outside the contract (1.0 to 1.3)"
    sentence = contract.summary(package, contract.check_source(package))
    assert sentence == f"TensorRT-LLM 1.5.0rc1: tier T2 would be used ({outside})"
    assert broken(package)["forward"] == outside
    assert check.tier_of([hook.name for hook in HOOKS], "1.5.0rc1") == ("T2", outside)


def test_a_tier_is_the_best_that_fits():
    every = {hook.name for hook in HOOKS}
    assert check.tier_of(every, "1.3.0") == ("T1", "")
    assert check.tier_of(every - {"sample"}, "1.3.0") == ("T1-native", "without the hook sample")
    assert check.tier_of(every - {"sample", "batch state"}, "1.3.0") == ("T2", "without the hook sample")
    assert check.tier_of(every - {"forward", "stats"}, "1.3.0") == ("none", "without the hook forward")
    assert check.tier_of(every, "1.3.0", "T1-native") == ("T1-native", "")
    assert check.tier_of(every - {"iteration"}, "1.3.0", "T1-native") == ("T1", "without the hook iteration")
    assert check.tier_of(every - {"stats"}, "1.3.0", "T2") == ("none", "without the hook stats")


def test_where_no_tier_fits_the_doctor_names_the_missing_hook(tmp_path):
    package = tree_of(tmp_path, "1.2rc", version="1.2.0")
    edit(package, EXECUTOR, "def _forward_step(", "def _forward_one(")
    assert contract.summary(package, contract.check_source(package)) == (
        "TensorRT-LLM 1.2.0: tier none would be used (without the hook forward)"
    )


def test_every_tier_has_an_id_and_needs_hooks_that_exist():
    assert hook_list.METHODS.keys() == {*hook_list.TIERS, "none"}
    assert len(set(hook_list.METHODS.values())) == len(hook_list.METHODS)
    assert {name for needed in hook_list.TIERS.values() for name in needed} <= {hook.name for hook in HOOKS}
    assert not any(method.startswith("estimated:") for method in hook_list.METHODS.values())


def test_without_statistics_there_is_no_tier_left(tree):
    edit(tree, EXECUTOR, "def _forward_step(", "def _forward_one(")
    edit(tree, EXECUTOR, "def _append_iter_stats(", "def _append(")
    assert "tier none would be used" in contract.summary(tree, contract.check_source(tree))


def test_a_dataclass_is_read_by_its_fields(tree):
    path = tree / "_torch" / "pyexecutor" / "executor_request_queue.py"
    path.write_text("@dataclasses.dataclass\nclass RequestQueueItem:\n    id: int\n    request: object = None\n")
    assert broken(tree) == {}


def test_source_that_cannot_be_parsed_is_a_finding(tree):
    (tree / "_torch" / "pyexecutor" / "py_executor.py").write_text("def (:")
    assert broken(tree)["forward"] == f"tensorrt_llm.{EXECUTOR} has no class PyExecutor"


def test_doctor_prints_a_table_of_what_fits(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("COSTTRACE_HOME", str(tmp_path / "home"))
    edit(tree, EXECUTOR, "def _forward_step(", "def _forward_one(")
    output = CliRunner().invoke(cli, ["doctor", "--engine", "tensorrt-llm", "--package-dir", str(tree)]).output
    assert re.search(r"forward\s+tensorrt_llm\S+_forward_step\s+no\s+it does not exist", output)
    assert re.search(r"responses\s+tensorrt_llm\S+_handle_responses\s+yes", output)
    assert "TensorRT-LLM 1.3.0: tier T2 would be used (without the hook forward)" in output
    assert "lost: step timing (T1)" in output


def test_doctor_finds_the_installed_package_by_itself_and_imports_nothing_of_it(tree, tmp_path):
    program = (
        "import sys; from costtrace.cli.app import run; "
        "run(['doctor', '--engine', 'tensorrt-llm']); print('imported:', 'tensorrt_llm' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join([str(tree.parent), *sys.path]), "COSTTRACE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "tier T1 would be used" in done.stdout
    assert done.stdout.endswith("imported: False\n")


def test_versions_that_are_no_numbers_are_not_refused():
    assert hook_list.why_outside("") == hook_list.why_outside("unknown") == ""
    assert hook_list.why_outside("0.21.0") == "version 0.21.0 is outside the contract (1.0 to 1.3)"


# -- what the doctor reports of this environment -------------------------------------------------------------------


def finding(monkeypatch, tmp_path, *, loader, env):
    from costtrace.cli.doctor import here

    (tmp_path / "tensorrt_llm").mkdir()
    (tmp_path / "tensorrt_llm" / "__init__.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(str(tmp_path))
    if loader is None:
        monkeypatch.setattr("costtrace.cli.doctor.here.util.find_spec", lambda name: name == "tensorrt_llm" or None)
    elif loader:
        monkeypatch.setitem(sys.modules, "costtrace_tensorrt_llm_autoload", autoload())
    else:
        monkeypatch.delitem(sys.modules, "costtrace_tensorrt_llm_autoload", raising=False)
    return " ".join(f"{finding.level} {finding.message}" for finding in here.tensorrt_llm(env))


def autoload():
    source = Path(contract.__file__).parents[2] / "costtrace_tensorrt_llm_autoload.py"
    module = SimpleNamespace()
    exec(source.read_text().replace("sys.meta_path.insert", "list().insert"), vars(module))
    module.__spec__ = SimpleNamespace(name="costtrace_tensorrt_llm_autoload")
    return module


@pytest.mark.parametrize(
    ("loader", "env", "expected"),
    [
        (None, {}, "fail this environment has TensorRT-LLM but not its costtrace plugin"),
        (False, {}, "fail the plugin for TensorRT-LLM is there, but its .pth file is not read"),
        (True, {}, "warn the plugin for TensorRT-LLM is switched off"),
        (True, {"TRTLLM_COSTTRACE_ENABLED": "1"}, "ok TensorRT-LLM of this environment is recorded"),
        (True, {"TRTLLM_COSTTRACE_ENABLED": "1", "COSTTRACE_ENABLED": "no"}, "warn"),
    ],
)
def test_doctor_reports_whether_a_tensorrt_llm_of_this_environment_is_recorded(
    monkeypatch, tmp_path, loader, env, expected
):
    assert finding(monkeypatch, tmp_path, loader=loader, env=env).startswith(expected)


def test_doctor_is_silent_where_there_is_no_tensorrt_llm():
    from costtrace.cli.doctor import here

    assert list(here.tensorrt_llm({})) == []
