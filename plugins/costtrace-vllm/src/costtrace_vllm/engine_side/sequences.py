"""The sequences of one engine, from their arrival to their last step in flight. Pure.

A hook notes an arrival, an end, or the tokens that were delivered; here each becomes an event of the journal. The
engine's batches name a sequence by the engine's own id, the journal's steps by a small number: its slot.
"""

from collections import OrderedDict, abc
from collections.abc import Hashable
from typing import Any, Final

import msgspec

from costtrace.core.client_text import MOST, short, writable
from costtrace.core.events import Delivered, SequenceAdded, SequenceFinished
from costtrace.core.rows import local_key
from costtrace_vllm import request_context
from costtrace_vllm.request_context import RequestContext

ADDED: Final = "added"
"""``(ADDED, internal id, context header or None, prompt tokens, LoRA name or '', is pooling, hashes of its blocks)``"""
FREED: Final = "freed"
"""``(FREED, internal id, index of the newest step, reason, output tokens, preemptions)``"""
DELIVERED: Final = "delivered"
"""``(DELIVERED, internal id, tokens, reason)``"""
OVERHEAD: Final = "overhead"
"""``(OVERHEAD, from_ns, to_ns, reason)``"""

CLOSED = 4_096
"""Ended sequences for which a late note of delivered tokens is still understood."""
UNOBSERVED = "unobserved"
LONG = 16 * MOST
"""Characters of a context that has no text of more than `MOST`, whatever its labels."""


class Sequence:
    """A sequence that is in the engine, or in a step in flight."""

    __slots__ = ("added", "blocks", "cached", "delivered", "encoder", "ended", "prompt", "slot")

    def __init__(self, added: SequenceAdded, blocks: abc.Sequence[Hashable] = ()) -> None:
        self.added = added
        self.slot = added.slot
        self.prompt = added.prompt_tokens
        self.cached = -1
        """Context at its first step, which is the prefix that the cache had; -1 before that step."""
        self.ended = False
        self.delivered = False
        self.blocks = blocks
        """Hashes of its whole blocks: the engine's own list, which grows. Dropped at its first step."""
        self.encoder: tuple[int, ...] = ()
        """Encoder tokens of each of its images or clips."""

    def meet(self, new: Any) -> None:
        """Take in a batch entry that carries the prompt: the first one, one after a preemption, or a further turn."""
        if new.prompt_token_ids is not None:
            self.prompt = len(new.prompt_token_ids)
        if self.cached < 0:
            self.cached = new.num_computed_tokens
        if new.mm_features:
            self.encoder = tuple(_encoder_tokens(feature) for feature in new.mm_features)


class Sequences:
    """All sequences of one engine that are open, and the newest that have closed."""

    def __init__(self, model: str, boot: str, tenant_default: str = "default") -> None:
        self.known: dict[str, Sequence] = {}
        """By internal id."""
        self.slots: dict[str, int] = {}
        """The slots of `known`."""
        self.ending: list[tuple[str, int]] = []
        """Ended sequences that may still be in a step, up to the index beside them."""
        self._model = model
        self._boot = boot
        self._default = tenant_default
        """Who pays for a sequence that came without a context."""
        self._slots = 0
        self._closed: OrderedDict[str, int] = OrderedDict()

    def add(
        self,
        at_ns: int,
        name: str,
        header: str | None,
        prompt_tokens: int,
        lora: str,
        pooling: bool,  # noqa: FBT001 - a field of the note
        blocks: abc.Sequence[Hashable] = (),
    ) -> SequenceAdded:
        """Take in a sequence that has reached the engine."""
        context = request_context.decode(header) if header else None
        if context is None:  # the front end has no costtrace, or is not in Python
            request_id = short(request_context.response_id(request_context.external_of(name), pooling=pooling))
            operation = request_context.operation_of("", request_id, pooling=pooling)
            key, prompt = local_key(request_id), short(name)
            context = RequestContext(key, request_id, prompt, operation, self._default, "default:no-context")
        elif len(header or "") > LONG:  # another front end's: costtrace's own has cut each text
            context = msgspec.convert(writable(context), RequestContext)
        if name in self.known:  # ids can be used again where vLLM's random suffix is switched off
            self.forget(name)
        added = SequenceAdded(
            slot=self._slot(),
            at_ns=at_ns,
            sequence_id=name if len(name) <= MOST else short(name),
            request_id=context.request_id,
            request_key=context.request_key,
            prompt_key=context.prompt_key,
            prompt_tokens=prompt_tokens,
            model=short(lora) if lora else self._model,
            tenant=context.tenant,
            tenant_source=context.tenant_source,
            operation=context.operation,
            arrived_ns=context.arrived_ns if context.boot == self._boot else 0,
            traceparent=context.traceparent,
            user=context.user,
            labels=context.labels,
            role=context.role,
            elsewhere=context.elsewhere,
        )
        self.known[name] = Sequence(added, blocks)
        self.slots[name] = added.slot
        return added

    def add_unobserved(self, name: str, prompt_tokens: int, at_ns: int) -> SequenceAdded:
        """Take in a sequence whose note of arrival was dropped: its tokens are in the steps, its tenant is unknown."""
        request_id, sequence_id = short(request_context.external_of(name)), short(name)
        added = SequenceAdded(
            slot=self._slot(),
            at_ns=at_ns,
            sequence_id=sequence_id,
            request_id=request_id,
            request_key=local_key(request_id),
            prompt_key=sequence_id,
            prompt_tokens=prompt_tokens,
            model=self._model,
            tenant="",
            tenant_source=UNOBSERVED,
        )
        self.known[name] = Sequence(added)
        self.slots[name] = added.slot
        return added

    def finish(
        self, at_ns: int, name: str, last_step: int, reason: str, output_tokens: int, preemptions: int
    ) -> SequenceFinished | None:
        """End a sequence; None if it is not known, or has ended."""
        sequence = self.known.get(name)
        if sequence is None or sequence.ended:
            return None
        sequence.ended = True
        self.ending.append((name, last_step))
        cached = max(sequence.cached, 0)
        return SequenceFinished(sequence.slot, at_ns, last_step, reason, output_tokens, cached, preemptions)

    def deliver(self, at_ns: int, name: str, tokens: int, reason: str) -> Delivered | None:
        """Note what the client got; None where the sequence is unknown or has such a note: vLLM repeats aborts."""
        sequence = self.known.get(name)
        if sequence is None:
            slot = self._closed.pop(short(name), None)
            return None if slot is None else Delivered(slot, at_ns, reason, tokens)
        if sequence.delivered:
            return None
        sequence.delivered = True
        return Delivered(sequence.slot, at_ns, reason, tokens)

    def forget(self, name: str) -> None:
        """Drop a sequence that can be in no further step."""
        sequence = self.known.pop(name)
        del self.slots[name]
        self.ending = [ending for ending in self.ending if ending[0] != name]
        if not sequence.delivered:
            self._closed[sequence.added.sequence_id] = sequence.slot
            if len(self._closed) > CLOSED:
                self._closed.popitem(last=False)

    def _slot(self) -> int:
        self._slots += 1
        return self._slots


def _encoder_tokens(feature: Any) -> int:
    """Encoder tokens of one image or clip; 0 where this vLLM does not expose them."""
    position = getattr(feature, "mm_position", None)
    count = getattr(position, "get_num_embeds", None)
    return int(count() if callable(count) else getattr(position, "length", 0))
