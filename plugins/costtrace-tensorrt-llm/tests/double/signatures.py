"""The signatures of what is hooked, as TensorRT-LLM's versions have them: the evidence behind `hook_list`.

The columns are ranges of versions, as far as public source tells them apart. ``def``: the definition was read.
``call``: inferred from a call. ``unverified``: from memory, still to be checked against the package. Only `main` was
read at a commit; the other columns are dated by their features, not by a tag. None of it has been run.
"""

from typing import Literal, NamedTuple

Evidence = Literal["def", "call", "unverified"]

COLUMNS = {
    "1.0": "1.0.0rc5 to 1.0.0",
    "1.2rc": "1.1 to 1.2.0rc3",
    "1.3early": "1.2.0 and 1.3.0rc1 to rc3",
    "main": "1.3.0rc20 to main of 2026-06 (commit 0004396)",
}


class Seen(NamedTuple):
    """One function as one range of versions has it."""

    parameters: tuple[str, ...]
    """All of them, without self; ``*`` precedes those that are keyword only."""
    evidence: Evidence


def _seen(*rows: tuple[str, Evidence, tuple[str, ...]]) -> dict[str, Seen]:
    """What was seen, by column. A row is the columns that it is for, the evidence, and the parameters."""
    return {column: Seen(parameters, evidence) for columns, evidence, parameters in rows for column in columns.split()}


_OLD = "1.0 1.2rc"
_SAMPLE = ("scheduled_batch", "batch_outputs")
_FORWARD = ("scheduled_requests", "new_tensors_device")
_FORWARD_1_3 = (*_FORWARD, "num_accepted_tokens_device")
_STATE = ("finished_requests", "active_requests", "batch_state")
_STATS = ("stats", "req_stats")
_STATS_MAIN = (
    *_STATS, "kv_iter_stats", "attention_dp_rank", "host_step_time_ms", "prev_device_step_time_ms",
    "gpu_forward_time_ms",
)  # fmt: skip
_ERRORS = ("error_msg", "*", "requests")
_ENQUEUE = ("request", "result_wait_queue")
_ITEM = ("id", "request", "*", "child_req_ids")
_ITEM_OLD = (*_ITEM, "is_canceled_request", "query")
_REQUEST = ("prompt_token_ids", "sampling_params")
_LABEL = (*_REQUEST, "query_token_ids", "lora_request")
_LABEL_LONG = (*_LABEL, "prompt_adapter_request", "streaming")
_LIFE = _seen(("1.0", "def", ()), ("1.2rc 1.3early main", "call", ()))

SEEN: dict[str, dict[str, Seen]] = {
    "forward": _seen((_OLD, "def", _FORWARD), ("1.3early", "call", _FORWARD_1_3), ("main", "def", _FORWARD_1_3)),
    "sample": _seen((_OLD, "def", _SAMPLE), ("1.3early", "call", _SAMPLE), ("main", "def", _SAMPLE)),
    "responses": _seen((_OLD, "def", ()), ("1.3early", "call", ()), ("main", "def", ("emit_first_iter",))),
    "errors": _seen(
        ("1.0", "def", ("error_msg",)), ("1.2rc", "def", _ERRORS), ("1.3early", "unverified", _ERRORS),
        ("main", "def", (*_ERRORS, "charge_budget", "fatal_is_collective_aligned")),
    ),
    "iteration": _seen((_OLD, "def", _STATE), ("1.3early main", "def", (*_STATE, "micro_batch_id"))),
    "batch state": _seen(("main", "def", ())),
    "stats": _seen(("1.0", "def", _STATS), ("1.2rc 1.3early", "unverified", _STATS), ("main", "def", _STATS_MAIN)),
    "start": _LIFE,
    "stop": _LIFE,
    "enqueue": _seen(
        ("1.0", "unverified", ("request",)), ("1.2rc 1.3early", "unverified", _ENQUEUE), ("main", "def", _ENQUEUE)
    ),
    "enqueue.1.0": _seen(("1.0", "unverified", ("request",))),
    "queue item": _seen(
        ("1.0", "call", _ITEM_OLD), ("1.2rc", "def", _ITEM_OLD), ("1.3early main", "unverified", _ITEM)
    ),
    "label": _seen(("1.0 1.3early", "call", _LABEL), ("1.2rc main", "def", _LABEL_LONG)),
    "http": _seen(
        ("1.2rc", "def", ("llm", "model", "server_role", "metadata_server_cfg", "disagg_cluster_config")),
        ("main", "def", ("generator", "model", "tool_parser", "server_role", "metadata_server_cfg")),
    ),
}  # fmt: skip
"""By the name of the hook, then by column."""
