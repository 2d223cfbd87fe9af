"""From what the hooks wrote down to the journal's events. Pure: imports no engine, reads no clock, fails on no batch.

Requests that generate one token a step with a context that grows by one are the journal's cohort: who stays in it is
not repeated. All others (prompts, drafts, beams, and everybody where pipeline micro-batches take turns) are items.
"""

from collections.abc import Iterable
from typing import Any

from costtrace.capture.recorder import STEP, Record
from costtrace.core.client_text import short
from costtrace.core.cohort import CohortEncoder
from costtrace.core.events import (
    COUNTED_PROMPT,
    HANDS_OVER,
    Event,
    Lost,
    Overhead,
    SequenceAdded,
    SequenceFinished,
    Snapshot,
    Step,
)
from costtrace.core.guard import swallow
from costtrace.core.rows import DISAGGREGATED, JOINED
from costtrace_tensorrt_llm.rank_side.batches import ADDED, FREED, OVERHEAD, UNPRICED, Batch, Facts
from costtrace_tensorrt_llm.request_context import RequestContext, decode

STAGE = "stage"
"""Role of a part on a later pipeline stage: its tokens are counted on the first stage."""
_HALVES = {"prefill": HANDS_OVER, "decode": COUNTED_PROMPT}
"""What the halves of a disaggregated request leave to each other, by their role."""


class Sequence:
    """What is known of a request on this rank."""

    __slots__ = ("added", "beams", "context", "last_step", "prompt")

    def __init__(self, added: SequenceAdded, beams: int) -> None:
        self.added = added
        self.prompt = added.prompt_tokens
        self.beams = beams
        self.context = -1
        """KV tokens before its next step, while it is not in the cohort (-1: it has not been in a step)."""
        self.last_step = -1
        """It has ended, and no step after this one holds it (-1: it has not ended)."""


class Translator:
    """Turns one executor's records into events; remembers who is in the batch."""

    def __init__(
        self,
        model: str,
        boot: str = "",
        *,
        stage: int = 0,
        scatter: bool = False,
        rank: int = 0,
        tenant_default: str = "default",
    ) -> None:
        self._model = model
        self._default = tenant_default
        """Who pays for a request that came without a context."""
        self._boot = boot
        self._stage = stage
        self._scatter = scatter
        self._rank = rank
        self._known: dict[int, Sequence] = {}
        self._ending: list[int] = []
        self._slots = 0
        self._next_index = 0
        self._cohort: CohortEncoder[int] = CohortEncoder()
        """By the executor's ids; who is outside it is not predicted (`Sequence.context` is)."""
        self._out: list[Event] = []

    def translate(self, records: Iterable[Record]) -> list[Event]:
        """Events of *records*, in order."""
        self._out = []
        for record in records:
            try:
                if record[0] == STEP:
                    self._step(*record[1:])
                else:
                    self._note(record[1], record[2], record[3:])
            except Exception as error:  # noqa: BLE001 - a batch that is not as it should be is lost, nothing else is
                swallow("trtllm.translate", error)
                self._lose(record)
        return self._out

    def snapshot(self, sequence: int, at_ns: int) -> Snapshot:
        """The state after all events so far."""
        known = self._known
        open_ = tuple(each.added for each in known.values() if each.last_step < 0)
        cohort = self._cohort.cohort(lambda name: known[name].last_step < 0)
        return Snapshot(sequence, at_ns, self._next_index, open_, cohort)

    # -- notes ------------------------------------------------------------------------------------------------------

    def _note(self, at_ns: int, what: object, rest: tuple[Any, ...]) -> None:
        if what == ADDED:
            self._add(at_ns, *rest)
        elif what == FREED:
            self._free(at_ns, *rest)
        elif what == OVERHEAD:
            self._out.append(Overhead(*rest))
        elif what == UNPRICED:
            self._out.append(Lost(at_ns, 1, 0, rest[1], from_ns=rest[0], to_ns=at_ns))

    def _add(self, at_ns: int, facts: Facts, text: str) -> None:
        if facts.id in self._known:
            self._forget(facts.id)
        context = decode(text) if text else None
        if context is None:
            key = f"trtllm-{facts.client_id if facts.client_id >= 0 else facts.id}"
            tenant, source = (self._default, "default:no-context") if self._rank == 0 else ("", "unobserved")
            context = RequestContext(key, tenant, source)
        self._slots += 1
        # Both halves of a disaggregated request know one id; a second half that is tried again keeps the context's.
        joint = facts.disagg_id if facts.role == "prefill" or facts.context_id < 0 else facts.context_id
        known = context.request_key.startswith(JOINED) or not facts.role or facts.disagg_id < 0
        key = context.request_key if known else short(f"{DISAGGREGATED}{joint}")
        labels = dict(context.labels)
        if facts.role:
            labels |= {"disagg_request_id": short(str(facts.disagg_id))} if facts.disagg_id >= 0 else {}
            labels |= {"ctx_request_id": short(str(facts.context_id))} if facts.context_id >= 0 else {}
        added = SequenceAdded(
            slot=self._slots,
            at_ns=at_ns,
            sequence_id=str(facts.id),
            request_id=context.request_key.removeprefix(JOINED).replace("/", "-"),
            request_key=key,
            prompt_key=str(facts.parent if facts.parent >= 0 else facts.id),
            prompt_tokens=facts.prompt_tokens,
            model=context.model or self._model,
            tenant=context.tenant,
            tenant_source=context.tenant_source,
            operation=context.operation,
            arrived_ns=context.arrived_ns if context.boot == self._boot else 0,
            traceparent=context.traceparent,
            user=context.user,
            labels=labels,
            role=STAGE if self._stage else facts.role,
            elsewhere=context.elsewhere | _HALVES.get(facts.role, 0),
        )
        self._known[facts.id] = Sequence(added, facts.beam_width)
        self._out.append(added)

    def _free(self, at_ns: int, name: int, last_step: int, reason: str, output: int, cached: int) -> None:
        sequence = self._known.get(name)
        if sequence is None or sequence.last_step >= 0:
            return
        context = self._cohort.context(name) if name in self._cohort.members else sequence.context
        # The step that ends the prompt yields the first token.
        guess = max(0, context - sequence.prompt + 1) if context >= sequence.prompt else 0
        sequence.last_step = max(0, last_step)
        self._ending.append(name)
        self._cohort.order = None
        tokens = output if output >= 0 else guess
        if sequence.added.elsewhere & HANDS_OVER and reason == "stop" and tokens <= 1:
            reason = "length"  # it goes on where the answer is made
        self._out.append(
            SequenceFinished(sequence.added.slot, at_ns, sequence.last_step, reason, tokens, max(0, cached))
        )

    def _forget(self, name: int) -> None:
        sequence = self._known.pop(name)
        self._leave(name, sequence)
        self._ending = [ending for ending in self._ending if ending != name]

    def _leave(self, name: int, sequence: Sequence) -> None:
        """Out of the cohort, if it was in it; `Sequence.context` has its context from here on."""
        context = self._cohort.leave(name)
        if context >= 0:
            sequence.context = context

    def _lose(self, record: Record) -> None:
        """A record that could not be read: report it, and let the cohort begin again with the next step."""
        for name in list(self._cohort.members):
            self._leave(name, self._known[name])
        self._cohort.abandon(self._cohort.leaves)
        if record[0] == STEP:
            self._out.append(Lost(record[3], 1, 0, "unreadable batch", from_ns=record[2], to_ns=record[3]))
        else:
            self._out.append(Lost(record[1], 0, 1, "unreadable note"))

    # -- steps ------------------------------------------------------------------------------------------------------

    def _step(self, index: int, scheduled_ns: int, done_ns: int, batch: Batch) -> None:
        self._next_index = index + 1
        if batch.reason:
            self._out.append(Overhead(scheduled_ns, done_ns, batch.reason))
            return
        cohort = self._cohort
        if cohort.order == batch.generation and not batch.context and not batch.drafts:
            cohort.turn += 1
            self._out.append(Step(index, scheduled_ns, done_ns))
            return
        for name in [name for name in self._ending if self._known[name].last_step < index]:
            self._forget(name)
        present: set[int] = set()
        for name, chunk, position in batch.context:
            sequence = self._sequence(name, scheduled_ns)
            self._leave(name, sequence)
            cohort.items.append(self._prompt_item(sequence, chunk, position))
        drafts = batch.drafts or [0] * len(batch.generation)
        accepted = batch.accepted or [0] * len(batch.generation)
        for name, drafted, kept in zip(batch.generation, drafts, accepted, strict=True):
            sequence = self._sequence(name, scheduled_ns)
            if sequence.beams == 1 and not drafted and not self._scatter:
                present.add(name)
                if name not in cohort.members:
                    context = sequence.context if sequence.context >= 0 else sequence.prompt
                    cohort.enter(name, sequence.added.slot, context)
            else:
                cohort.items.append(self._generation_item(name, sequence, drafted, kept))
        for name in [name for name in cohort.members if name not in present]:
            self._leave(name, self._known[name])
        all_members = not (cohort.items or self._ending)
        self._out.append(cohort.close(index, scheduled_ns, done_ns))
        cohort.order = batch.generation if all_members else None

    def _sequence(self, name: int, at_ns: int) -> Sequence:
        """A request of the batch; one whose arrival was dropped: its tokens are in the step, its tenant is unknown."""
        if name not in self._known:
            self._slots += 1
            key = str(name)
            added = SequenceAdded(self._slots, at_ns, key, key, key, key, 0, self._model, "", "unobserved")
            self._known[name] = Sequence(added, 1)
            self._out.append(added)
        return self._known[name]

    def _prompt_item(self, sequence: Sequence, chunk: int, position: int) -> tuple[int, int, int]:
        """A chunk of its prompt. Unread, it is taken to go on where the last chunk ended, to the end of the prompt."""
        at = position if position >= 0 else max(0, sequence.context)
        tokens = chunk if chunk >= 0 else max(1, sequence.prompt - at)
        sequence.context = at + tokens
        return sequence.added.slot, tokens, at

    def _generation_item(self, name: int, sequence: Sequence, drafted: int, kept: int) -> tuple[int, int, int]:
        """One generation step outside the cohort: beams, or one token and the drafts that are checked with it."""
        self._leave(name, sequence)
        if sequence.context < 0:
            sequence.context = sequence.prompt
        elif sequence.context > sequence.prompt:
            sequence.context += kept
        context = sequence.context
        sequence.context += 1
        return sequence.added.slot, sequence.beams + drafted, context
