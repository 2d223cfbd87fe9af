"""Why one request cost what it did: sentences, and bars beside the median request of its tenant and model."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from costtrace.core.units import show_amount, show_seconds
from costtrace.ledger.answers import Fit, Request
from costtrace.reports.evidence.model import basis
from costtrace.reports.output.render import clean
from costtrace.reports.output.tables import Row, Table, brief, per_cent
from costtrace.reports.requests.tables import request_energy, request_fields
from costtrace.reports.requests.why import Peers, Usual, why

WIDTH = 46
"""Characters of the longest bar."""
AS_PER_NS = 10**9


class Measure(NamedTuple):
    """One quantity of a request and of the median one. None: not known."""

    name: str
    own_ns: int | None
    usual_ns: float | None


class Explanation(NamedTuple):
    """One part of a request, explained."""

    request: Request
    usual: Usual | None
    why: str
    sentences: tuple[str, ...]
    measures: tuple[Measure, ...]
    saved_ns: int | None
    """What the cache saved it at most, by the engine's model; None: there is no model."""
    whole: Request | None = None
    """All of the request, before the first of its several parts."""


def explain(request: Request, peers: Peers, fit: Fit | None) -> Explanation:
    """Explain one part; *fit*: its engine's step model."""
    usual = peers.get((request.tenant, request.model))
    saved_ns = saved_by_cache_ns(request, fit)
    reason = why(request, usual)
    sentences = (
        _cost(request, usual),
        f"Why: {reason}.",
        _queue(request),
        _prefill(request),
        _decode(request, usual),
        _cache(request, saved_ns),
        _prefix(request),
        _head(request),
        _waste(request),
        _method(request, fit),
    )
    return Explanation(request, usual, reason, tuple(s for s in sentences if s), _measures(request, usual), saved_ns)


def as_text(explanation: Explanation, bar: str) -> str:
    """An explanation for a terminal; *bar* is what bars are made of."""
    request, usual = explanation.request, explanation.usual
    lines = [] if explanation.whole is None else [_all_parts(explanation.whole), ""]
    where = f"{request.tenant}, {request.model}, on engine {request.engine_id}"
    lines += [f"Request {brief(request.request_id)}: {where}", ""]
    lines += [f"  {sentence}" for sentence in explanation.sentences]
    lines += ["", *_plot(explanation.measures, bar)]
    if usual is not None and usual.requests > 1:
        lines += ["", f"  lower bar: the median of {usual.requests:,} requests of this tenant and model"]
    else:
        lines += ["", "  There is no other request of this tenant and model to compare it with."]
    return "\n".join(clean(line) for line in lines) + "\n"


def _all_parts(whole: Request) -> str:
    cost = show_amount(whole.cost_nano, whole.currency or None)
    return (
        f"Request {brief(whole.request_id)} has {whole.parts} parts, explained below. Together: {whole.input_tokens:,} "
        f"prompt tokens, {whole.output_tokens:,} output tokens, GPU time {show_seconds(whole.gpu_ns)}, cost {cost} "
        "without idle."
    )


def table(explanations: Sequence[Explanation]) -> Table[Explanation]:
    """Explanations for JSON."""
    return Table("explanations", "Explanations", (), explanations, _exact)


def _exact(explanation: Explanation) -> Row:
    row = request_fields(explanation.request)
    row |= {
        "why": explanation.why,
        "sentences": explanation.sentences,
        "cache_saved_at_most_ns": explanation.saved_ns,
        "peers": explanation.usual.requests if explanation.usual is not None else 0,
    }
    for measure in explanation.measures:
        name = measure.name.replace(" ", "_").lower()
        row[f"median_{name}_ns"] = None if measure.usual_ns is None else round(measure.usual_ns)
    return row


# -- sentences --------------------------------------------------------------------------------------------------


def _cost(request: Request, usual: Usual | None) -> str:
    cost = show_amount(request.cost_nano, request.currency or None)
    energy = request_energy(request)
    text = f"GPU time {show_seconds(request.gpu_ns)}, energy {energy}, cost {cost} without idle."
    if request.rerated:
        first = show_amount(request.first_cost_nano, request.first_currency or None)
        text += f" It was first given {first}, as on its span; re-rating {request.rerated} changed that."
    if usual is not None and usual.requests > 1 and usual.gpu_ns > 0:
        text += f" That is {request.gpu_ns / usual.gpu_ns:.1f} x the median GPU time."
    return text


def _queue(request: Request) -> str:
    if not request.scheduled_ns:
        return "Queue: it never ran."
    return f"Queue: it waited {show_seconds(request.scheduled_ns - request.arrived_ns)}, which costs nothing."


def _prefill(request: Request) -> str:
    share = per_cent(request.prefill_ns, request.gpu_ns)
    elsewhere = ", counted with another part" if request.counted_input == 0 and request.input_tokens else ""
    return f"Prefill: {request.input_tokens:,} prompt tokens{elsewhere}, {show_seconds(request.prefill_ns)} ({share})."


def _decode(request: Request, usual: Usual | None) -> str:
    share = per_cent(request.decode_ns, request.gpu_ns)
    text = f"Decode: {request.output_tokens:,} output tokens, {show_seconds(request.decode_ns)} ({share})."
    if request.steps:
        batch = request.batch_milli / 1_000
        others = f" (usually {usual.batch_milli / 1_000:.1f})" if usual is not None and usual.requests > 1 else ""
        text += f" {batch:.1f} sequences shared each of its {request.steps:,} steps on average{others}."
    return text


def _cache(request: Request, saved_ns: int | None) -> str:
    if not request.cached_tokens:
        return "Cache: nothing of its prompt was in the prefix cache."
    text = f"Cache: {request.cached_tokens:,} tokens of its prompts were in the prefix cache"
    if saved_ns is None:
        return f"{text}; what that saved is not known, its engine's model is not."
    return f"{text}. To compute them would have cost up to {show_seconds(saved_ns)} more, by its engine's model."


def _prefix(request: Request) -> str:
    moved_ns = request.prefix_ns
    if not moved_ns:
        return ""
    if moved_ns > 0:
        return f"Prefix: {show_seconds(moved_ns)} of that is its part of prompts that others computed and it found."
    return f"Prefix: others found what it computed, and took over {show_seconds(-moved_ns)} of it."


def _head(request: Request) -> str:
    if request.head_ns is None or not request.gpu_ns:
        return ""
    share = per_cent(request.head_ns, request.gpu_ns)
    return (
        f"Head fees: {show_seconds(request.head_ns)} ({share}) is its share of what every step does once (launch, "
        "reading the weights): the fuller the batch, the less."
    )


def _waste(request: Request) -> str:
    if not request.wasted_ns:
        return "Wasted: nothing."
    share = per_cent(request.wasted_ns, request.gpu_ns)
    return (
        f"Wasted: {show_seconds(request.wasted_ns)} ({share}) served nobody in the end: computed again, after its end, "
        "or for a stream that was aborted."
    )


def _method(request: Request, fit: Fit | None) -> str:
    text = f"Shared by: {request.method or 'nothing: it was in no step'}"
    if fit is None:
        return f"{text}."
    error = getattr(fit.row, f"{request.method}_error_ppm", None)
    mean = "" if error is None else f", whose predictions of a step's time are {error / 10_000:.1f} % off on average"
    return f"{text}{mean} ({basis(fit)})."


def saved_by_cache_ns(request: Request, fit: Fit | None) -> int | None:
    """GPU time that computing the cached tokens would have added, at most; None: there is no model.

    The most is added in steps that are bound by compute; where a step waits for its weights, a token adds less.
    """
    if fit is None:
        return None
    cached = request.cached_tokens
    wall_as = cached * fit.row.token_as + cached * cached // 2 * fit.row.attention_as
    return wall_as * fit.devices // AS_PER_NS


# -- bars -------------------------------------------------------------------------------------------------------


def _measures(request: Request, usual: Usual | None) -> tuple[Measure, ...]:
    queue_ns = request.scheduled_ns - request.arrived_ns if request.scheduled_ns else None
    pairs: list[tuple[str, int | None, Callable[[Usual], float | None]]] = [
        ("GPU time", request.gpu_ns, lambda peer: peer.gpu_ns),
        ("prefill", request.prefill_ns, lambda peer: peer.prefill_ns),
        ("decode", request.decode_ns, lambda peer: peer.decode_ns),
        ("head fees", request.head_ns, lambda peer: peer.head_ns),
        ("wasted", request.wasted_ns, lambda peer: peer.wasted_ns),
        ("queue", queue_ns, lambda peer: peer.queue_ns),
    ]
    peer = usual if usual is not None and usual.requests > 1 else None
    return tuple(Measure(name, ns, None if peer is None else median_ns(peer)) for name, ns, median_ns in pairs)


def _plot(measures: Sequence[Measure], bar: str) -> list[str]:
    """Bars of GPU time on one scale; the queue, which is wall time and can be far longer, on its own."""
    lines = []
    for group in ([m for m in measures if m.name != "queue"], [m for m in measures if m.name == "queue"]):
        longest = max([*(m.own_ns or 0 for m in group), *(m.usual_ns or 0 for m in group), 1])
        for measure in group:
            lines.append(_bar(measure.name, measure.own_ns, longest, bar))
            if measure.usual_ns is not None:
                lines.append(_bar("", measure.usual_ns, longest, "-"))
    return lines


def _bar(name: str, value: float | None, longest: float, bar: str) -> str:
    if value is None:
        return f"  {name:<10} unknown"
    length = round(WIDTH * value / longest)
    return f"  {name:<10} {bar * max(length, 1 if value else 0):<{WIDTH}} {show_seconds(round(value))}"
