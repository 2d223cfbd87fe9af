"""Installing the hooks on live objects: those that fit, and only those."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from costtrace_tensorrt_llm import hooks
from costtrace_tensorrt_llm.contract.check import tier_of
from costtrace_tensorrt_llm.contract.hook_list import HOOKS
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.rank_side import executor
from double.columns import executor_class
from double.hooked import install


def test_every_hook_has_its_wrapper_and_names_what_is_lost_without_it():
    assert hooks.wrappers().keys() == {hook.name for hook in HOOKS if hook.function}
    assert all(hook.lost for hook in HOOKS)


def test_registering_imports_nothing_heavy():
    code = """
import sys
from costtrace_tensorrt_llm.hooks import register
register()
heavy = "pydantic", "msgspec", "asyncio", "costtrace.config", "costtrace.capture.tenancy", "costtrace.capture.process"
print(sorted({*heavy} & {*sys.modules}))
"""
    env = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("name", ["forward", "sample", "responses", "iteration", "stats"])
def test_a_hook_of_every_iteration_calls_the_original_itself_and_has_no_guard(name, monkeypatch):
    monkeypatch.setattr(executor, "guard", None)
    callers = []

    def original(*_):
        callers.append(sys._getframe(2))

    hooks.wrappers()[name](original)(SimpleNamespace(**{executor.MARK: None}), None, None, None)
    assert callers == [sys._getframe()]


def test_a_renamed_method_is_left_out_and_logged_once_and_the_tier_falls_back(caplog):
    cls = executor_class("main")
    cls._forward_one, original = cls._forward_step, cls._sample_async
    del cls._forward_step
    install(cls)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "`forward` does not fit" in line
    assert "_forward_step: it does not exist" in line
    assert "lost: step timing (T1)" in line
    assert cls._sample_async is not original
    assert tier_of([*process.status.installed, "request"], "1.3.0") == ("T2", "without the hook forward")


def test_a_changed_signature_is_left_alone(caplog):
    cls = executor_class("main")

    def _sample_async(self, batch):
        return batch

    cls._sample_async = _sample_async
    install(cls)
    assert cls._sample_async is _sample_async
    assert "its parameters are (batch)" in caplog.text


def test_a_decorator_that_hides_the_signature_is_no_reason_to_fall_back():
    cls = executor_class("main")
    inner = cls._forward_step

    def hidden(*args, **kwargs):
        return inner(*args, **kwargs)

    cls._forward_step = hidden
    install(cls)
    assert process.status.lost == {}


def test_a_module_without_the_class_is_logged_for_each_of_its_hooks(caplog):
    hooks.install([hook for hook in HOOKS if hook.module.endswith("py_executor")], SimpleNamespace())
    expected = [hook for hook in HOOKS if hook.owner == "PyExecutor" and not hook.optional]
    assert caplog.text.count("the class does not exist") == len(process.status.lost) == len(expected) == 6
    assert process.status.installed == []
