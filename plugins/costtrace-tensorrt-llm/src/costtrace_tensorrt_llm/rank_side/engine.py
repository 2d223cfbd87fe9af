"""One executor's journal: opened when its loop starts, closed when it is shut down.

A process may have several executors one after the other: upstream makes a first one to find out how much memory is
left for the KV cache. Each has a journal of its own; the next one's start-up begins where the last one ended.
"""

import os
import threading
import time
from importlib import import_module
from typing import Any

from costtrace.capture.engine_journal import EngineJournal
from costtrace.core import clock
from costtrace.core.events import EngineReady, EngineStarted
from costtrace.core.guard import guard, log
from costtrace_tensorrt_llm.contract.check import tier_of
from costtrace_tensorrt_llm.contract.hooks_by_version import TIERS
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.rank_side import batches, describe
from costtrace_tensorrt_llm.rank_side.gputime import EventPool
from costtrace_tensorrt_llm.rank_side.metering import StepMeter
from costtrace_tensorrt_llm.rank_side.native import UNTOLD, Untold, UpstreamMeter
from costtrace_tensorrt_llm.rank_side.stats import StatsMeter
from costtrace_tensorrt_llm.rank_side.translate import Translator
from costtrace_tensorrt_llm.server_side.contexts import contexts

_last_end = (0, 0)
"""Process, and when its last executor ended (monotonic ns)."""
OTHER = "another tier goes on"


def _make_event() -> Any:
    return import_module("torch").cuda.Event(enable_timing=True)


class Engine:
    """What is recorded of one executor."""

    def __init__(self, executor: Any, tier: str, why: str) -> None:
        self.tier = tier
        self.place = describe.place_of(executor)
        self.journal = EngineJournal("tensorrt-llm", "rank", process.settings, process.status)
        self.recorder = self.journal.recorder
        self.steps: StepMeter | UpstreamMeter | None = None
        self.stats: StatsMeter | None = None
        if tier == "T1":
            samples = self.place.stage == self.place.stages - 1
            self.steps = StepMeter(self.recorder, EventPool(_make_event), contexts, samples=samples)
        elif tier == "T1-native":
            self.steps = UpstreamMeter(self.recorder, contexts)
        elif tier == "T2":
            self.stats = StatsMeter(self.recorder, contexts)
        if why:
            log.warning("costtrace: tier %s is used (%s). Serving goes on.", tier, why)
            process.status.lost.setdefault("tier", f"{why}; {tier} is used")
        self._starting: threading.Thread | None = None
        self._devices: tuple[str, ...] = ()

    def start(self, executor: Any) -> None:
        """Open the journal and start the writer thread. Raises: JournalError, and what a broken driver raises."""
        now_ns = time.monotonic_ns()
        pid, ended_ns = _last_end
        model, _ = describe.model_of(executor)
        devices = describe.devices_of(executor, self.place)
        self._devices = tuple(device.uuid for device in devices)
        started = EngineStarted(
            started_ns=ended_ns if pid == os.getpid() else clock.process_start_ns(),
            engine="tensorrt-llm",
            engine_version=process.status.engine_version(),
            model=model,
            devices=devices,
            dp_rank=self.place.rank if self.place.attention_dp else 0,
            shape=describe.shape_of(executor, self.place.peers),
            settings=describe.settings_of(executor, self.place, self.tier),
            lost_hooks=process.status.lost_hooks(),
        )
        translator = Translator(
            model, clock.boot_id(), stage=self.place.stage, scatter=self.place.stages > 1, rank=self.place.rank
        )
        self.journal.open([started, EngineReady(now_ns)], translator, self._told, self._last_steps)

    def fall_back(self, executor: Any, error: Exception) -> "Engine | None":
        """The engine that goes on where this one cannot, with a journal of its own; None where there is none.

        For the executor's thread: files are closed and opened beside it.
        """
        untold = isinstance(error, Untold)
        tier = "T1" if untold and set(TIERS["T1"]) <= set(process.status.installed) else "T2"
        if not set(TIERS[tier]) <= set(process.status.installed):
            tier = "none"
        why = f"upstream did not time its last {UNTOLD} batches" if untold else str(error)
        process.status.say_lost("batch", why, f"{self.tier}; {tier} is used from here on")
        if self.steps is not None:
            self.steps.hand_over()
        if tier == "none":
            threading.Thread(target=self.stop, args=(OTHER,), name="costtrace-tier").start()
            return None
        successor = Engine(executor, tier, "")
        successor.follow(self, executor)
        return successor

    def follow(self, other: "Engine", executor: Any) -> None:
        """Start once *other* has written its last word, on a thread beside the executor's."""

        def change() -> None:
            other.stop(OTHER)
            with guard("trtllm.fall_back"):
                self.start(executor)

        self._starting = threading.Thread(target=change, name="costtrace-tier")
        self._starting.start()

    def stop(self, reason: str = "shutdown") -> None:
        """Write what is left and the last word. Safe to call twice; does nothing in a forked child."""
        global _last_end  # noqa: PLW0603 - a fact of the process
        if self._starting is not None and self._starting is not threading.current_thread():
            self._starting.join()
        if self.journal.close(reason):
            _last_end = (os.getpid(), time.monotonic_ns())

    def _last_steps(self) -> None:
        if self.steps is not None:
            self.steps.finish()

    def _told(self) -> dict[str, Any]:
        return {"tier": self.tier, "place": self.place._asdict(), "devices": list(self._devices)}


def attach(executor: Any) -> Engine | None:
    """Begin to record *executor*; None where another rank does it, or nothing can be recorded."""
    place = describe.place_of(executor)
    wanted = process.settings.trtllm_tier
    if not place.meters:
        return None
    tier, why = tier_of(process.status.installed, process.status.engine_version(), wanted)
    if tier == "T1-native" and batches.read(executor, "enable_iter_perf_stats", False) is not True:
        why = "T1-native needs enable_iter_perf_stats"
        tier = "T1" if set(TIERS["T1"]) <= set(process.status.installed) else "none"
    if tier == "none":
        log.warning("costtrace: nothing is recorded of this engine (%s). Serving goes on.", why)
        return None
    engine = Engine(executor, tier, why)
    engine.start(executor)
    return engine
