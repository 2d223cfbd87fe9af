"""Joins the parts of a request to one total (docs/method/rules.md, 4.11; docs/dynamo.md). Pure.

A request can be worked on by several engines: one computes the prompt (role `prefill`), one the answer (`decode`), and
where a worker is lost, another one goes on. Each leaves a usage record, a *part*, with the same request key. Parts come
in any order and from different nodes, and stay as they are: times, energy and money of a request are sums of theirs.
What is worked out is what no single engine can know: which attempt a part was, how many tokens the client got, what was
done twice, and whether all parts are in.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from costtrace.core.rows import DISAGGREGATED, JOINED
from costtrace.ledger.answers import Request
from costtrace.ledger.wholes import LOCAL, whole_key
from costtrace.reports.usage.summary import whole_sum

PREFILL, DECODE = "prefill", "decode"
_STAGED = (JOINED, DISAGGREGATED)
"""How keys begin by which the stages of a request, and attempts at them, are known."""
BROKEN_OFF = frozenset({"interrupted", "lost"})
"""Ends after which another worker may have gone on."""
IN_VAIN = frozenset({"abort", "error"}) | BROKEN_OFF
"""Ends after which the client has no complete answer."""

Finality = Literal["provisional", "final"]


class RecordedPart(NamedTuple):
    """One part as the ledger has it, and the worker that did it."""

    record: Request
    worker: str
    saved_ns: int | None = None
    """GPU time that the prefix cache saved it at most, by its engine's model; None: there is no model."""


class Attempt(NamedTuple):
    """A part as one of the attempts at its request."""

    part: RecordedPart
    number: int
    """Which attempt at its stage it was, from 1: prefill is one stage, the answer the other."""
    output_tokens: int
    """Of the answer that the client got, what this part produced."""
    wasted_ns: int
    """The part of its GPU time that served nobody, or was done before."""


class Whole(NamedTuple):
    """A request with all its parts."""

    request_key: str
    request_id: str
    tenant: str
    model: str
    traceparent: str
    attempts: tuple[Attempt, ...]
    """In the order in which they began."""
    arrived_ns: int
    ended_ns: int
    gpu_ns: int
    prefill_ns: int
    decode_ns: int
    wasted_ns: int
    energy_uj: int | None
    """None: of one part at least it is not known."""
    gap_ns: int
    """Part of `gpu_ns` whose energy is not known; named as the ledger's column, as in the JSON of one part."""
    cost_nano: int | None
    currency: str
    input_tokens: int
    cached_tokens: int
    """Of the prompt, what a prefix cache saved the computing of, at the first attempt."""
    saved_ns: int | None
    """GPU time that those saved at most, by the engine's step model; None: there is no model."""
    saved_nano: int | None
    """The same at the price of the part that hit: its cost for its GPU time."""
    transferred_tokens: int
    """Context that a decode worker got from a prefill worker and did not compute, at its first attempt."""
    output_tokens: int
    computed_tokens: int
    finality: Finality
    notes: tuple[str, ...]
    """What is missing, was lost, or does not agree."""

    def share(self, role: str) -> tuple[int, int | None]:
        """GPU time (ns) and cost (nano-units) of what one role did for it."""
        mine = [attempt.part.record for attempt in self.attempts if attempt.part.record.role == role]
        return sum(record.gpu_ns for record in mine), whole_sum(record.cost_nano for record in mine)


def join(parts: Iterable[RecordedPart], now_ns: int, wait_ns: int) -> list[Whole]:
    """Put parts together by request, newest end first. *now_ns* is wall time. Tenants' parts are never put together.

    A request is provisional while something is expected that has not come, at most *wait_ns* after its newest part.
    """
    recorded = {part.record.record_id: part for part in parts}  # one that two nodes have counts once
    spread = {(part.record.tenant, part.record.request_key) for part in recorded.values() if part.record.part > 1}
    by_key: dict[tuple[str, str], list[RecordedPart]] = {}
    by_request: dict[tuple[str, str], list[str]] = {}
    for name, part in recorded.items():
        tenant, key, source = part.record.tenant, part.record.request_key, part.record.tenant_source
        joined = key.startswith(_STAGED) and (part.record.part == 1 or part.record.role == PREFILL or "/" in key)
        # Engines that share the sequences of a request have no stages: each part is whole by itself.
        by_key.setdefault((tenant, key if joined else name), []).append(part)
        whole = whole_key(key) if joined or ((tenant, key) in spread and source not in LOCAL) else name
        by_request.setdefault((tenant, whole), []).append(key if joined else name)
    wholes = [
        _together(whole, [_join(key, by_key[tenant, key], now_ns, wait_ns) for key in dict.fromkeys(keys)])
        for (tenant, whole), keys in by_request.items()
    ]
    return sorted(wholes, key=lambda whole: (-whole.ended_ns, whole.request_key))


def _together(key: str, wholes: list[Whole]) -> Whole:
    """The request of prompts or sequences that engines worked on beside each other: sums of theirs."""
    if len(wholes) == 1:
        return wholes[0]
    wholes.sort(key=lambda whole: (whole.attempts[0].part.record.part, whole.arrived_ns, whole.request_key))
    one_currency = len({whole.currency for whole in wholes}) == 1
    added = ("gpu_ns", "prefill_ns", "decode_ns", "wasted_ns", "gap_ns", "transferred_tokens", "output_tokens")
    sums: dict[str, Any] = {name: sum(getattr(whole, name) for whole in wholes) for name in added}
    sums |= {name: whole_sum(getattr(whole, name) for whole in wholes) for name in ("energy_uj", "saved_ns")}
    money = ("cost_nano", "saved_nano")
    sums |= {name: whole_sum(getattr(whole, name) for whole in wholes) if one_currency else None for name in money}
    return wholes[0]._replace(
        **sums,
        request_key=key,
        attempts=tuple(attempt for whole in wholes for attempt in whole.attempts),
        arrived_ns=min(whole.arrived_ns for whole in wholes),
        ended_ns=max(whole.ended_ns for whole in wholes),
        currency=wholes[0].currency if one_currency else "",
        input_tokens=sum(_counted(whole, "input") for whole in wholes),
        cached_tokens=sum(_counted(whole, "cached") for whole in wholes),
        computed_tokens=sum(whole.computed_tokens for whole in wholes),
        finality=max(whole.finality for whole in wholes),  # provisional, where one is
        notes=tuple(dict.fromkeys(note for whole in wholes for note in whole.notes)),
    )


def _counted(whole: Whole, kind: Literal["input", "cached"]) -> int:
    """Tokens of a prompt, but 0 where they are counted with sequences on another engine."""
    record = whole.attempts[0].part.record
    counted = None if whole.request_key.startswith(_STAGED) else getattr(record, f"counted_{kind}")
    return int(getattr(whole, f"{kind}_tokens") if counted is None else counted)


def _join(key: str, parts: list[RecordedPart], now_ns: int, wait_ns: int) -> Whole:
    parts.sort(key=lambda part: (part.record.arrived_ns, part.record.role != PREFILL, part.record.record_id))
    prefills = [part for part in parts if part.record.role == PREFILL]
    answers = [part for part in parts if part.record.role != PREFILL]
    records = [part.record for part in parts]
    kept = _kept(answers)
    last = answers[-1].record if answers else records[-1]
    in_vain = bool(IN_VAIN & set(last.finish_reasons))
    by_record = _attempts(answers, kept, in_vain=in_vain) | _prefill_attempts(prefills, answered=bool(answers))
    if in_vain:
        by_record = {name: one._replace(wasted_ns=one.part.record.gpu_ns) for name, one in by_record.items()}
    attempts = tuple(by_record[part.record.record_id] for part in parts)
    apart = not key.startswith(_STAGED) and records[0].role in {PREFILL, DECODE}  # the other half has another key
    missing = [] if apart else _missing(prefills, answers)
    ended_ns = max(record.ended_ns for record in records)
    provisional = bool(missing) and now_ns < ended_ns + wait_ns
    firsts = [attempt.part.record for attempt in attempts if attempt.number == 1]
    hits = [attempt.part for attempt in attempts if attempt.number == 1 and attempt.part.record.role != DECODE]
    currencies = {record.currency for record in records}
    return Whole(
        request_key=key,
        request_id=last.request_id,
        tenant=last.tenant,
        model=last.model,
        traceparent=last.traceparent,
        attempts=attempts,
        arrived_ns=min(record.arrived_ns for record in records),
        ended_ns=ended_ns,
        gpu_ns=sum(record.gpu_ns for record in records),
        prefill_ns=sum(record.prefill_ns for record in records),
        decode_ns=sum(record.decode_ns for record in records),
        wasted_ns=sum(attempt.wasted_ns for attempt in attempts),
        energy_uj=whole_sum(record.energy_uj for record in records),
        gap_ns=sum(record.energy_unknown_ns for record in records),
        cost_nano=whole_sum(record.cost_nano for record in records) if len(currencies) == 1 else None,
        currency=next(iter(currencies)) if len(currencies) == 1 else "",
        input_tokens=min(record.input_tokens for record in records),
        cached_tokens=sum(record.cached_tokens for record in firsts if record.role != DECODE),
        saved_ns=whole_sum(_saved(part)[0] for part in hits),
        saved_nano=whole_sum(_saved(part)[1] for part in hits) if len(currencies) == 1 else None,
        transferred_tokens=sum(record.cached_tokens for record in firsts if record.role == DECODE),
        output_tokens=sum(attempt.output_tokens for attempt in attempts),
        computed_tokens=sum(record.computed_tokens for record in records),
        finality="provisional" if provisional else "final",
        notes=(*_missing_notes(missing, provisional=provisional), *_disagreements(records)),
    )


def _saved(part: RecordedPart) -> tuple[int | None, int | None]:
    """What prefix hits saved a part at most: GPU time, and money at what its own GPU time cost."""
    record = part.record
    if not record.cached_tokens:
        return 0, 0
    if part.saved_ns is None or record.cost_nano is None or not record.gpu_ns:
        return part.saved_ns, None
    return part.saved_ns, part.saved_ns * record.cost_nano // record.gpu_ns


def _kept(answers: Sequence[RecordedPart]) -> list[int]:
    """Output tokens of each attempt at the answer that the client got.

    The prompt of the next attempt holds what the client has: by how much it has grown is what arrived of the attempt
    before, whatever that engine had computed on top. A prompt that has not grown begins from nothing.
    """
    tokens = [max(0, after.record.input_tokens - part.record.input_tokens) for part, after in pairwise(answers)]
    return [*tokens, answers[-1].record.output_tokens] if answers else []


def _attempts(answers: Sequence[RecordedPart], kept: Sequence[int], *, in_vain: bool) -> dict[str, Attempt]:
    """The attempts at the answer by record id, with what of them was wasted."""
    attempts: dict[str, Attempt] = {}
    for place, (part, tokens) in enumerate(zip(answers, kept, strict=True)):
        record = part.record
        # What the client has already is computed again, as a prompt.
        rework_ns = record.prefill_ns if sum(kept[:place]) else 0
        if place == len(answers) - 1:
            lost_ns = 0 if in_vain else record.wasted_ns
        elif tokens:
            # It broke off, but the client got these tokens: wasted is only what it computed beyond them.
            surplus = max(0, record.output_tokens - tokens)
            lost_ns = record.decode_ns * surplus // max(1, record.output_tokens)
        else:
            lost_ns = record.gpu_ns
        attempts[record.record_id] = Attempt(part, place + 1, tokens, min(record.gpu_ns, rework_ns + lost_ns))
    return attempts


def _prefill_attempts(prefills: Sequence[RecordedPart], *, answered: bool) -> dict[str, Attempt]:
    """The attempts at the prompt by record id. Its one token is an answer only if no decode worker went on."""
    attempts: dict[str, Attempt] = {}
    for place, part in enumerate(prefills):
        record = part.record
        is_last = place == len(prefills) - 1
        wasted_ns = record.wasted_ns
        if place and record.input_tokens > prefills[0].record.input_tokens:
            wasted_ns = record.gpu_ns  # what the client has already is computed again
        elif not is_last and prefills[place + 1].record.input_tokens == record.input_tokens:
            wasted_ns = record.gpu_ns  # it was lost before a decode worker went on from it
        tokens = record.output_tokens if is_last and not answered and not _goes_on(record) else 0
        attempts[record.record_id] = Attempt(part, place + 1, tokens, wasted_ns)
    return attempts


def _goes_on(prefill: Request) -> bool:
    """Whether a decode worker is to take over: a prefill that ends at its own limit of one token."""
    return "length" in prefill.finish_reasons


def _missing(prefills: Sequence[RecordedPart], answers: Sequence[RecordedPart]) -> list[str]:
    """The parts that should be there and are not."""
    missing = []
    if answers:
        last = answers[-1].record
        if BROKEN_OFF & set(last.finish_reasons):
            missing.append("the part that goes on after a broken one")
        if not prefills and any(part.record.role == DECODE and part.record.cached_tokens for part in answers):
            missing.append("the prefill part")
    elif prefills and (_goes_on(prefills[-1].record) or BROKEN_OFF & set(prefills[-1].record.finish_reasons)):
        missing.append("the decode part")
    return missing


def _missing_notes(missing: list[str], *, provisional: bool) -> Iterable[str]:
    how = "has not come yet" if provisional else "never came"
    return [f"{what} {how}" for what in missing]


def _disagreements(records: Sequence[Request]) -> Iterable[str]:
    """What the parts of one request should agree on, and do not."""
    for what, values in (
        ("traces", {record.traceparent[3:35] for record in records}),
        ("currencies", {record.currency for record in records}),
    ):
        if len(values) > 1:
            yield f"its parts name different {what}: {', '.join(sorted(value or 'none' for value in values))}"
