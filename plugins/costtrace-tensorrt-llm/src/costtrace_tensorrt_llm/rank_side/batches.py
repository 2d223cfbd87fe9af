"""What the executor's thread writes down of a batch and of a request: plain values, no object of TensorRT-LLM.

Upstream changes a batch's lists later, and attributes of a request raise once it has moved on. So all of it is read
once, when the batch goes to the GPU.
"""

from collections.abc import Container, Iterable
from operator import attrgetter
from typing import Any, Final, NamedTuple

from costtrace_tensorrt_llm.upstream import number, read

ADDED: Final = "added"
"""``(ADDED, Facts, encoded context or '')``: a request is in a batch for the first time."""
FREED: Final = "freed"
"""``(FREED, id, index of the newest step, reason, output tokens, cached tokens)``; -1: not known."""
OVERHEAD: Final = "overhead"
"""``(OVERHEAD, from_ns, to_ns, reason)``"""
UNPRICED: Final = "unpriced"
"""``(UNPRICED, from_ns, reason)``: a batch whose end could not be timed."""

DUMMY = "dummy batch"
WARM_UP = "warm-up"
_ROLES = {"context_only": "prefill", "generation_only": "decode"}

ids_of = attrgetter("py_request_id")
drafts_of = attrgetter("py_draft_tokens")
accepted_of = attrgetter("py_num_accepted_draft_tokens")


class Batch(NamedTuple):
    """Who was in a batch when it went to the GPU."""

    reason: str
    """Why it serves nobody (``dummy batch``, ``warm-up``); '' where it serves somebody."""
    generation: list[int]
    """Ids of the requests that generate."""
    drafts: list[int]
    """Draft tokens of each of them; empty where none has any."""
    accepted: list[int]
    """Draft tokens of each that were accepted since its last step; empty where `drafts` is."""
    context: list[tuple[int, int, int]]
    """``(id, chunk, position)`` in tokens of the requests whose prompt is computed; -1: it could not be read."""


class Facts(NamedTuple):
    """What is read of a request, once."""

    id: int
    client_id: int
    """-1: it has none."""
    prompt_tokens: int
    beam_width: int
    parent: int
    """Id of the request that this is a further answer of (n > 1); -1: none."""
    role: str
    """``prefill`` or ``decode`` where it is one half of a disaggregated request."""
    disagg_id: int
    """Id that the orchestrator gave to both halves; -1: none."""
    context_id: int
    """The decode half's id of the prefill half; -1: none."""


def why_nobody(request: Any) -> str:
    """Why no client sent this request: padding for a rank or a graph, or warm-up; '' for a client's."""
    padding = read(request, "is_attention_dp_dummy", False) or read(request, "is_cuda_graph_dummy", False)
    if padding or read(request, "is_dummy", False) is True:
        return DUMMY
    return WARM_UP if read(request, "py_client_id") is None else ""


def facts(request: Any, name: int | None = None) -> Facts:
    """Read a new request. *name*: its id, where it is known already."""
    params = read(request, "py_disaggregated_params")
    role = _ROLES.get(str(read(params, "request_type", "")), "") if params is not None else ""
    beams = number(read(request, "sampling_config"), "beam_width", default=1)
    return Facts(
        id=ids_of(request) if name is None else name,
        client_id=number(request, "py_client_id"),
        prompt_tokens=max(0, number(request, "py_orig_prompt_len", "orig_prompt_len", "prompt_len", default=0)),
        beam_width=max(1, number(request, "py_beam_width", default=beams)),
        parent=number(request, "parent_request_id") if read(request, "is_child", False) else -1,
        role=role,
        disagg_id=number(params, "disagg_request_id") if params is not None else -1,
        context_id=number(params, "ctx_request_id") if params is not None else -1,
    )


def chunks(requests: Iterable[Any], nobody: Container[int]) -> list[tuple[int, int, int]]:
    """The context part of a batch that is about to go to the GPU."""
    return [
        (name, number(request, "context_chunk_size"), number(request, "context_current_position"))
        for request in requests
        if (name := ids_of(request)) not in nobody
    ]


def draft_counts(requests: list[Any]) -> tuple[list[int], list[int]]:
    """Draft tokens of each request, and how many of its last ones were accepted."""
    counts = [len(drafts) if drafts else 0 for drafts in map(drafts_of, requests)]
    try:
        return counts, [kept or 0 for kept in map(accepted_of, requests)]
    except AttributeError:  # older versions do not have it: contexts are then too short, which changes no time
        return counts, [0] * len(counts)


def output_tokens(request: Any) -> int:
    """Tokens that a request has generated; -1 where it cannot be read."""
    total, prompt = number(request, "max_beam_num_tokens"), number(request, "py_orig_prompt_len", "orig_prompt_len")
    return max(0, total - prompt) if total >= 0 and prompt >= 0 else -1


def end_reason(request: Any, generated: int) -> str:
    """``abort``, ``length`` or ``stop``, as far as a finished request shows."""
    if read(request, "is_finished_due_to_cancellation", False) is True:
        return "abort"
    limit = number(request, "py_max_new_tokens")
    return "length" if 0 < limit <= generated else "stop"
