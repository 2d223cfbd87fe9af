"""What the executor's thread writes down of a batch and of a request: plain values, no object of TensorRT-LLM.

Its lists change under a reader and its attributes raise once a request has moved on, so all of it is read once, when
the batch is handed to the GPU.
"""

from collections.abc import Container, Iterable
from operator import attrgetter
from typing import Any, Final, NamedTuple

ADDED: Final = "added"
"""``(ADDED, Facts, context text or '')``: a request is in a batch for the first time."""
FREED: Final = "freed"
"""``(FREED, id, index of the newest step, reason, output tokens, cached tokens)``; -1: not known."""
OVERHEAD: Final = "overhead"
"""``(OVERHEAD, from_ns, to_ns, reason)``"""
UNPRICED: Final = "unpriced"
"""``(UNPRICED, from_ns, reason)``: a batch whose end could not be timed."""

DUMMY = "dummy batch"
WARM_UP = "warm-up"

ids_of = attrgetter("py_request_id")
drafts_of = attrgetter("py_draft_tokens")
accepted_of = attrgetter("py_num_accepted_draft_tokens")


class Batch(NamedTuple):
    """Who was in a batch, when it was handed to the GPU."""

    reason: str
    """Why nobody is in it (``dummy batch``, ``warm-up``); '' where somebody is."""
    generation: list[int]
    """Ids of the requests that generate."""
    drafts: list[int]
    """Draft tokens of each of them; empty where nobody has any."""
    accepted: list[int]
    """Draft tokens of each that were accepted since its last step; empty with `drafts`."""
    context: list[tuple[int, int, int]]
    """``(id, chunk, position)`` of the requests whose prompt is computed; -1: it could not be read."""


class Facts(NamedTuple):
    """What is read of a request, once."""

    id: int
    client_id: int
    """-1: it has none."""
    prompt_tokens: int
    beam_width: int
    parent: int
    """Id of the request that it is one of several answers of (n > 1); -1: it is none."""
    role: str
    """``prefill`` or ``decode`` where it is one half of a disaggregated request."""
    disagg_id: int
    """Id that the orchestrator gave to both halves; -1: none."""
    context_id: int
    """Id of the half that computed the prompt, as the other half was told it; -1: none."""


def read(owner: Any, name: str, default: Any = None) -> Any:
    """An attribute, or *default* where it is not there or raises: upstream's do once a request has moved on."""
    try:
        value = getattr(owner, name, default)
    except Exception:  # noqa: BLE001 - what upstream raises there changes with its versions
        return default
    return default if value is None else value


def number(owner: Any, *names: str, default: int = -1) -> int:
    """The first of *names* that is a whole number."""
    for name in names:
        value = read(owner, name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return default


def is_nobody(request: Any) -> str:
    """Why a request is nobody's: padding for a rank or a graph, or the engine's own warm-up; '' for a client's."""
    if read(request, "is_attention_dp_dummy", False) or read(request, "is_cuda_graph_dummy", False):
        return DUMMY
    if read(request, "is_dummy", False) is True:
        return DUMMY
    return WARM_UP if read(request, "py_client_id") is None else ""


def facts(request: Any, name: int | None = None) -> Facts:
    """Read what is needed of a request that is new. *name*: its id, where that is known without asking."""
    params = read(request, "py_disaggregated_params")
    kind = str(read(params, "request_type", "")) if params is not None else ""
    return Facts(
        id=ids_of(request) if name is None else name,
        client_id=number(request, "py_client_id"),
        prompt_tokens=max(0, number(request, "py_orig_prompt_len", "orig_prompt_len", "prompt_len", default=0)),
        beam_width=max(1, number(request, "py_beam_width", default=_beam(request))),
        parent=number(request, "parent_request_id") if read(request, "is_child", False) else -1,
        role={"context_only": "prefill", "generation_only": "decode"}.get(kind, ""),
        disagg_id=number(params, "disagg_request_id") if params is not None else -1,
        context_id=number(params, "ctx_request_id") if params is not None else -1,
    )


def _beam(request: Any) -> int:
    return number(read(request, "sampling_config"), "beam_width", default=1)


def chunks(requests: Iterable[Any], nobody: Container[int]) -> list[tuple[int, int, int]]:
    """The context part of a batch, at its dispatch."""
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
    except AttributeError:  # older versions do not say it: contexts are then too short, never the time
        return counts, [0] * len(counts)


def output_tokens(request: Any) -> int:
    """Tokens that a request has generated; -1 where it does not tell."""
    total, prompt = number(request, "max_beam_num_tokens"), number(request, "py_orig_prompt_len", "orig_prompt_len")
    return max(0, total - prompt) if total >= 0 and prompt >= 0 else -1


def end_reason(request: Any, generated: int) -> str:
    """``abort``, ``length`` or ``stop``, as far as a finished request tells."""
    if read(request, "is_finished_due_to_cancellation", False) is True:
        return "abort"
    limit = number(request, "py_max_new_tokens")
    return "length" if 0 < limit <= generated else "stop"
