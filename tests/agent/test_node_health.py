"""Lost hooks and swallowed errors of live processes are counted for metrics."""

import json
import os

import pytest

from costtrace.agent.node_health import plugins, unrecorded


def test_lost_hooks_and_errors_of_living_processes_are_counted(tmp_path):
    assert plugins(tmp_path) == (0, 0)
    run = tmp_path / "run"
    run.mkdir()
    for name, pid in (("engine", os.getpid()), ("frontend", os.getpid()), ("gone", 2**22 + 1)):
        status = {"pid": pid, "lost_hooks": {"delivered": "no such method"}, "swallowed_errors": {"vllm.http": 2}}
        (run / f"{name}-{pid}.json").write_text(json.dumps(status))
    assert plugins(tmp_path) == (2, 4)
    (run / "engine-1.json").write_text("{")
    (run / "engine-2.json").write_text('{"pid": 1}')
    assert plugins(tmp_path) == (2, 4)


class Proc:
    """A folder as /proc: the host has been up for 1,000 s."""

    def __init__(self, root):
        self.root = root
        root.mkdir()
        (root / "uptime").write_text("1000.00 900.00\n")

    def add(self, pid, title, parent=1, *, age_s=500, inner="", **environ):
        folder = self.root / str(pid)
        folder.mkdir()
        (folder / "cmdline").write_bytes(title.encode() + b"\0" * 40)
        (folder / "status").write_text(f"Name:\tx\nPPid:\t{parent}\nNSpid:\t{pid}{inner}\n")
        started = round((1000 - age_s) * os.sysconf("SC_CLK_TCK"))
        (folder / "stat").write_text(f"{pid} (a (b) c) S {parent} " + "0 " * 17 + f"{started} 0\n")
        (folder / "environ").write_bytes(b"".join(f"{k}={v}".encode() + b"\0" for k, v in environ.items()))

    def engine(self, title="VLLM::EngineCore", *, age_s=500, inner="", **environ):
        """An API server (pid 10) and its engine (pid 11), which has written its title over its environment."""
        self.add(10, "/usr/bin/python3", **environ)
        self.add(11, title, 10, age_s=age_s, inner=inner)


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path / "proc")


def write_status(home, pid, hooks):
    (home / "run").mkdir(exist_ok=True)
    (home / "run" / f"engine-{pid}.json").write_text(json.dumps({"pid": pid, "hooks": hooks}))


@pytest.mark.parametrize("title", ["VLLM::EngineCore", "VLLM::EngineCore_DP1", "acme::EngineCore"])
@pytest.mark.parametrize("allowed", ["", "other", "costtrace_dynamo", " costtrace"])
def test_an_engine_whose_vllm_plugins_leaves_costtrace_out_is_seen(tmp_path, proc, title, allowed):
    proc.engine(title, VLLM_PLUGINS=allowed)
    ((pid, reason),) = unrecorded(tmp_path, proc.root)
    assert (pid, reason) == (11, f"VLLM_PLUGINS={allowed!r} leaves out costtrace")


def test_an_engine_of_this_home_without_the_plugin_is_seen(tmp_path, proc):
    proc.engine(COSTTRACE_HOME=str(tmp_path))
    ((pid, reason),) = unrecorded(tmp_path, proc.root)
    assert (pid, "COSTTRACE_HOME" in reason) == (11, True)


@pytest.mark.parametrize(
    ("how", "environ"),
    [
        ({}, {"COSTTRACE_HOME": "/another"}),
        ({}, {}),
        ({}, {"VLLM_PLUGINS": "costtrace,other"}),
        ({}, {"VLLM_PLUGINS": "other", "COSTTRACE_ENABLED": "0"}),
        ({"age_s": 5}, {"VLLM_PLUGINS": "other"}),
        ({"title": "python -m VLLM::EngineCore"}, {"VLLM_PLUGINS": "other"}),
    ],
)
def test_an_engine_that_may_be_in_order_is_not_claimed(tmp_path, proc, how, environ):
    proc.engine(**how, **environ)
    assert unrecorded(tmp_path, proc.root) == []


def test_an_engine_that_has_said_that_it_is_recorded_is_known_in_a_container_too(tmp_path, proc):
    proc.engine(inner="\t7", COSTTRACE_HOME=str(tmp_path))
    assert len(unrecorded(tmp_path, proc.root)) == 1
    write_status(tmp_path, 7, ["vllm.step"])
    assert unrecorded(tmp_path, proc.root) == []


def test_an_engine_with_only_the_plugin_of_dynamo_is_not_recorded(tmp_path, proc):
    proc.engine(VLLM_PLUGINS="costtrace_dynamo")
    write_status(tmp_path, 11, ["dynamo.handler"])
    assert len(unrecorded(tmp_path, proc.root)) == 1


def test_what_cannot_be_read_is_left_out(tmp_path, proc):
    proc.engine(VLLM_PLUGINS="other")
    (proc.root / "11" / "stat").unlink()
    (proc.root / "12").mkdir()
    assert unrecorded(tmp_path, proc.root) == []
    assert unrecorded(tmp_path, tmp_path / "nowhere") == []
