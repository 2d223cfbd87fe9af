"""Who is in the batches of one executor, and who has ended: the same whoever times them.

Everything here runs on the executor's own thread.
"""

from collections import OrderedDict
from typing import Any

from costtrace.capture.recorder import Recorder
from costtrace_tensorrt_llm.rank_side import batches
from costtrace_tensorrt_llm.rank_side.batches import ADDED, DUMMY, FREED, UNPRICED, WARM_UP, Batch
from costtrace_tensorrt_llm.server_side.contexts import Contexts

IN_FLIGHT = 256
"""Batches that may wait for their time. A device that is this far behind does not answer any more."""
RECONCILE = 32
"""After so many batches it is looked for requests that have left the executor in a way that no hook sees."""
ENDED = 4_096


class Meter:
    """Meters one executor. What is missing here is when a batch began and ended."""

    def __init__(self, recorder: Recorder, contexts: Contexts) -> None:
        self.recorder = recorder
        self._contexts = contexts
        self._open: set[int] = set()
        """Requests that have been in a batch and have not ended."""
        self._nobody: dict[int, str] = {}
        self._ended: OrderedDict[int, None] = OrderedDict()
        self._last: list[Any] = []
        """The requests that generated in the last batch, and their ids."""
        self._last_ids: list[int] = []
        self._since = 0

    def poll(self) -> None:
        """Price the batches that are done, in their order."""

    def begin(self, executor: Any, scheduled: Any) -> Any:
        """A batch is about to be handed to the GPU: write down who is in it. What is given back goes to `forwarded`."""

    def forwarded(self, flight: Any, *, failed: bool) -> None:
        """Its forward pass has been queued, or has failed."""

    def sampled(self, scheduled: Any) -> None:
        """The sampling of a batch has been queued."""

    def told(self, state: Any) -> None:
        """Upstream is done with a batch, and has its own record of it."""

    def hand_over(self) -> None:
        """Another tier goes on, in a journal of its own: whoever is here ends here."""
        for name in list(self._open):
            self._close(name, "stop", -1, -1)
        self.finish()

    def finish(self) -> None:
        """The executor ends: what has no time by now never will."""

    def _batch_of(self, executor: Any, scheduled: Any) -> Batch:
        """Who is in a batch that is about to be handed to the GPU. Raises: AttributeError where it is not as known."""
        warm_up = batches.read(executor, "is_warmup", False) is True
        return Batch(WARM_UP, [], [], [], []) if warm_up else self._freeze(scheduled)

    def _unpriced(self, since_ns: int, reason: str) -> None:
        """A batch has no time, and never will."""
        self.recorder.note(UNPRICED, since_ns, reason)

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
