"""A new process for every test, as far as the plugin can tell."""

import sys
from types import SimpleNamespace

import pytest
from costtrace_tensorrt_llm.process import TensorRtLlmProcess, process
from double.cuda import FakeGpu
from double.hooked import RealClock


@pytest.fixture(autouse=True)
def _new_process(monkeypatch, tmp_path):
    """No hook installed, no executor so far, and settings that are read from a clean environment."""
    for name in ("COSTTRACE_HOME", "COSTTRACE_AGENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRTLLM_COSTTRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRTLLM_COSTTRACE_AGENT", "off")
    renew()
    yield
    renew()


def renew():
    vars(process).clear()
    vars(process).update(vars(TensorRtLlmProcess()))


@pytest.fixture
def tier(monkeypatch):
    """Ask for a tier."""

    def ask(name):
        monkeypatch.setenv("TRTLLM_COSTTRACE_TRTLLM_TIER", name)

    return ask


@pytest.fixture
def cuda(monkeypatch):
    """As much of torch as is asked on a rank, over a fake GPU that keeps real time."""
    gpu = FakeGpu(RealClock())
    fake = SimpleNamespace(
        Event=lambda enable_timing: gpu.event(),
        current_device=lambda: 0,
        device_count=lambda: 2,
        get_device_properties=lambda index: SimpleNamespace(name="Fake GPU", uuid=f"f{index}"),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=fake))
    return gpu
