"""Hooks of the engine core: what the engine is, when it begins and ends, and the journal that is written beside it."""

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
from costtrace_vllm.engine_side.scheduler_hooks import trace_scheduler
from costtrace_vllm.engine_side.sequences import OVERHEAD
from costtrace_vllm.engine_side.translate import Translator
from costtrace_vllm.process import process


class Birth:
    """What is known of an engine before its scheduler exists."""

    def __init__(self) -> None:
        self.started_ns = 0
        self.devices: tuple[DeviceRef, ...] = ()
        self.shape: ModelShape | None = None


class _Coming(threading.local):
    """The engine that is being built on this thread."""

    birth: Birth | None = None


_coming = _Coming()
_registered = (0, 0)


def set_registered(pid: int, at_ns: int) -> None:
    """Remember when the plugin was loaded in this process: an engine in a process of its own begins then."""
    global _registered  # noqa: PLW0603 - a fact of the process
    _registered = (pid, at_ns)


def _begun_ns() -> int:
    pid, at_ns = _registered
    return at_ns if pid == os.getpid() else clock.process_start_ns()


# -- Hooks of EngineCore


def wrap_start(original: Callable[..., Any]) -> Callable[..., Any]:
    """`EngineCore.__init__`: note when it begins. Where the plugin is loaded from inside it, this comes too late."""

    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name
        with guard("vllm.start"):
            _coming.birth = Birth()
            _coming.birth.started_ns = time.monotonic_ns()
        try:
            original(self, *args, **kwargs)
        finally:
            _coming.birth = None

    return __init__


def wrap_devices(original: Callable[..., Any]) -> Callable[..., Any]:
    """`EngineCore._initialize_kv_caches`: afterwards the workers are up; ask each for its device."""

    @wraps(original)
    def _initialize_kv_caches(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, vllm_config, *args, **kwargs)
        with guard("vllm.devices"):
            workers = self.model_executor.collective_rpc(describe.worker_device)
            birth = _coming.birth or Birth()
            birth.devices = describe.devices_of(workers)
            for found in workers:
                if found["error"]:
                    process.status.say_lost(
                        f"device of rank {found['rank']}", found["error"], "its time, energy or shape"
                    )
            birth.shape = describe.model_shape(vllm_config, sum(found["weight_bytes"] for found in workers))
            _coming.birth = birth
        return result

    return _initialize_kv_caches


def wrap_shutdown(original: Callable[..., Any]) -> Callable[..., Any]:
    """`EngineCore.shutdown`: the journal gets its last word."""

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
    """`EngineCore.execute_dummy_batch`: device time that serves nobody (a data-parallel peer is busy)."""

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


# -- Hook of the scheduler

_traced: dict[type, type] = {}


def wrap_scheduler_class(original: Callable[..., Any]) -> Callable[..., Any]:
    """`SchedulerConfig.get_scheduler_cls`: a subclass of whatever class vLLM (or its user) chose."""

    @wraps(original)
    def get_scheduler_cls(self: Any, *args: Any, **kwargs: Any) -> Any:
        chosen = original(self, *args, **kwargs)
        try:
            return traced(chosen)
        except Exception as error:  # noqa: BLE001 - then this engine is not recorded
            swallow("vllm.scheduler_class", error)
            return chosen

    return get_scheduler_cls


def traced(chosen: type) -> type:
    """Subclass of *chosen* whose instances are recorded; the same one each time."""
    if chosen in _traced.values():
        return chosen
    if chosen not in _traced:

        class Traced(chosen):  # type: ignore[misc] # a class that is known only now
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                with guard("vllm.scheduler"):
                    _attach(self, kwargs.get("vllm_config") or (args[0] if args else self.vllm_config))

        # It goes by the name of its base: only that it is recorded differs.
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(Traced, name, getattr(chosen, name))
        _traced[chosen] = Traced
    return _traced[chosen]


def _attach(scheduler: Any, vllm_config: Any) -> None:
    birth, _coming.birth = _coming.birth or Birth(), None
    engine = Engine(vllm_config, birth)
    size = describe.prefix_block_of(scheduler) if process.settings.prefix_sharing == "tree" else 0
    trace_scheduler(scheduler, engine.recorder, prefixes=size > 0)
    settings_found = describe.settings_of(vllm_config)
    settings_found["scheduler"] = type(scheduler).__qualname__
    if size:
        settings_found["prefix_paths"] = "recorded"
    engine.start(settings_found, size)
    scheduler._costtrace = engine  # noqa: SLF001 - ours
    weakref.finalize(scheduler, engine.stop, "collected")


# -- The engine's journal


class Engine:
    """One engine of this process: its recorder, and the writer thread with its journal."""

    def __init__(self, vllm_config: Any, birth: Birth) -> None:
        self.journal = EngineJournal("vllm", "engine", process.settings, process.status)
        self.recorder, self.engine_id = self.journal.recorder, self.journal.engine_id
        self._model = describe.served_model(vllm_config)
        self._started_ns = birth.started_ns or _begun_ns()
        self._devices = birth.devices
        self._shape = birth.shape or describe.model_shape(vllm_config, 0)
        self._role = describe.role_of(vllm_config)
        self._dp_rank = describe.dp_rank_of(vllm_config)
        simulated = process.settings.simulated_device
        self._simulated = bool(simulated)
        if simulated:
            self._devices = describe.simulated_device(simulated)

    def start(self, engine_settings: dict[str, str], prefix_block: int = 0) -> None:
        """Open the journal and start the writer thread.

        The engine counts as ready from here on: weights are loaded, graphs captured and warm-up is over (all of it
        happens before vLLM makes its scheduler); what follows until the first request is milliseconds of set-up.
        *prefix_block*: tokens of a block of the prefix cache, if who finds which is to be recorded; else 0.
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
        self.journal.open([started, ready], Translator(self._model, clock.boot_id(), prefixes), self._told)

    def stop(self, reason: str = "shutdown") -> None:
        """Write what is left and the last word. Safe to call twice; does nothing in a forked child."""
        self.journal.close(reason)

    def _told(self) -> dict[str, Any]:
        return {"model": self._model, "devices": [device.uuid for device in self._devices]}
