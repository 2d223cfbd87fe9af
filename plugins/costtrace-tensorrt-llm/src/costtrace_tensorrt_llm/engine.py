"""One executor's journal: opened when its loop starts, closed when it is shut down.

A process may have several executors one after the other: upstream makes a first one to find out how much memory is
left for the KV cache. Each has a journal of its own; the next one's start-up begins where the last one ended.
"""

import atexit
import os
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from costtrace import clock
from costtrace.agent.spawn import AgentKeeper
from costtrace.events import EngineReady, EngineStarted
from costtrace.guard import guard, log
from costtrace.journal.pump import Pump
from costtrace.journal.writer import JournalWriter, new_engine_id
from costtrace.recorder import Recorder
from costtrace_tensorrt_llm import contract, describe, settings, status
from costtrace_tensorrt_llm.contexts import contexts
from costtrace_tensorrt_llm.gputime import EventPool
from costtrace_tensorrt_llm.metering import StepMeter
from costtrace_tensorrt_llm.stats import StatsMeter
from costtrace_tensorrt_llm.translate import Translator

_last_end = (0, 0)
"""Process, and when its last executor ended (monotonic ns)."""


def _make_event() -> Any:
    return import_module("torch").cuda.Event(enable_timing=True)


class Engine:
    """What is recorded of one executor."""

    def __init__(self, executor: Any, tier: str, why: str) -> None:
        self.tier = tier
        self.place = describe.place_of(executor)
        self.recorder = Recorder(settings.current().ring_capacity)
        self.engine_id = new_engine_id("tensorrt-llm")
        self.steps: StepMeter | None = None
        self.stats: StatsMeter | None = None
        if tier == "T1":
            samples = self.place.stage == self.place.stages - 1
            self.steps = StepMeter(self.recorder, EventPool(_make_event), contexts, samples=samples)
        elif tier == "T2":
            self.stats = StatsMeter(self.recorder, contexts)
        if why:
            log.warning("costtrace: tier %s instead of T1 (%s). Serving goes on.", tier, why)
            status.lost.setdefault("tier", f"{why}; lost: T1, steps timed on the GPU; {tier} is used")
        self._home = settings.current().home
        self._keeper = AgentKeeper(self._home)
        self._pid = os.getpid()
        self._pump: Pump | None = None
        self._devices: tuple[str, ...] = ()

    def start(self, executor: Any) -> None:
        """Open the journal and start the writer thread. Raises: JournalError, and what a broken driver raises."""
        now_ns = time.monotonic_ns()
        pid, ended_ns = _last_end
        model, _ = describe.model_of(executor)
        devices = describe.devices_of(executor, self.place)
        self._devices = tuple(device.uuid for device in devices)
        started = EngineStarted(
            started_ns=ended_ns if pid == os.getpid() else describe.process_start_ns(),
            engine="tensorrt-llm",
            engine_version=status.engine_version(),
            model=model,
            devices=devices,
            dp_rank=self.place.rank if self.place.attention_dp else 0,
            shape=describe.shape_of(executor, self.place.peers),
            settings=describe.settings_of(executor, self.place, self.tier),
            lost_hooks=status.lost_hooks(),
        )
        current = settings.current()
        self._pump = Pump(
            self.recorder,
            Translator(
                model,
                clock.boot_id(),
                stage=self.place.stage,
                scatter=self.place.stages > 1,
                rank=self.place.rank,
            ),
            lambda snapshot: JournalWriter(
                self._home, self.engine_id, snapshot, cap_bytes=int(current.journal_cap_bytes), version=_own_version()
            ),
            first=[started, EngineReady(now_ns)],
            chores=self._chores,
        )
        self._pump.start()
        atexit.register(self.stop)

    def fall_back(self) -> str:
        """Use the executor's statistics from here on, where they can be had; the tier that is left."""
        if self.steps is not None:
            self.steps.finish()
        self.steps = None
        self.tier = "T2" if "stats" in status.installed else "none"
        if self.tier == "T2":
            self.stats = StatsMeter(self.recorder, contexts)
        return self.tier

    def stop(self, reason: str = "shutdown") -> None:
        """Write what is left and the last word. Safe to call twice; does nothing in a forked child."""
        global _last_end  # noqa: PLW0603 - a fact of the process
        atexit.unregister(self.stop)
        pump, self._pump = self._pump, None
        if pump is None or os.getpid() != self._pid:
            return
        with guard("trtllm.stop"):
            if self.steps is not None:
                self.steps.finish()
            pump.stop(reason)
            _last_end = (os.getpid(), time.monotonic_ns())
            status.remove(self._home, "rank")

    def _chores(self) -> None:
        """Every two seconds, on the writer thread."""
        if settings.current().agent == "spawn":
            self._keeper.ensure_running()
        status.write(
            self._home,
            "rank",
            engine_id=self.engine_id,
            tier=self.tier,
            place=self.place._asdict(),
            devices=list(self._devices),
        )


def attach(executor: Any) -> Engine | None:
    """Begin to record *executor*; None where another rank does it, or nothing can be recorded."""
    place = describe.place_of(executor)
    if not place.meters:
        return None
    tier, why = contract.tier_of(status.installed, status.engine_version())
    if tier == "none":
        log.warning("costtrace: nothing is recorded of this engine (%s). Serving goes on.", why)
        return None
    engine = Engine(executor, tier, why)
    engine.start(executor)
    return engine


def _own_version() -> str:
    try:
        return version("costtrace-core")
    except PackageNotFoundError:
        return ""
