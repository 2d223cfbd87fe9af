"""The double of TensorRT-LLM with the plugin's hooks on it, on the machine's clock, writing real journals."""

import time
from types import SimpleNamespace

from costtrace_tensorrt_llm import hooks
from costtrace_tensorrt_llm.contract.hook_list import HOOKS
from costtrace_tensorrt_llm.process import process

from costtrace.core.events import EngineStarted
from costtrace.journal.reader import JournalReader
from double.columns import executor_class
from double.cuda import Host
from double.executor import Plan
from double.timing import BatchState


class RealClock(Host):
    """The host's clock is the machine's, which the hooks read."""

    def __init__(self):
        self._behind_ns = 0

    @property
    def now_ns(self):
        return time.monotonic_ns()

    @now_ns.setter
    def now_ns(self, value):
        while time.monotonic_ns() < value:
            time.sleep(0.0005)


def install(cls):
    """Install the hooks on *cls*, an executor's class."""
    module = SimpleNamespace(PyExecutor=cls, BatchState=BatchState)
    hooks.install([hook for hook in HOOKS if hook.module.endswith("py_executor")], module)


def hooked(column="main"):
    """The double's class with the signatures of *column*, with the hooks on it."""
    cls = executor_class(column)
    install(cls)
    process.status.installed.append("request")
    return cls


def plans(count=4, output=6):
    return [Plan(time.monotonic_ns(), 40, output) for _ in range(count)]


def journals(home):
    return [JournalReader(path).read().events for path in sorted((home / "journal").iterdir())]


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def metering(events):
    (started,) = of(events, EngineStarted)
    return started.settings["metering"]
