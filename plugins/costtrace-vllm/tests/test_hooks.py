"""How the hooks get into vLLM: late, once, only where they fit, and without harming what they wrap."""

import subprocess
import sys
import textwrap

import pytest
from costtrace_vllm import contract, hooks
from costtrace_vllm.process import process


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "late_one.py").write_text("class Thing:\n    def act(self, what): return what\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "late_one"
    sys.modules.pop("late_one", None)


def test_registering_imports_no_engine_and_starts_no_thread(tmp_path):
    program = """
        import os, sys, threading
        from costtrace_vllm.hooks import register
        register(); register()
        print(sorted(m for m in sys.modules if m.partition(".")[0] in {"vllm", "torch", "starlette", "opentelemetry"}))
        print(threading.active_count(), os.listdir("."))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": ":".join(sys.path), "COSTTRACE_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["[]", "1 []"]
    assert done.stderr == ""


def test_a_bad_setting_is_logged_and_does_not_keep_vllm_from_starting(tmp_path):
    program = "from costtrace_vllm.hooks import register; register(); print('serving')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), "COSTTRACE_WINDOWS": "3", "COSTTRACE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "serving\n"
    assert "COSTTRACE_WINDOWS" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_hook_of_the_contract_has_its_wrapper():
    only_read = {"request", "request.blocks"}
    wrapped = {hook.name for hook in contract.HOOKS if (hook.function or hook.init) and hook.name not in only_read}
    assert hooks.WRAPPERS.keys() == wrapped
    for name in wrapped:
        assert callable(hooks._wrapper(name))


def test_a_hook_that_does_not_fit_is_left_out_and_logged_once(package, caplog):
    module = __import__(package)
    original = module.Thing.act
    hook = contract.Hook("http", package, "Thing", "act", ("something", "else"), "the tenant")
    hooks._install([hook], module)
    hooks._install([hook], module)
    assert module.Thing.act is original
    (line,) = [record.getMessage() for record in caplog.records]
    assert "`http` does not fit" in line
    assert "lost: the tenant" in line
    why = f"{package}.Thing act: its parameters are (what), not (something, else, ...)"
    assert process.status.lost_hooks() == (f"http: {why}; lost: the tenant",)


def test_a_hook_that_needs_a_lost_one_is_left_out_too(package):
    process.status.lost["delivered"] = "gone"
    hook = contract.Hook("abort.sync", package, "Thing", "act", ("what",), "x", needs=("delivered",))
    module = __import__(package)
    original = module.Thing.act
    hooks._install([hook], module)
    assert module.Thing.act is original
