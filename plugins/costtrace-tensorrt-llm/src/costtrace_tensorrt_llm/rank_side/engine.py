"""One executor's journal: opened when its loop starts, closed when it is shut down.

A process may have several executors one after the other: upstream makes a first one to find out how much memory is
left for the KV cache. Each has a journal of its own; the start-up of the next begins where the last one ended.
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
from costtrace_tensorrt_llm.contract.hook_list import TIERS
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.rank_side import describe
from costtrace_tensorrt_llm.rank_side.gputime import EventPool
from costtrace_tensorrt_llm.rank_side.metering import StepMeter
from costtrace_tensorrt_llm.rank_side.native import UNTIMED, NotTimed, UpstreamMeter
from costtrace_tensorrt_llm.rank_side.stats import StatsMeter
from costtrace_tensorrt_llm.rank_side.translate import Translator
from costtrace_tensorrt_llm.upstream import read

OTHER_TIER = "another tier goes on"


def _is_installed(tier: str) -> bool:
    return set(TIERS[tier]) <= set(process.status.installed)


class RankRecorder:
    """Records one executor of this rank, by one tier, into one journal."""

    def __init__(self, executor: Any, tier: str, why: str) -> None:
        """*why*: the reason for *tier* where another one was wanted; '' where it was this one."""
        self.tier = tier
        self.place = describe.place_of(executor)
        self.journal = EngineJournal("tensorrt-llm", "rank", process.settings, process.status)
        self.steps: StepMeter | UpstreamMeter | None = None
        self.stats: StatsMeter | None = None
        if tier == "T1":
            samples = self.place.stage == self.place.stages - 1
            pool = EventPool(lambda: import_module("torch").cuda.Event(enable_timing=True))
            self.steps = StepMeter(self.journal.recorder, pool, process.contexts, samples=samples)
        elif tier == "T1-native":
            self.steps = UpstreamMeter(self.journal.recorder, process.contexts)
        elif tier == "T2":
            self.stats = StatsMeter(self.journal.recorder, process.contexts)
        if why:
            log.warning("costtrace: tier %s is used (%s). Serving goes on.", tier, why)
            process.status.lost.setdefault("tier", f"{why}; {tier} is used")
        self._starting: threading.Thread | None = None

    def start(self, executor: Any) -> None:
        """Open the journal and start the writer thread. Raises: JournalError, and what a broken driver raises."""
        now_ns = time.monotonic_ns()
        pid, ended_ns = process.last_executor_end
        model = describe.model_of(executor)
        devices = describe.devices_of(executor, self.place)
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
            model,
            clock.boot_id(),
            stage=self.place.stage,
            scatter=self.place.stages > 1,
            rank=self.place.rank,
            tenant_default=process.settings.tenant_default,
        )
        at_end = [] if self.steps is None else [self.steps.finish]
        status = {"tier": self.tier, "place": self.place._asdict(), "devices": [device.uuid for device in devices]}
        self.journal.open([started, EngineReady(now_ns)], translator, lambda: status, *at_end)

    def fall_back(self, executor: Any, error: Exception) -> "RankRecorder | None":
        """The recorder of the next tier, with a journal of its own; None where no tier is left.

        For the executor's thread: files are closed and opened on another one.
        """
        not_timed = isinstance(error, NotTimed)
        tier = "T1" if not_timed and _is_installed("T1") else "T2" if _is_installed("T2") else "none"
        why = f"upstream did not time its last {UNTIMED} batches" if not_timed else str(error)
        process.status.report_lost("batch", why, f"{self.tier}; {tier} is used from here on")
        if self.steps is not None:
            self.steps.hand_over()
        if tier == "none":
            threading.Thread(target=self.stop, args=(OTHER_TIER,), name="costtrace-tier").start()
            return None
        successor = RankRecorder(executor, tier, "")
        starting = threading.Thread(target=successor._start_after, args=(self, executor), name="costtrace-tier")
        successor._starting = starting
        starting.start()
        return successor

    def _start_after(self, predecessor: "RankRecorder", executor: Any) -> None:
        predecessor.stop(OTHER_TIER)
        with guard("trtllm.fall_back"):
            self.start(executor)

    def stop(self, reason: str = "shutdown") -> None:
        """Write what is left and close the journal. Safe to call twice; does nothing in a forked child."""
        if self._starting is not None and self._starting is not threading.current_thread():
            self._starting.join()
        if self.journal.close(reason):
            process.last_executor_end = (os.getpid(), time.monotonic_ns())


def attach(executor: Any) -> RankRecorder | None:
    """Begin to record *executor*; None where another rank records its batches, or no tier fits."""
    if not describe.place_of(executor).meters:
        return None
    tier, why = tier_of(process.status.installed, process.status.engine_version(), process.settings.trtllm_tier)
    if tier == "T1-native" and read(executor, "enable_iter_perf_stats", False) is not True:
        why = "T1-native needs enable_iter_perf_stats"
        tier = "T1" if _is_installed("T1") else "none"
    if tier == "none":
        log.warning("costtrace: nothing is recorded of this engine (%s). Serving goes on.", why)
        return None
    recorder = RankRecorder(executor, tier, why)
    recorder.start(executor)
    return recorder
