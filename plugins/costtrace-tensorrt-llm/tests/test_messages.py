"""The messages of log and doctor, to the letter, where a TensorRT-LLM does not fit the contract. Serving goes on."""

import sys
from types import SimpleNamespace

import pytest
from costtrace_tensorrt_llm import hooks
from costtrace_tensorrt_llm.contract.hook_list import HOOKS
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.rank_side import executor
from double.columns import executor_class
from double.cuda import FakeGpu, Host
from double.executor import Plan
from double.loops import run
from double.timing import BatchState
from source_tree import EXECUTOR, edit, tree_of

from costtrace.cli.doctor import hooks as doctor

PLACE = "tensorrt_llm._torch.pyexecutor.py_executor.PyExecutor"
LOST = "lost: step timing (T1): the next tier that fits is used, or nothing is billed"
SEE = "`costtrace doctor --engine tensorrt-llm` shows all of them."


def renamed(cls):
    def served_by_another_name(self, scheduled, *_):
        return self.forward(scheduled)

    del cls._forward_step
    cls._forward_one = served_by_another_name


def changed(cls):
    def _sample_async(self, batch, outputs):
        return self.sample(batch, outputs)

    cls._sample_async = _sample_async


FAULTS = {
    "a renamed method": {
        "live": renamed,
        "source": (EXECUTOR, "def _forward_step(", "def _forward_one("),
        "log": [
            (
                f"costtrace: the hook `forward` does not fit this TensorRT-LLM ({PLACE} _forward_step: "
                f"it does not exist). Serving goes on; {LOST}. {SEE}"
            ),
            "costtrace: tier T2 is used (without the hook forward). Serving goes on.",
        ],
        "doctor": [
            "TensorRT-LLM 1.3.0: tier T2 would be used (without the hook forward)",
            f"forward ({PLACE.removesuffix('.PyExecutor')}) does not fit: it does not exist; {LOST}",
        ],
    },
    "a changed signature": {
        "live": changed,
        "source": (EXECUTOR, "_sample_async(self, scheduled_batch=None,", "_sample_async(self, batch=None,"),
        "log": [
            (
                f"costtrace: the hook `sample` does not fit this TensorRT-LLM ({PLACE} _sample_async: "
                f"its parameters are (batch, outputs), not (scheduled_batch, batch_outputs, ...)). "
                f"Serving goes on; {LOST}. {SEE}"
            ),
            "costtrace: tier T1-native is used (without the hook sample). Serving goes on.",
        ],
        "doctor": [
            "TensorRT-LLM 1.3.0: tier T1-native would be used (without the hook sample)",
            (
                f"sample ({PLACE.removesuffix('.PyExecutor')}) does not fit: its parameters are "
                f"(batch, batch_outputs), not (scheduled_batch, batch_outputs, ...); {LOST}"
            ),
        ],
    },
    "a missing attribute": {
        "live": lambda cls: setattr(cls, "strips", True),
        "source": ("_torch.pyexecutor.llm_request", "py_client_id: int", "client: int"),
        "log": [
            "costtrace: the hook `batch` does not fit this TensorRT-LLM ('LlmRequest' object has no attribute "
            "'py_draft_tokens'). Serving goes on; lost: T1; T2 is used from here on. " + SEE,
        ],
        "doctor": [
            "TensorRT-LLM 1.3.0: tier T2 would be used (without the hook request)",
            f"request (tensorrt_llm._torch.pyexecutor.llm_request) does not fit: without py_client_id; {LOST}",
        ],
    },
    "a version outside of the contract": {
        "version": "1.5.0",
        "log": [
            "costtrace: tier T2 is used (version 1.5.0 is outside the contract (1.0 to 1.3)). Serving goes on.",
        ],
        "doctor": [
            "TensorRT-LLM 1.5.0: tier T2 would be used (version 1.5.0 is outside the contract (1.0 to 1.3))",
            (
                f"forward ({PLACE.removesuffix('.PyExecutor')}) does not fit: version 1.5.0 is outside the contract "
                f"(1.0 to 1.3); {LOST}"
            ),
        ],
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_log_has_exactly_these_lines_and_every_request_is_served(monkeypatch, caplog, fault):
    expected = FAULTS[fault]
    if "version" in expected:
        module = SimpleNamespace(__version__=expected["version"])
        monkeypatch.setitem(sys.modules, "tensorrt_llm.version", module)
    cls = executor_class("main")
    expected.get("live", lambda cls: None)(cls)
    hooks.install(
        [hook for hook in HOOKS if hook.module.endswith("py_executor")],
        SimpleNamespace(PyExecutor=cls, BatchState=BatchState),
    )
    process.status.installed.append("request")
    if hasattr(cls, "_forward_one"):
        cls._forward_step = cls._forward_one  # the loop calls it by its new name
    gpu = FakeGpu(Host())
    cuda = SimpleNamespace(
        Event=lambda enable_timing: gpu.event(),
        current_device=lambda: 0,
        device_count=lambda: 1,
        get_device_properties=lambda index: SimpleNamespace(name="Fake GPU", uuid="f0"),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    served = cls(gpu, [Plan(1_000_000_000, 20, 3) for _ in range(2)], stats=True)
    if hasattr(cls, "strips"):
        strip_drafts(served)
    served.start_worker()
    run(served)
    assert sorted(served.responses) == [request.py_request_id for request in served.seen]
    recorded = executor.recorder_of(served)
    served.shutdown()
    assert recorded is not None
    assert [record.getMessage() for record in caplog.records] == expected["log"]


def strip_drafts(served):
    """Its requests are without an attribute that T1 reads, and the loop can do without."""
    schedule = served.schedule

    def without(among):
        batch = schedule(among)
        for request in batch.all_requests():
            request.__dict__.pop("py_draft_tokens", None)
        return batch

    served.schedule = without
    served.update = update_without(served.update)


def update_without(update):
    def updated(state):
        for request in getattr(state, "members", ()):
            request.__dict__.setdefault("py_draft_tokens", None)
        update(state)

    return updated


@pytest.mark.parametrize("fault", FAULTS)
def test_the_doctor_reports_exactly_these_findings(tmp_path, fault):
    expected = FAULTS[fault]
    package = tree_of(tmp_path, "main", version=expected.get("version", "1.3.0"))
    if "source" in expected:
        edit(package, *expected["source"])
    messages = [finding.message for finding in doctor.check("tensorrt-llm", package)]
    summary, counted, first, *others = messages
    assert [summary, first] == expected["doctor"]
    assert counted.endswith(f"hooks fit {package}")
    assert bool(others) == ("version" in expected), "only a version concerns more than one hook"
