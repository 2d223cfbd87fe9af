"""From what the hooks recorded to the journal's events. Pure: imports no vLLM, reads no clock, fails on no batch.

A step's batch is vLLM's own ``SchedulerOutput``, kept by reference. Most steps continue the one before, so the
translator predicts (`CohortEncoder`): everybody who was in the last step is in this one, in the same order, and each
context has grown by the tokens that were computed. Ended sequences are taken out, new ones are appended. The prediction
is checked with a few comparisons that run in C (the list of ids, the sum of contexts, the count of tokens); what does
not match is worked out from the whole batch. A context can only fall short of its prediction (rejected drafts, a
preemption, a failed load of KV), so that an equal sum means that every one of them is as predicted.
"""

from collections.abc import Iterable
from typing import Any

from costtrace.capture.prefix_numbers import PrefixNumbers
from costtrace.capture.recorder import STEP, Record
from costtrace.core.cohort import CohortEncoder
from costtrace.core.events import Event, Lost, Overhead, Snapshot, Step
from costtrace.core.guard import swallow
from costtrace_vllm.engine_side.sequences import ADDED, DELIVERED, FREED, OVERHEAD, UNOBSERVED, Sequence, Sequences


class Translator:
    """Turns one engine's records into events; remembers who is in the batch."""

    def __init__(
        self,
        model: str,
        boot: str = "",
        prefixes: PrefixNumbers | None = None,
        tenant_default: str = "default",
    ) -> None:
        self._sequences = Sequences(model, boot, tenant_default)
        self._prefixes = prefixes
        """None: who found which cached blocks is not recorded."""
        self._next_index = 0
        self._cohort: CohortEncoder[str] = CohortEncoder()
        """By internal id; predicts those outside the cohort as well."""
        self._last: dict[str, int] = {}
        """Tokens by id in the last step that was worked out: vLLM's own dict."""
        self._out: list[Event] = []

    def translate(self, records: Iterable[Record]) -> list[Event]:
        """Events of *records*, in order."""
        self._out = []
        for record in records:
            try:
                if record[0] == STEP:
                    self._step(record)
                else:
                    self._note(record)
            except Exception as error:  # noqa: BLE001 - a batch that is not as it should be is lost, nothing else is
                swallow("vllm.translate", error)
                self._lose(record)
        return self._out

    def snapshot(self, sequence: int, at_ns: int) -> Snapshot:
        """The state after all events so far. What has ended is left out, even if it is still in flight."""
        known = self._sequences.known
        open_ = tuple(each.added for each in known.values() if not each.ended)
        cohort = self._cohort.cohort(lambda name: not known[name].ended)
        return Snapshot(sequence, at_ns, self._next_index, open_, cohort)

    def _note(self, record: Record) -> None:
        at_ns, what, *rest = record[1:]
        event: Event | None = None
        if what == ADDED:
            if rest[0] in self._sequences.known:
                self._cohort.leave(rest[0])
            event = self._sequences.add(at_ns, *rest)
        elif what == FREED:
            event = self._sequences.finish(at_ns, *rest)
        elif what == DELIVERED:
            event = self._sequences.deliver(at_ns, *rest)
        elif what == OVERHEAD:
            event = Overhead(*rest)
        if event is not None:
            self._out.append(event)

    def _lose(self, record: Record) -> None:
        """A record that could not be read: report it, and let the cohort begin again with the next step."""
        self._cohort.abandon(sequence.slot for sequence in self._sequences.known.values())
        if record[0] == STEP:
            self._out.append(Lost(record[3], 1, 0, "unreadable batch", from_ns=record[2], to_ns=record[3]))
        else:
            self._out.append(Lost(record[1], 0, 1, "unreadable note"))

    # -- steps ----------------------------------------------------------------------------------------------------

    def _step(self, record: Record) -> None:
        _, index, scheduled_ns, done_ns, batch = record
        self._next_index = index + 1
        if batch.finished_req_ids:
            self._check_finished(batch.finished_req_ids, index, scheduled_ns)
        tokens = batch.num_scheduled_tokens
        if not tokens:
            return
        cached, cohort = batch.scheduled_cached_reqs, self._cohort
        if (
            cohort.order == cached.req_ids
            and batch.total_num_scheduled_tokens == len(tokens) == len(cohort.members)
            and sum(cached.num_computed_tokens) == cohort.base_sum + cohort.turn * len(tokens)
            and not batch.scheduled_encoder_inputs
        ):
            cohort.turn += 1
            self._out.append(Step(index, scheduled_ns, done_ns))
            return
        if self._sequences.ending:
            self._take_ended(index, tokens)
        if self._is_predicted(batch):
            self._continue(tokens)
        elif self._is_scattered(batch):
            self._list(batch, scheduled_ns)
        else:
            self._compare(batch, scheduled_ns)
        self._take_new(batch, scheduled_ns)
        self._last = tokens
        encoder = self._encoder(batch.scheduled_encoder_inputs) if batch.scheduled_encoder_inputs else ()
        self._out.append(cohort.close(index, scheduled_ns, done_ns, encoder))
        cohort.order = None if cohort.outside else list(cohort.members)

    def _check_finished(self, names: Iterable[str], index: int, at_ns: int) -> None:
        """VLLM says in the next batch who has ended: for those whose own note was dropped or cannot be had."""
        for name in names:
            sequence = self._sequences.known.get(name)
            if sequence is None or sequence.ended:
                continue
            estimate = max(0, self._cohort.context(name) - sequence.prompt + 1)
            event = self._sequences.finish(at_ns, name, index - 1, UNOBSERVED, estimate, 0)
            if event is not None:
                self._out.append(event)

    def _take_ended(self, index: int, tokens: dict[str, int]) -> None:
        """Ended sequences leave with the first step that they are not in."""
        for name, last_step in list(self._sequences.ending):
            if index > last_step:
                self._cohort.leave(name)
                self._sequences.forget(name)
            elif name not in tokens:
                self._cohort.leave(name)

    def _is_predicted(self, batch: Any) -> bool:
        """Whether the batch is the last one, gone on, and new sequences. Who is not in it any more is taken out."""
        cohort, tokens = self._cohort, batch.num_scheduled_tokens
        cached = batch.scheduled_cached_reqs
        if list(cohort.members) != cached.req_ids:
            for name in cohort.members.keys() - tokens.keys():
                cohort.leave(name)
            if list(cohort.members) != cached.req_ids:
                return False
        if sum(cached.num_computed_tokens) != cohort.predicted():
            return False
        # Everybody in the cohort has one token, if all others have what is left.
        beyond_one = sum(tokens[name] - 1 for name in cohort.outside)
        beyond_one += sum(tokens[new.req_id] - 1 for new in batch.scheduled_new_reqs)
        return bool(batch.total_num_scheduled_tokens == len(tokens) + beyond_one)

    def _continue(self, tokens: dict[str, int]) -> None:
        """A batch that is as predicted: only those who were outside the cohort can enter it."""
        cohort, known = self._cohort, self._sequences.known
        for name in list(cohort.outside):
            self._place(known[name], name, tokens[name], cohort.members[name][1] + cohort.turn)

    def _is_scattered(self, batch: Any) -> bool:
        """Whether a cohort would only come and go: most have drafts to check, or the batch shares nobody with the last.

        The second is pipeline parallelism, where batches take turns.
        """
        tokens = batch.num_scheduled_tokens
        cached = len(batch.scheduled_cached_reqs.req_ids)
        if 2 * list(tokens.values()).count(1) < cached:
            return True
        return bool(self._last) and cached > 0 and self._last.keys().isdisjoint(tokens)

    def _list(self, batch: Any, at_ns: int) -> None:
        """All of the batch as items, nobody in the cohort. Loops in C: such batches may come at every step."""
        cached, tokens, slots = batch.scheduled_cached_reqs, batch.num_scheduled_tokens, self._sequences.slots
        if self._cohort.members:
            self._cohort.leave_all()
        names = cached.req_ids
        try:
            batch_slots = list(map(slots.__getitem__, names))
        except KeyError:
            batch_slots = [slots[n] if n in slots else self._unobserved(n, 0, at_ns).slot for n in names]
        counts = map(tokens.__getitem__, names)
        self._cohort.items += zip(batch_slots, counts, cached.num_computed_tokens, strict=True)

    def _compare(self, batch: Any, at_ns: int) -> None:
        """Who enters the cohort, who stays and who else takes part, from the whole batch."""
        cached, tokens, known = batch.scheduled_cached_reqs, batch.num_scheduled_tokens, self._sequences.known
        self._cohort.compare()
        for name, context in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            sequence = known.get(name) or self._unobserved(name, 0, at_ns)
            count = tokens[name]
            if not (count == 1 and context >= sequence.prompt and self._cohort.stays(name, context)):
                self._place(sequence, name, count, context)

    def _take_new(self, batch: Any, at_ns: int) -> None:
        for new in batch.scheduled_new_reqs:
            name = new.req_id
            sequence = self._sequences.known.get(name)
            if sequence is None:
                sequence = self._unobserved(name, len(new.prompt_token_ids or ()), at_ns)
            if self._prefixes is not None and sequence.blocks and sequence.cached < 0:
                self._find(sequence, new, at_ns)
            sequence.meet(new)
            self._place(sequence, name, batch.num_scheduled_tokens[name], new.num_computed_tokens)

    def _find(self, sequence: Sequence, new: Any, at_ns: int) -> None:
        """Its first step: what of its prompt the prefix cache had, and what it will compute."""
        assert self._prefixes is not None
        whole = sequence.prompt // self._prefixes.block_tokens
        path = self._prefixes.path(sequence.slot, at_ns, sequence.blocks[:whole], new.num_computed_tokens)
        sequence.blocks = ()
        if path is not None:
            self._out.append(path)

    def _place(self, sequence: Sequence, name: str, count: int, context: int) -> None:
        """Put one who is not in the cohort into this step: a decode of one token enters it."""
        if count == 1 and context >= sequence.prompt:
            self._cohort.enter(name, sequence.slot, context)
        else:
            self._cohort.item(name, sequence.slot, count, context)

    def _unobserved(self, name: str, prompt_tokens: int, at_ns: int) -> Sequence:
        self._out.append(self._sequences.add_unobserved(name, prompt_tokens, at_ns))
        return self._sequences.known[name]

    def _encoder(self, inputs: dict[str, list[int]]) -> tuple[tuple[int, int], ...]:
        """Encoder work of a step: (slot, tokens) of each sequence that has some."""
        work = []
        for name, indices in inputs.items():
            sequence = self._sequences.known.get(name)
            if sequence is not None:
                sizes = sequence.encoder
                work.append((sequence.slot, sum(sizes[i] for i in indices if i < len(sizes))))
        return tuple(work)
