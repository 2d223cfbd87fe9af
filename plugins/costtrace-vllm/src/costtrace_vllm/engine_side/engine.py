"""Hooks on the engine core: what the engine is, when it starts and ends, and the journal that is written beside it."""

import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

from costtrace.capture.engine_journal import EngineJournal
from costtrace.capture.prefix_numbers import PrefixNumbers
from costtrace.core import clock
from costtrace.core.events import DeviceRef, EngineReady, EngineStarted, ModelShape
from costtrace.core.guard import guard, swallow
from costtrace_vllm.engine_side import describe
from costtrace_vllm.engine_side.scheduler_hooks import record_scheduler
from costtrace_vllm.engine_side.sequences import OVERHEAD
from costtrace_vllm.engine_side.translate import Translator
from costtrace_vllm.process import process


class Startup:
    """What is known of an engine before its scheduler exists."""

    def __init__(self, started_ns: int = 0) -> None:
        self.started_ns = started_ns
        """Monotonic; 0: not seen."""
        self.devices: tuple[DeviceRef, ...] = ()
        self.shape: ModelShape | None = None


class _Starting(threading.local):
    """The engine that is being built on this thread, if there is one."""

    engine: Startup | None = None


_starting = _Starting()
_registered = (0, 0)
"""Process in which the plugin was loaded, and when (monotonic ns)."""


def set_registered(pid: int, at_ns: int) -> None:
    """Remember when the plugin was loaded in this process: an engine in a process of its own starts then."""
    global _registered  # noqa: PLW0603 - a fact of the process
    _registered = (pid, at_ns)


def _process_started_ns() -> int:
    pid, at_ns = _registered
    return at_ns if pid == os.getpid() else clock.process_start_ns()


# -- Hooks on EngineCore


def wrap_start(original: Callable[..., Any]) -> Callable[..., Any]:
    """`EngineCore.__init__`: note when it starts. Where vLLM loads the plugin from inside it, this comes too late."""

    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name
        with guard("vllm.start"):
            _starting.engine = Startup(time.monotonic_ns())
        try:
            original(self, *args, **kwargs)
        finally:
            _starting.engine = None

    return __init__


def wrap_devices(original: Callable[..., Any]) -> Callable[..., Any]:
    """`EngineCore._initialize_kv_caches`: the workers are up once it returns; ask each for its device."""

    @wraps(original)
    def _initialize_kv_caches(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, vllm_config, *args, **kwargs)
        with guard("vllm.devices"):
            workers = self.model_executor.collective_rpc(describe.worker_device)
            startup = _starting.engine or Startup()
            startup.devices = describe.devices_of(workers)
            for worker in workers:
                if worker["error"]:
                    process.status.report_lost(
                        f"device of rank {worker['rank']}", worker["error"], "its time, energy or shape"
                    )
            startup.shape = describe.model_shape(vllm_config, sum(worker["weight_bytes"] for worker in workers))
            _starting.engine = startup
        return result

    return _initialize_kv_caches


def wrap_shutdown(original: Callable[..., Any]) -> Callable[..., Any]:
    """`EngineCore.shutdown`: close the journal."""

    @wraps(original)
    def shutdown(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:
            with guard("vllm.shutdown"):
                engine = getattr(getattr(self, "scheduler", None), "_costtrace", None)
                if engine is not None:
                    engine.stop()

    return shutdown


def wrap_dummy_batch(original: Callable[..., Any]) -> Callable[..., Any]:
    """`EngineCore.execute_dummy_batch`: device time that serves no request (another data-parallel rank is busy)."""

    @wraps(original)
    def execute_dummy_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        from_ns = time.monotonic_ns()
        try:
            return original(self, *args, **kwargs)
        finally:
            try:
                engine = getattr(self.scheduler, "_costtrace", None)
                if engine is not None:
                    engine.recorder.note(OVERHEAD, from_ns, time.monotonic_ns(), "dummy batch")
            except Exception as error:  # noqa: BLE001 - the engine goes on
                swallow("vllm.dummy_batch", error)

    return execute_dummy_batch


# -- Hook on the scheduler

_recorded: dict[type, type] = {}
"""Class of scheduler -> its recorded subclass."""


def wrap_scheduler_class(original: Callable[..., Any]) -> Callable[..., Any]:
    """`SchedulerConfig.get_scheduler_cls`: a subclass of the class that vLLM or its user chose."""

    @wraps(original)
    def get_scheduler_cls(self: Any, *args: Any, **kwargs: Any) -> Any:
        chosen = original(self, *args, **kwargs)
        try:
            return recorded_class(chosen)
        except Exception as error:  # noqa: BLE001 - then this engine is not recorded
            swallow("vllm.scheduler_class", error)
            return chosen

    return get_scheduler_cls


def recorded_class(chosen: type) -> type:
    """Subclass of *chosen* whose instances are recorded; the same one each time."""
    if chosen in _recorded.values():
        return chosen
    if chosen not in _recorded:

        class Recorded(chosen):  # type: ignore[misc] # a class that is known only now
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                with guard("vllm.scheduler"):
                    _attach(self, kwargs.get("vllm_config") or (args[0] if args else self.vllm_config))

        # vLLM logs the class by name, and users know it by that of its base.
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(Recorded, name, getattr(chosen, name))
        _recorded[chosen] = Recorded
    return _recorded[chosen]


def _attach(scheduler: Any, vllm_config: Any) -> None:
    startup, _starting.engine = _starting.engine or Startup(), None
    engine = RecordedEngine(vllm_config, startup)
    block_tokens = describe.prefix_block_of(scheduler) if process.settings.prefix_sharing == "tree" else 0
    record_scheduler(scheduler, engine.recorder, prefixes=block_tokens > 0)
    engine_settings = describe.settings_of(vllm_config)
    engine_settings["scheduler"] = type(scheduler).__qualname__
    if block_tokens:
        engine_settings["prefix_paths"] = "recorded"
    engine.start(engine_settings, block_tokens)
    scheduler._costtrace = engine  # noqa: SLF001 - ours
    weakref.finalize(scheduler, engine.stop, "collected")


# -- The engine's journal


class RecordedEngine:
    """One engine of this process: its recorder, and the writer thread with its journal."""

    def __init__(self, vllm_config: Any, startup: Startup) -> None:
        self.journal = EngineJournal("vllm", "engine", process.settings, process.status)
        self.recorder, self.engine_id = self.journal.recorder, self.journal.engine_id
        self._model = describe.served_model(vllm_config)
        self._started_ns = startup.started_ns or _process_started_ns()
        self._devices = startup.devices
        self._shape = startup.shape or describe.model_shape(vllm_config, 0)
        self._role = describe.role_of(vllm_config)
        self._dp_rank = describe.dp_rank_of(vllm_config)
        simulated = process.settings.simulated_device
        self._simulated = bool(simulated)
        if simulated:
            self._devices = describe.simulated_device(simulated)

    def start(self, engine_settings: dict[str, str], prefix_block: int = 0) -> None:
        """Open the journal and start the writer thread.

        The engine counts as ready from here on: vLLM makes its scheduler after it has loaded weights, captured graphs
        and warmed up. What follows until the first request is milliseconds of set-up.
        *prefix_block*: tokens of a block of the prefix cache if shared prefixes are to be recorded, else 0.
        """
        started = EngineStarted(
            started_ns=self._started_ns,
            engine="vllm",
            engine_version=process.status.engine_version(),
            model=self._model,
            devices=self._devices,
            role=self._role,
            dp_rank=self._dp_rank,
            shape=self._shape,
            settings=engine_settings,
            lost_hooks=process.status.lost_hooks(),
            simulated=self._simulated,
        )
        ready = EngineReady(time.monotonic_ns())
        prefixes = PrefixNumbers(prefix_block) if prefix_block else None
        translator = Translator(self._model, clock.boot_id(), prefixes, process.settings.tenant_default)
        self.journal.open([started, ready], translator, self._status)

    def stop(self, reason: str = "shutdown") -> None:
        """Write what is left, then `EngineStopped`. Safe to call twice; does nothing in a forked child."""
        self.journal.close(reason)

    def _status(self) -> dict[str, Any]:
        """For the status file of this process."""
        return {"model": self._model, "devices": [device.uuid for device in self._devices]}
