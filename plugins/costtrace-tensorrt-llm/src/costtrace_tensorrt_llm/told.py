"""What TensorRT-LLM's own objects tell of a finished request: numbers only, checked against this host's clock."""

from collections.abc import Iterator
from typing import Any

from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace_tensorrt_llm.batches import Facts, number, read
from costtrace_tensorrt_llm.settle import Ended, Times

SLACK_NS = 50 * NS_PER_MS
"""How far another process's reading of the same clock may be off before it is another clock."""
REASONS = {"stop": "stop", "length": "length", "cancelled": "abort", "timeout": "abort"}


def ended(name: int, text: str, result: Any, request: Any, seen: tuple[int, int, int]) -> Ended:
    """All that is told of *result*, a finished ``GenerationResult`` of *request*.

    *seen*: when the request was made, its first response and its last one were here (ns).
    """
    outputs = list(read(result, "_outputs", []))
    arrived_ns, first_ns, last_ns = seen
    tokens = [len(ids) for output in outputs if (ids := read(output, "token_ids"))]
    reason = str(read(outputs[0], "finish_reason", "") if outputs else "")
    times = _request_times(outputs, arrived_ns, last_ns)
    batches = tuple(_batches(read(result, "time_breakdown_metrics"), arrived_ns, last_ns))
    return Ended(
        facts=_facts(name, request),
        text=text,
        times=(times or Times(arrived_ns, first_ns, last_ns))._replace(batches=batches),
        told=times is not None or bool(batches),
        reason=REASONS.get(reason, "stop"),
        output_tokens=sum(tokens) if tokens else -1,
        cached_tokens=number(result, "cached_tokens"),
    )


def why_not_by_batch(life: Ended) -> str:
    """Why this request does not tell all of its batches (tier T3); '' where it does."""
    if not life.times.batches:
        return "finished requests have no time_breakdown_metrics of this host's clock"
    if life.output_tokens > 1 and all(is_prompt for _, _, is_prompt in life.times.batches):
        return "finished requests have no step_metrics (with the overlap scheduler some versions tell none)"
    return ""


def _facts(name: int, request: Any) -> Facts:
    params = read(request, "disaggregated_params")
    kind = str(read(params, "request_type", "")) if params is not None else ""
    return Facts(
        id=name,
        client_id=number(request, "id"),
        prompt_tokens=len(read(request, "prompt_token_ids", ())),
        beam_width=1,
        parent=-1,
        role={"context_only": "prefill", "generation_only": "decode"}.get(kind, ""),
        disagg_id=number(params, "disagg_request_id") if params is not None else -1,
        context_id=number(params, "ctx_request_id") if params is not None else -1,
    )


def _request_times(outputs: list[Any], arrived_ns: int, last_ns: int) -> Times | None:
    """First in a batch, first token, last token, by ``request_perf_metrics``; None where they are not this clock's."""
    spans = []
    for output in outputs:
        timing = read(read(output, "request_perf_metrics"), "timing_metrics")
        moments = [_ns(read(timing, f"{name}_time")) for name in ("first_scheduled", "first_token", "last_token")]
        if all(arrived_ns - SLACK_NS <= moment <= last_ns + SLACK_NS for moment in moments):
            spans.append(moments)
    if not spans:
        return None
    first, token, last = zip(*spans, strict=True)
    return Times(min(first), min(token), max(last))


def _batches(breakdown: Any, arrived_ns: int, last_ns: int) -> Iterator[tuple[int, int, bool]]:
    for kind in ("ctx_chunk_metrics", "step_metrics"):
        for told in read_key(breakdown, kind) or ():
            begun_ns = _ns(read_key(told, "forward_start_time"))
            gpu_ms = [read_key(told, f"gpu_{part}_time") for part in ("forward", "sample")]
            if arrived_ns - SLACK_NS <= begun_ns <= last_ns and isinstance(gpu_ms[0], int | float) and gpu_ms[0] > 0:
                gpu_ns = sum(round(part * NS_PER_MS) for part in gpu_ms if isinstance(part, int | float))
                yield begun_ns, gpu_ns, kind == "ctx_chunk_metrics"


def read_key(told: Any, name: str) -> Any:
    """An entry of a dict, or an attribute of an object: upstream has changed from one to the other before."""
    return told.get(name) if isinstance(told, dict) else read(told, name)


def _ns(moment: Any) -> int:
    """Seconds, or a timedelta, in ns; -1 where it is neither."""
    seconds = moment.total_seconds() if hasattr(moment, "total_seconds") else moment
    return round(seconds * NS_PER_S) if isinstance(seconds, int | float) else -1
