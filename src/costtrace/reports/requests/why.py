"""Why a request cost what it did, in words: what sets it apart from the median request of its tenant and model."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from costtrace.core.units import NS_PER_S, show_seconds
from costtrace.ledger.answers import Habit, Request

APART = 1.5
"""A ratio to the median from which on it is a reason."""
CACHE_APART = 0.25
"""How much less of the prompt in the cache (0 to 1) is a reason."""
ABORTED = frozenset({"abort", "interrupted", "error", "lost"})
WASTE_PER_CENT = 5


class Usual(NamedTuple):
    """The median request of a tenant and model."""

    requests: int
    gpu_ns: float
    input_tokens: float
    output_tokens: float
    cached_share: float
    """Of the prompt's tokens, 0 to 1."""
    batch_milli: float
    queue_ns: float = 0.0
    prefill_ns: float = 0.0
    decode_ns: float = 0.0
    wasted_ns: float = 0.0
    head_ns: float | None = None
    """None: it is not known of any of them."""


Peers = Mapping[tuple[str, str], Usual]


def usual(habits: Iterable[Habit], wanted: Iterable[tuple[str, str]]) -> Peers:
    """Medians of the *wanted* tenants and models."""
    peers: dict[tuple[str, str], list[Habit]] = {key: [] for key in wanted}
    for habit in habits:
        if (group := peers.get((habit.tenant, habit.model))) is not None:
            group.append(habit)
    return {key: _median(group) for key, group in peers.items() if group}


def _median(group: Sequence[Habit]) -> Usual:
    return Usual(
        len(group),
        median(habit.gpu_ns for habit in group),
        median(habit.input_tokens for habit in group),
        median(habit.output_tokens for habit in group),
        median(_share(habit.cached_tokens, habit.input_tokens) for habit in group),
        median(habit.batch_milli for habit in group),
        median(habit.queue_ns for habit in group),
        median(habit.prefill_ns for habit in group),
        median(habit.decode_ns for habit in group),
        median(habit.wasted_ns for habit in group),
        median(heads) if (heads := [habit.head_ns for habit in group if habit.head_ns is not None]) else None,
    )


def why(request: Request, peer: Usual | None) -> str:
    """One line: the reasons of its cost, the largest first."""
    reasons = [*_by_itself(request), *(_against(request, peer) if peer is not None else [])]
    if not reasons and peer is not None and peer.requests > 1:
        times = _times(request.gpu_ns, peer.gpu_ns)
        reasons = [f"{times} x the median GPU time, by a little of everything" if times else "near the median"]
    return "; ".join([*(reasons or ["nothing to compare it with"]), *_waited(request)])


def _by_itself(request: Request) -> list[str]:
    """What needs no comparison."""
    reasons = []
    wasted = f"{_per_cent(request.wasted_ns, request.gpu_ns)} % of it wasted"
    ends = sorted(ABORTED.intersection(request.finish_reasons))
    if ends:
        reasons.append(f"ended by {' and '.join(ends)}: {wasted}")
    if request.preemptions:
        times = "once" if request.preemptions == 1 else f"{request.preemptions} times"
        waste = "" if ends else f", {wasted}"
        reasons.append(f"preempted {times} and computed again{waste}")
    elif not ends and _per_cent(request.wasted_ns, request.gpu_ns) >= WASTE_PER_CENT:
        reasons.append(f"{wasted}: computed after its end, or again")
    if request.sequences > 1:
        reasons.append(f"{request.sequences} sequences")
    return reasons


def _against(request: Request, peer: Usual) -> list[str]:
    """What sets it apart from its peers, the largest ratio first."""
    reasons: list[tuple[float, str]] = []
    prompt, output = _ratio(request.input_tokens, peer.input_tokens), _ratio(request.output_tokens, peer.output_tokens)
    batch = _ratio(peer.batch_milli, request.batch_milli)
    if prompt >= APART:
        reasons.append((prompt, f"long prompt: {request.input_tokens:,} tokens, {prompt:.1f} x the median"))
    if output >= APART:
        reasons.append((output, f"long output: {request.output_tokens:,} tokens, {output:.1f} x the median"))
    if batch >= APART:
        mean, usual_batch = request.batch_milli / 1_000, peer.batch_milli / 1_000
        reasons.append((batch, f"small batch: {mean:.1f} sequences shared its steps, usually {usual_batch:.1f}"))
    cached = _share(request.cached_tokens, request.input_tokens)
    if peer.cached_share - cached >= CACHE_APART:
        share = f"{round(100 * cached)} % of its prompt was cached, usually {round(100 * peer.cached_share)} %"
        reasons.append((1 + peer.cached_share - cached, f"cache miss: {share}"))
    return [reason for _, reason in sorted(reasons, reverse=True)]


def _waited(request: Request) -> list[str]:
    """Waiting costs nothing, but who asks about a costly request wants to know."""
    if not request.scheduled_ns:
        return ["it never ran"]
    queue_ns = request.scheduled_ns - request.arrived_ns
    return [f"waited {show_seconds(queue_ns)} in the queue (that costs nothing)"] if queue_ns >= NS_PER_S else []


def _times(value: float, usual_value: float) -> str:
    ratio = _ratio(value, usual_value)
    return f"{ratio:.1f}" if ratio >= APART else ""


def _ratio(value: float, other: float) -> float:
    return value / other if other > 0 else 0.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _per_cent(part: int, whole: int) -> int:
    return round(100 * part / whole) if whole else 0
