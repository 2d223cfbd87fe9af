"""The step hooks' core: one executor's batches, timed on its GPU. Everything here runs on the executor's own thread.

A batch costs two recorded events, one pass over its requests, and later two questions to the driver. Nothing waits:
what is not done yet is asked again at the next batch.
"""

import time
from collections import OrderedDict, deque
from typing import Any

from costtrace.guard import swallow
from costtrace.recorder import Recorder
from costtrace_tensorrt_llm import batches
from costtrace_tensorrt_llm.batches import ADDED, DUMMY, FREED, UNPRICED, WARM_UP, Batch
from costtrace_tensorrt_llm.contexts import Contexts
from costtrace_tensorrt_llm.gputime import DeviceClock, Event, EventPool

IN_FLIGHT = 256
"""Batches that may wait for their end. A device that is this far behind does not answer any more."""
RECONCILE = 32
"""After so many batches it is looked for requests that have left the executor in a way that no hook sees."""
ENDED = 4_096


class Flight:
    """One batch on its way through the GPU."""

    __slots__ = ("batch", "end", "recorded_ns", "scheduled", "sealed", "start")

    def __init__(self, batch: Batch, scheduled: Any, start: Event, end: Event) -> None:
        self.batch = batch
        self.scheduled = scheduled
        """The executor's own object of it, until its sampling has been recorded."""
        self.start = start
        self.end = end
        self.sealed = False
        """Its end event stands where it belongs, and may be asked."""
        self.recorded_ns = 0


class StepMeter:
    """Meters one executor."""

    def __init__(self, recorder: Recorder, pool: EventPool, contexts: Contexts, *, samples: bool = True) -> None:
        self.recorder = recorder
        self._pool = pool
        self._clock = DeviceClock(pool)
        self._contexts = contexts
        self._samples = samples
        """Its batches are sampled here (all but the earlier stages of a pipeline)."""
        self._flying: deque[Flight] = deque()
        self._done_ns = 0
        self._open: set[int] = set()
        """Requests that have been in a batch and have not ended."""
        self._nobody: dict[int, str] = {}
        self._ended: OrderedDict[int, None] = OrderedDict()
        self._last: list[Any] = []
        """The requests that generated in the last batch, and their ids."""
        self._last_ids: list[int] = []
        self._since = 0

    # -- a batch ----------------------------------------------------------------------------------------------------

    def begin(self, executor: Any, scheduled: Any) -> Flight:
        """A batch is about to be handed to the GPU: write down who is in it."""
        self.poll()
        if self._flying and not self._flying[-1].sealed:
            self._seal(self._flying[-1])
        if len(self._flying) >= IN_FLIGHT:
            self._give_up(self._flying.popleft(), "the device does not answer")
        warm_up = batches.read(executor, "is_warmup", False) is True
        batch = Batch(WARM_UP, [], [], [], []) if warm_up else self._freeze(scheduled)
        flight = Flight(batch, scheduled, self._pool.take(), self._pool.take())
        self.recorder.dispatched(batch)
        flight.recorded_ns = time.monotonic_ns()
        self._flying.append(flight)
        flight.start.record()
        return flight

    def forwarded(self, flight: Flight, *, failed: bool) -> None:
        """Its forward pass has been queued (or has failed: then nothing is sampled)."""
        flight.end.record()
        if failed or not self._samples:
            self._seal(flight)

    def sampled(self, scheduled: Any) -> None:
        """Its sampling has been queued: it ends after that."""
        if self._flying and self._flying[-1].scheduled is scheduled:
            flight = self._flying[-1]
            flight.end.record()
            self._seal(flight)

    def poll(self) -> None:
        """Price the batches that are done, in their order."""
        while self._flying and self._flying[0].sealed:
            flight = self._flying[0]
            try:
                if not flight.end.query():
                    return
                seen_ns = time.monotonic_ns()
                start_ns, end_ns = self._clock.place(flight.start, flight.end, flight.recorded_ns, seen_ns)
            except Exception as error:  # noqa: BLE001 - a device that has failed must not fail its engine again here
                self._flying.popleft()
                self._give_up(flight, "its end could not be timed")
                swallow("trtllm.events", error)
                continue
            self._flying.popleft()
            # Handed over while the GPU was still busy: it owns all from the end of the batch before.
            queued = flight.recorded_ns <= self._done_ns
            self.recorder.done_at(flight.batch, flight.recorded_ns if queued else start_ns, end_ns)
            self._done_ns = end_ns

    def _seal(self, flight: Flight) -> None:
        flight.sealed, flight.scheduled = True, None

    def _give_up(self, flight: Flight, reason: str) -> None:
        self.recorder.note(UNPRICED, flight.recorded_ns, reason)

    # -- who is in it -----------------------------------------------------------------------------------------------

    def _freeze(self, scheduled: Any) -> Batch:
        generation = list(scheduled.generation_requests)
        prompts = list(scheduled.context_requests)
        if generation != self._last:
            self._last = generation
            self._last_ids = self._somebody(generation)
            if not self._open.issuperset(self._last_ids):
                self._meet(generation)
                self._last_ids = self._somebody(generation)
        if prompts:
            self._meet(prompts)
        drafts: list[int] = []
        accepted: list[int] = []
        if any(map(batches.drafts_of, generation)):
            own = generation
            if self._nobody:
                own = [request for request in generation if batches.ids_of(request) not in self._nobody]
            drafts, accepted = batches.draft_counts(own)
        context = batches.chunks(prompts, self._nobody) if prompts else []
        if not self._last_ids and not context:
            met = [self._nobody.get(batches.ids_of(request), DUMMY) for request in (*generation, *prompts)]
            return Batch(WARM_UP if WARM_UP in met else DUMMY, [], [], [], [])
        return Batch("", self._last_ids, drafts, accepted, context)

    def _somebody(self, requests: list[Any]) -> list[int]:
        """Ids of *requests*, without those that are nobody's."""
        names = list(map(batches.ids_of, requests))
        return [name for name in names if name not in self._nobody] if self._nobody else names

    def _meet(self, requests: list[Any]) -> None:
        """Note those that are new."""
        if len(self._nobody) > ENDED:
            self._nobody.clear()
        for request in requests:
            name = batches.ids_of(request)
            if name in self._open or name in self._nobody or name in self._ended:
                continue
            reason = batches.is_nobody(request)
            if reason:
                self._nobody[name] = reason
                continue
            self._open.add(name)
            found = batches.facts(request)
            text = self._contexts.of(found.id, found.parent, found.client_id)
            self.recorder.note(ADDED, found, text)

    # -- ends -------------------------------------------------------------------------------------------------------

    def ended(self, executor: Any, finished: Any) -> None:
        """The executor has answered *finished* for good. Batches in flight may still hold them."""
        for request in finished or ():
            self._end(request, "")
        self._since += 1
        if self._since >= RECONCILE:
            self._since = 0
            self._reconcile(executor)
        self.poll()

    def failed(self, requests: list[Any]) -> None:
        """The executor has given up *requests*."""
        for request in requests:
            self._end(request, "error")
        self.poll()

    def _end(self, request: Any, reason: str) -> None:
        name = batches.ids_of(request)
        self._nobody.pop(name, None)
        if name not in self._open:
            return
        generated = batches.output_tokens(request)
        cached = batches.number(request, "cached_tokens")
        self._close(name, reason or batches.end_reason(request, generated), generated, cached)

    def _close(self, name: int, reason: str, generated: int, cached: int) -> None:
        self._open.discard(name)
        self._ended[name] = None
        if len(self._ended) > ENDED:
            self._ended.popitem(last=False)
        self._last, self._last_ids = [], []  # no request is kept alive beyond its end
        self.recorder.note(FREED, name, self.recorder.index, reason, generated, cached, urgent=True)

    def _reconcile(self, executor: Any) -> None:
        """End what is not with the executor any more: transferred away, or gone on a path that was not known."""
        there = {batches.ids_of(request) for request in list(executor.active_requests)}
        for name in self._open - there:
            self._close(name, "stop", -1, -1)
            del self._ended[name]  # should it come back, it is a sequence of its own

    def finish(self) -> None:
        """The executor ends: what the GPU has not finished cannot be timed any more."""
        self.poll()
        while self._flying:
            self._give_up(self._flying.popleft(), "the engine ended before it was timed")
