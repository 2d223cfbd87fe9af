"""From what the hooks recorded to the journal's events. Pure: imports no vLLM, reads no clock, fails on no batch.

A step's batch is vLLM's own ``SchedulerOutput``, kept by reference. Most steps continue the one before, so the
translator predicts: everybody who was in the last step is in this one, in the same order, and each context has grown
by the tokens that were computed. Ended sequences are taken out, new ones stand at the end. The prediction is checked
with a few comparisons that run in C (the list of ids, the sum of contexts, the count of tokens); what does not match is
worked out from the whole batch. A context can only fall short of its prediction (rejected drafts, a preemption, a
failed load of KV), so that an equal sum means that every one of them is as predicted.
"""

from collections.abc import Iterable
from typing import Any

from costtrace.capture.prefix_numbers import PrefixNumbers
from costtrace.capture.recorder import STEP, Record
from costtrace.core.events import Event, Lost, Overhead, Snapshot, Step
from costtrace.core.guard import swallow
from costtrace_vllm.engine_side.sequences import ADDED, DELIVERED, FREED, OVERHEAD, UNOBSERVED, Sequence, Sequences

Enters = list[tuple[int, int]]
Items = list[tuple[int, int, int]]


class Translator:
    """Turns one engine's records into events; remembers who is in the batch."""

    def __init__(self, model: str, boot: str = "", prefixes: PrefixNumbers | None = None) -> None:
        self._sequences = Sequences(model, boot)
        self._prefixes = prefixes
        """None: who found which cached blocks is not recorded."""
        self._next_index = 0
        self._turn = 0
        """Steps so far in which the cohort advanced."""
        self._members: dict[str, int] = {}
        """Who was in the last step, in order; the context that is expected of them in the next one, minus `_turn`."""
        self._sum = 0
        """Of the values of `_members`."""
        self._outside: dict[str, None] = {}
        """Members that were not in the cohort in the last step."""
        self._order: list[str] | None = None
        """`_members` as a list, if it is known and all of them are in the cohort."""
        self._leaves: list[int] = []
        """Slots that are to leave the cohort with the next step."""
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
        """All that the events so far left standing. What has ended is left out, even if it is still in flight."""
        known, turn = self._sequences.known, self._turn
        return Snapshot(
            sequence,
            at_ns,
            self._next_index,
            tuple(s.added for s in known.values() if not s.ended),
            tuple(
                (known[name].slot, base + turn)
                for name, base in self._members.items()
                if name not in self._outside and not known[name].ended
            ),
        )

    def _note(self, record: Record) -> None:
        at_ns, what, *rest = record[1:]
        event: Event | None = None
        if what == ADDED:
            if rest[0] in self._sequences.known:
                self._drop(rest[0])
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
        """A record that could not be read: say so, and begin the cohort anew with the next step."""
        self._leaves = [sequence.slot for sequence in self._sequences.known.values()]
        self._members, self._outside, self._sum, self._order = {}, {}, 0, None
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
        cached = batch.scheduled_cached_reqs
        if (
            self._order == cached.req_ids
            and batch.total_num_scheduled_tokens == len(tokens) == len(self._members)
            and sum(cached.num_computed_tokens) == self._sum + self._turn * len(self._members)
            and not batch.scheduled_encoder_inputs
        ):
            self._turn += 1
            self._out.append(Step(index, scheduled_ns, done_ns))
            return
        if self._sequences.ending:
            self._take_ended(index, tokens)
        predicted = self._predict(batch)
        if predicted:
            enters, items = self._advance(batch, scheduled_ns)
        elif self._is_scattered(batch):
            enters, items = self._list(batch, scheduled_ns)
        else:
            enters, items = self._compare(batch, scheduled_ns)
        self._last = tokens
        encoder = self._encoder(batch.scheduled_encoder_inputs) if batch.scheduled_encoder_inputs else ()
        self._turn += 1
        self._order = None if self._outside else list(self._members)
        leaves, self._leaves = tuple(self._leaves), []
        self._out.append(Step(index, scheduled_ns, done_ns, leaves, tuple(enters), tuple(items), encoder))

    def _check_finished(self, names: Iterable[str], index: int, at_ns: int) -> None:
        """VLLM says in the next batch who has ended: for those whose own note was dropped or cannot be had."""
        for name in names:
            sequence = self._sequences.known.get(name)
            if sequence is None or sequence.ended:
                continue
            context = self._members[name] + self._turn if name in self._members else 0
            estimate = max(0, context - sequence.prompt + 1)
            event = self._sequences.finish(at_ns, name, index - 1, UNOBSERVED, estimate, 0)
            if event is not None:
                self._out.append(event)

    def _take_ended(self, index: int, tokens: dict[str, int]) -> None:
        """Ended sequences leave with the first step that they are not in."""
        for name, last_step in list(self._sequences.ending):
            if index > last_step:
                self._drop(name)
                self._sequences.forget(name)
            elif name not in tokens:
                self._drop(name)

    def _drop(self, name: str) -> None:
        """Take a member out of the last step's batch."""
        base = self._members.pop(name, None)
        if base is None:
            return
        self._sum -= base
        self._order = None
        if name in self._outside:
            del self._outside[name]
        else:
            self._leaves.append(self._sequences.known[name].slot)

    def _predict(self, batch: Any) -> bool:
        """Whether the batch is the last one, gone on, and new sequences. Who is not in it any more is dropped."""
        members, tokens = self._members, batch.num_scheduled_tokens
        cached = batch.scheduled_cached_reqs
        if list(members) != cached.req_ids:
            for name in members.keys() - tokens.keys():
                self._drop(name)
            if list(members) != cached.req_ids:
                return False
        if sum(cached.num_computed_tokens) != self._sum + self._turn * len(members):
            return False
        # Whoever is in the cohort has one token, if all others have what is left.
        more = sum(tokens[name] - 1 for name in self._outside)
        more += sum(tokens[new.req_id] - 1 for new in batch.scheduled_new_reqs)
        return bool(batch.total_num_scheduled_tokens == len(tokens) + more)

    def _advance(self, batch: Any, at_ns: int) -> tuple[Enters, Items]:
        """Who enters the cohort and who else takes part, in a batch that is as predicted."""
        members, turn, tokens = self._members, self._turn, batch.num_scheduled_tokens
        known = self._sequences.known
        enters: Enters = []
        items: Items = []
        for name in list(self._outside):
            sequence, count, context = known[name], tokens[name], members[name] + turn
            if count == 1 and context >= sequence.prompt:
                enters.append((sequence.slot, context))
                del self._outside[name]
            else:
                items.append((sequence.slot, count, context))
                members[name] += count - 1
                self._sum += count - 1
        self._take_new(batch, at_ns, enters, items)
        return enters, items

    def _is_scattered(self, batch: Any) -> bool:
        """Whether a cohort would only come and go: most have drafts to check, or the batch shares nobody with the last.

        The second is pipeline parallelism, where batches take turns.
        """
        tokens = batch.num_scheduled_tokens
        cached = len(batch.scheduled_cached_reqs.req_ids)
        if 2 * list(tokens.values()).count(1) < cached:
            return True
        return bool(self._last) and cached > 0 and self._last.keys().isdisjoint(tokens)

    def _list(self, batch: Any, at_ns: int) -> tuple[Enters, Items]:
        """All of the batch as items, nobody in the cohort. Loops in C: such batches may come at every step."""
        cached, tokens, slots = batch.scheduled_cached_reqs, batch.num_scheduled_tokens, self._sequences.slots
        if self._members:
            known = self._sequences.known
            self._leaves += [known[name].slot for name in self._members if name not in self._outside]
            self._members, self._outside, self._sum = {}, {}, 0
        names = cached.req_ids
        try:
            found = list(map(slots.__getitem__, names))
        except KeyError:
            found = [slots[n] if n in slots else self._unobserved(n, 0, at_ns).slot for n in names]
        enters: Enters = []
        items: Items = list(zip(found, map(tokens.__getitem__, names), cached.num_computed_tokens, strict=True))
        self._take_new(batch, at_ns, enters, items)
        return enters, items

    def _compare(self, batch: Any, at_ns: int) -> tuple[Enters, Items]:
        """Who enters the cohort and who else takes part, from the whole batch; who left goes to `_leaves`."""
        cached, tokens, known = batch.scheduled_cached_reqs, batch.num_scheduled_tokens, self._sequences.known
        outside, turn = self._outside, self._turn
        old = {name: base for name, base in self._members.items() if name not in outside}
        self._members, self._outside, self._sum = {}, {}, 0
        slots = {name: known[name].slot for name in old}
        enters: Enters = []
        items: Items = []
        for name, context in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            sequence = known.get(name) or self._unobserved(name, 0, at_ns)
            count = tokens[name]
            if count == 1 and old.get(name) == context - turn and context >= sequence.prompt:
                self._members[name] = old.pop(name)
                self._sum += context - turn
            else:
                self._place(sequence, name, count, context, enters, items)
        self._take_new(batch, at_ns, enters, items)
        self._leaves += [slots[name] for name in old]
        return enters, items

    def _take_new(self, batch: Any, at_ns: int, enters: Enters, items: Items) -> None:
        for new in batch.scheduled_new_reqs:
            name = new.req_id
            sequence = self._sequences.known.get(name)
            if sequence is None:
                sequence = self._unobserved(name, len(new.prompt_token_ids or ()), at_ns)
            if self._prefixes is not None and sequence.blocks and sequence.cached < 0:
                self._find(sequence, new, at_ns)
            sequence.meet(new)
            self._place(sequence, name, batch.num_scheduled_tokens[name], new.num_computed_tokens, enters, items)

    def _find(self, sequence: Sequence, new: Any, at_ns: int) -> None:
        """Its first step: what of its prompt the prefix cache had, and what it will compute."""
        assert self._prefixes is not None
        whole = sequence.prompt // self._prefixes.block_tokens
        path = self._prefixes.path(sequence.slot, at_ns, sequence.blocks[:whole], new.num_computed_tokens)
        sequence.blocks = ()
        if path is not None:
            self._out.append(path)

    def _place(self, sequence: Sequence, name: str, count: int, context: int, enters: Enters, items: Items) -> None:
        """Put one who is not in the cohort into this step."""
        if count == 1 and context >= sequence.prompt:
            enters.append((sequence.slot, context))
        else:
            items.append((sequence.slot, count, context))
            self._outside[name] = None
        base = context + count - 1 - self._turn
        self._members[name] = base
        self._sum += base

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
