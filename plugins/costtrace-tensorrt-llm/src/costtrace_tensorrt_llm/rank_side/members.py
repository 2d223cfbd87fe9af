"""Which requests are in the batches of one executor, and which have ended. How batches are timed is up to subclasses.

Everything here runs on the executor's own thread.
"""

import time
from collections import OrderedDict, deque
from typing import Any

from costtrace.capture.recorder import Recorder
from costtrace_tensorrt_llm.rank_side import batches
from costtrace_tensorrt_llm.rank_side.batches import ADDED, DUMMY, FREED, UNPRICED, WARM_UP, Batch
from costtrace_tensorrt_llm.server_side.contexts import Contexts
from costtrace_tensorrt_llm.upstream import number, read

IN_FLIGHT = 256
"""Batches that may wait for their time. A device that is this far behind has stopped answering."""
RECONCILE = 32
"""After so many batches, look for requests that have left the executor on a path that no hook sees."""
ENDED = 4_096
"""Ended requests that are remembered, because a batch in flight may still name them."""


class Flight:
    """One batch on its way through the GPU."""

    __slots__ = ("batch", "end", "recorded_ns", "scheduled", "sealed", "start")

    def __init__(self, batch: Batch, scheduled: Any, start: Any = None, end: Any = None) -> None:
        self.batch = batch
        self.scheduled = scheduled
        """The executor's own object of the batch, as long as it is needed."""
        self.start, self.end = start, end
        """Events (`gputime.Event`) of costtrace's own; None where upstream's are read."""
        self.sealed = False
        """Its end event has been recorded for the last time, and may be queried."""
        self.recorded_ns = 0
        """When it was handed over (monotonic ns)."""


class BatchMeter:
    """Meters one executor by its batches. A subclass has `begin` and `forwarded`, and says when a batch ended."""

    def __init__(self, recorder: Recorder, contexts: Contexts) -> None:
        self.recorder = recorder
        self._contexts = contexts
        self._open: set[int] = set()
        """Ids of the requests that have been in a batch and have not ended."""
        self._nobody: dict[int, str] = {}
        """Ids of the requests that no client sent, and why they exist."""
        self._ended: OrderedDict[int, None] = OrderedDict()
        self._last: list[Any] = []
        """The requests that generated in the last batch."""
        self._last_ids: list[int] = []
        self._batches = 0
        """Since requests were last reconciled."""
        self._flying: deque[Flight] = deque()
        self._done_ns = 0
        """End of the newest batch that was timed."""

    def poll(self) -> None:
        """Record the batches that are done, in their order."""

    def sampled(self, scheduled: Any) -> None:
        """The sampling of a batch has been queued."""

    def reported(self, state: Any) -> None:
        """Upstream is done with a batch, and *state* has its own record of it."""

    def hand_over(self) -> None:
        """Another tier goes on, in a journal of its own: end every open request in this one."""
        for name in list(self._open):
            self._close(name, "stop", -1, -1)
        self.finish()

    def finish(self) -> None:
        """The executor ends: a batch without a time will never have one."""
        self.poll()
        while self._flying:
            self._unpriced(self._flying.popleft(), "the engine ended before it was timed")

    def _launch(self, flight: Flight) -> Flight:
        self.recorder.dispatched(flight.batch)
        flight.recorded_ns = time.monotonic_ns()
        self._flying.append(flight)
        return flight

    def _batch_of(self, executor: Any, scheduled: Any) -> Batch:
        """Who is in a batch that is about to go to the GPU. Raises: AttributeError where it is not as known."""
        warm_up = read(executor, "is_warmup", False) is True
        return Batch(WARM_UP, [], [], [], []) if warm_up else self._freeze(scheduled)

    def _unpriced(self, flight: Flight, reason: str) -> None:
        """A batch has no time, and never will."""
        self.recorder.note(UNPRICED, flight.recorded_ns, reason)

    # -- members ----------------------------------------------------------------------------------------------------

    def _freeze(self, scheduled: Any) -> Batch:
        generation = list(scheduled.generation_requests)
        prompts = list(scheduled.context_requests)
        if generation != self._last:
            self._last = generation
            self._last_ids = self._ids_of_clients(generation)
            if not self._open.issuperset(self._last_ids):
                self._note_new(generation)
                self._last_ids = self._ids_of_clients(generation)
        if prompts:
            self._note_new(prompts)
        drafts, accepted = [], []  # type: list[int], list[int]
        if any(map(batches.drafts_of, generation)):
            clients = [r for r in generation if batches.ids_of(r) not in self._nobody] if self._nobody else generation
            drafts, accepted = batches.draft_counts(clients)
        context = batches.chunks(prompts, self._nobody) if prompts else []
        if not self._last_ids and not context:
            reasons = [self._nobody.get(batches.ids_of(request), DUMMY) for request in (*generation, *prompts)]
            return Batch(WARM_UP if WARM_UP in reasons else DUMMY, [], [], [], [])
        return Batch("", self._last_ids, drafts, accepted, context)

    def _ids_of_clients(self, requests: list[Any]) -> list[int]:
        names = list(map(batches.ids_of, requests))
        return [name for name in names if name not in self._nobody] if self._nobody else names

    def _note_new(self, requests: list[Any]) -> None:
        if len(self._nobody) > ENDED:
            self._nobody.clear()
        for request in requests:
            name = batches.ids_of(request)
            if name in self._open or name in self._nobody or name in self._ended:
                continue
            reason = batches.why_nobody(request)
            if reason:
                self._nobody[name] = reason
                continue
            self._open.add(name)
            facts = batches.facts(request)
            self.recorder.note(ADDED, facts, self._contexts.of(facts.id, facts.parent, facts.client_id))

    # -- ends -------------------------------------------------------------------------------------------------------

    def ended(self, executor: Any, finished: Any) -> None:
        """The requests *finished* have had their last response. Batches in flight may still contain them."""
        for request in finished or ():
            self._end(request, "")
        self._batches += 1
        if self._batches >= RECONCILE:
            self._batches = 0
            self._reconcile(executor)
        self.poll()

    def failed(self, requests: list[Any]) -> None:
        """The executor has given *requests* up."""
        for request in requests:
            self._end(request, "error")
        self.poll()

    def _end(self, request: Any, reason: str) -> None:
        name = batches.ids_of(request)
        self._nobody.pop(name, None)
        if name not in self._open:
            return
        generated = batches.output_tokens(request)
        cached = number(request, "cached_tokens")
        self._close(name, reason or batches.end_reason(request, generated), generated, cached)

    def _close(self, name: int, reason: str, generated: int, cached: int) -> None:
        self._open.discard(name)
        self._ended[name] = None
        if len(self._ended) > ENDED:
            self._ended.popitem(last=False)
        self._last, self._last_ids = [], []  # keeps no request alive beyond its end
        self.recorder.note(FREED, name, self.recorder.index, reason, generated, cached, urgent=True)

    def _reconcile(self, executor: Any) -> None:
        """End the requests that the executor no longer has: transferred away, or gone on an unknown path."""
        active = {batches.ids_of(request) for request in list(executor.active_requests)}
        for name in self._open - active:
            self._close(name, "stop", -1, -1)
            del self._ended[name]  # if it comes back, it is a new sequence
