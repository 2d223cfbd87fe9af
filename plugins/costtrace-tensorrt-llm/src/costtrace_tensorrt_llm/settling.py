"""The server's side of the tiers T3 and T5: finished requests are taken in, and settled on a thread beside the server.

Only where the setting `trtllm_tier` names one of them: the ranks then record nothing. The journal is opened with the
first request that has finished, because only that shows what upstream tells; its engine row says which of both it is.
"""

import inspect
import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from costtrace.capture.engine_journal import EngineJournal
from costtrace.capture.recorder import Recorder
from costtrace.core import clock
from costtrace.core.events import EngineReady, EngineStarted
from costtrace.core.guard import guard, log
from costtrace_tensorrt_llm import carrier, contract, told
from costtrace_tensorrt_llm.batches import ADDED, FREED, Batch, number, read
from costtrace_tensorrt_llm.gpus import visible_gpus
from costtrace_tensorrt_llm.hook_points import METHODS, SETTLED
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.settle import Ended, Settler, unknown
from costtrace_tensorrt_llm.translate import Translator

LIFE = "_costtrace_life"
"""Attribute of upstream's request objects in this process: their number here."""
RING = 1_048_576
"""Records of one settlement; they are written by the thread that makes them."""

_names = itertools.count(1)
_settlement: "Settlement | None" = None


class _Recorder(Recorder):
    """A recorder whose steps are made when the writer thread asks what is in flight."""

    __slots__ = ("settlement",)

    def __init__(self, settlement: "Settlement") -> None:
        super().__init__(RING)
        self.settlement = settlement

    def in_flight_since_ns(self) -> int:
        """Since when there is somebody who has not told yet."""
        return self.settlement.work()


class Settlement:
    """Estimates of one engine, in its server's process. What the server's threads call only appends to a queue."""

    def __init__(self, tier: str, world: int, arguments: Any) -> None:
        self.tier = tier
        self._world = world
        self._arguments = arguments
        self._ready_ns = time.monotonic_ns()
        self._inbox: deque[tuple[Any, ...]] = deque(maxlen=RING)
        self._first_ns: dict[int, int] = {}
        self._recorder = _Recorder(self)
        self._journal = EngineJournal("tensorrt-llm", "server", process.settings, process.status, self._recorder)
        self._settler: Settler | None = None
        self._opening = threading.Lock()
        self._devices: list[str] = []

    # -- called by the server's threads

    def arrived(self, request: Any) -> None:
        """A request has been made."""
        name = request.__dict__[LIFE] = next(_names)
        self._inbox.append(("arrived", name, time.monotonic_ns()))
        weakref.finalize(request, self.gone, name).atexit = False

    def gone(self, name: int) -> None:
        """Nobody holds a request any more: if it has not finished, it never will."""
        self._first_ns.pop(name, None)
        self._inbox.append(("gone", name, time.monotonic_ns()))

    def responded(self, result: Any, request: Any, *, done: bool) -> None:
        """A response has come, the last one or another."""
        name, now_ns = request.__dict__[LIFE], time.monotonic_ns()
        first_ns = self._first_ns.setdefault(name, now_ns)
        if done:
            text = carrier.text_on(request)
            arrived_ns = carrier.arrival_of(text) or first_ns
            life = told.ended(name, text, result, request, (arrived_ns, first_ns, now_ns))
            self._inbox.append(("ended", name, life))
            if self._settler is None:
                threading.Thread(target=self._open, args=(life,), name="costtrace-settle").start()

    # -- beside the server

    def work(self) -> int:
        """Take in what has come and settle what can be; since when somebody has not told (0: nobody)."""
        settler = self._settler
        if settler is None:
            return self._ready_ns
        now_ns = time.monotonic_ns()
        while self._inbox:
            what, name, more = self._inbox.popleft()
            if what == "arrived":
                settler.arrived(name, more)
            elif what == "ended":
                settler.ended(name, more)
            elif settler.arrival(name):
                settler.ended(name, unknown(name, settler.arrival(name), more))
        settler.settle(now_ns)
        return settler.waits_since()

    def _open(self, life: Ended) -> None:
        with self._opening, guard("trtllm.settle"):
            if self._settler is not None:
                return
            why = told.why_not_by_batch(life) or self._why_not_by_batch() if self.tier == "T3" else ""
            if why:
                self.tier = "T5"
                process.status.say_lost("batch times", why, "T3, estimates by batch; T5 is used")
            if not life.told:
                process.status.say_lost(
                    "request times",
                    "finished requests have no request_perf_metrics of this host's clock: is return_perf_metrics set?",
                    "when a request was first in a batch: its whole wait counts",
                )
            self._settler = Settler(self, by_batch=self.tier == "T3")
            self._settler.frontier_ns = self._ready_ns
            self._begin()

    def _why_not_by_batch(self) -> str:
        if read(self._arguments, "enable_attention_dp", False) is True:
            return "attention data parallelism: every rank has batches of its own"
        if number(self._arguments, "pipeline_parallel_size", default=1) > 1:
            return "pipeline parallelism: only one stage tells"
        return ""

    def _begin(self) -> None:
        model = str(read(self._arguments, "model", "") or "")
        model = Path(model).name if model.startswith(("/", "~", ".")) else model
        devices, visible = visible_gpus(self._world)
        self._devices = [device.uuid for device in devices]
        started = EngineStarted(
            started_ns=clock.process_start_ns(),
            engine="tensorrt-llm",
            engine_version=process.status.engine_version(),
            model=model,
            devices=devices,
            settings={
                "metering": METHODS[self.tier],
                "tier": self.tier,
                "ranks_metered": str(self._world),
                **({"cuda_visible_devices": visible} if visible else {}),
            },
            lost_hooks=process.status.lost_hooks(),
        )
        self._journal.open(
            [started, EngineReady(self._ready_ns)], Translator(model, clock.boot_id()), self._told, self._last
        )

    def _told(self) -> dict[str, Any]:
        assumed = self._settler.assumed if self._settler is not None else 0
        return {"tier": self.tier, "devices": self._devices, "assumed": assumed}

    def _last(self) -> None:
        """The server ends: whoever is there ends with it."""
        self.work()
        settler, now_ns = self._settler, time.monotonic_ns()
        for name in settler.open_names() if settler is not None else ():
            self._inbox.append(("gone", name, now_ns))

    def stop(self, reason: str = "shutdown") -> None:
        """Settle what is left and write the last word."""
        with self._opening:
            self._journal.close(reason)

    # -- where what is settled goes (`settle.Sink`)

    def added(self, life: Ended) -> None:
        """Note who comes."""
        self._recorder.note(ADDED, life.facts, life.text)

    def step(self, batch: Batch, start_ns: int, end_ns: int) -> None:
        """Record a step, long after it was."""
        self._recorder.dispatched(batch)
        self._recorder.done_at(batch, start_ns, end_ns)

    def freed(self, life: Ended) -> None:
        """Note who has ended."""
        self._recorder.note(
            FREED, life.facts.id, self._recorder.index, life.reason, life.output_tokens, life.cached_tokens
        )


def arrived(request: Any) -> None:
    """A request of a client has been made in this process."""
    if _settlement is not None:
        _settlement.arrived(request)


def wrap_create(original: Callable[..., Any]) -> Callable[..., Any]:
    """`GenerationExecutor.create`: the ranks are up; how many there are."""

    @wraps(original)
    def create(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        with guard("trtllm.create"):
            wanted = process.settings.trtllm_tier
            if wanted in SETTLED:
                begin(wanted, inspect.signature(original).bind(*args, **kwargs).arguments)
        return made

    return create


def begin(wanted: str, arguments: dict[str, Any]) -> None:
    """Begin to take in requests. *arguments*: of `GenerationExecutor.create`."""
    global _settlement  # noqa: PLW0603 - a fact of the process
    tier, why = contract.tier_of(process.status.installed, process.status.engine_version(), wanted)
    if tier == "none":
        log.warning("costtrace: nothing is recorded of this engine (%s). Serving goes on.", why)
    elif _settlement is not None:
        process.status.say_lost(
            "second engine", "one process has two", "estimates of the second: its requests count as the first's"
        )
    else:
        _settlement = Settlement(tier, max(1, number_of(arguments, "model_world_size")), arguments.get("llm_args"))


def number_of(arguments: dict[str, Any], name: str) -> int:
    """A whole number among *arguments*; 0 where there is none."""
    value = arguments.get(name)
    return value if isinstance(value, int) else 0


def wrap_response(original: Callable[..., Any]) -> Callable[..., Any]:
    """`GenerationResultBase._handle_response`: the last response of a request has all that upstream tells of it."""

    @wraps(original)
    def _handle_response(self: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, response, *args, **kwargs)
        finally:
            if _settlement is not None:
                with guard("trtllm.response"):
                    request = self.__dict__.get("_generation_request")
                    if request is not None and LIFE in request.__dict__:
                        _settlement.responded(self, request, done=bool(read(self, "_done", False)))

    return _handle_response
