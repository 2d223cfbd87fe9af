"""What costtrace holds on to in TensorRT-LLM, as data: one source for start-up, `costtrace doctor` and the tests.

The columns are ranges of versions as they could be told apart in public source. ``def``: the definition was read.
``call``: inferred from a call. ``unverified``: recalled, and to be checked by whoever has the package. Only `main` was
read at a commit; the other columns are dated by their features, not by a tag. Nothing was ever run.
"""

from typing import Literal, NamedTuple

Evidence = Literal["def", "call", "unverified"]
Process = Literal["server", "rank 0", "every rank", "dynamo"]

COLUMNS = {
    "1.0": "1.0.0rc5 to 1.0.0",
    "1.2rc": "1.1 to 1.2.0rc3",
    "1.3early": "1.2.0 and 1.3.0rc1 to rc3",
    "main": "1.3.0rc20 to main of 2026-06 (commit 0004396)",
}
"""Ranges of versions that the rows below speak of."""
OLDEST, NEWEST = (1, 0), (1, 3)
"""Releases (major, minor) that the columns cover. Outside of them the step hooks are not used."""


TIERS: dict[str, tuple[str, ...]] = {
    "T1": ("forward", "sample", "responses", "errors", "request"),
    "T1-native": ("forward", "responses", "errors", "request", "iteration", "batch state"),
    "T2": ("stats",),
}
"""The tiers, best first, by the hooks that each needs. `METHODS` says what each is."""
METHODS = {
    "T1": "trtllm.steps.cuda-events",
    "T1-native": "trtllm.steps.upstream-events",
    "T2": "trtllm.iteration-stats",
    "none": "none",
}
"""Ids of the ways in which a step's time is found, by tier. They stand on the engine's row."""
STEPS = ("T1", "T1-native")


class Seen(NamedTuple):
    """One function as one range of versions has it."""

    parameters: tuple[str, ...]
    """All of them, without self; ``*`` stands before those that are keyword only."""
    evidence: Evidence


class Hook(NamedTuple):
    """A function that is wrapped, or a class whose objects are read."""

    name: str
    process: Process
    tier: str
    """What it belongs to: a tier (`TIERS`), ``tenant``, ``life`` (start and end)."""
    module: str
    owner: str
    function: str
    """'' where only objects are read."""
    parameters: tuple[str, ...]
    """Those that the wrapper relies on, in this order, without self; others may follow."""
    lost: str
    seen: dict[str, Seen]
    reads: tuple[str, ...] = ()
    """Attributes that are read of its objects."""
    anywhere: tuple[str, ...] = ()
    """Parameters that have to be among the others, wherever."""
    fields: tuple[str, ...] = ()
    """Fields that its class has to declare."""
    optional: bool = False
    """Not every version has it: where it is missing nothing is lost that another tier does not have."""
    kind: Literal["plain", "coroutine", "generator"] = "plain"


_PE = "tensorrt_llm._torch.pyexecutor.py_executor"
_QUEUE = "tensorrt_llm._torch.pyexecutor.executor_request_queue"
_NO_STEPS = "step timing (T1): the next tier that fits is used, or nothing is billed"
_NO_TENANT = "tenant and trace of requests: they are billed to `default`, in a trace of their own"
_OTHER_RANKS = "tenant on ranks other than 0 (attention DP, later pipeline stages): billed to nobody's name"


def _all(*parameters: str, call: tuple[str, ...] = ("1.3early",)) -> dict[str, Seen]:
    """The same parameters in every column; the columns of *call* were inferred from calls."""
    return {column: Seen(parameters, "call" if column in call else "def") for column in COLUMNS}


_STATE = ("finished_requests", "active_requests", "batch_state")
_FORWARD = ("scheduled_requests", "new_tensors_device")
_STATS = ("stats", "req_stats")
_REQUEST = ("prompt_token_ids", "sampling_params")

HOOKS: tuple[Hook, ...] = (
    Hook(
        "forward", "every rank", "T1", _PE, "PyExecutor", "_forward_step", ("scheduled_requests",), _NO_STEPS,
        {
            "1.0": Seen(_FORWARD, "def"),
            "1.2rc": Seen(_FORWARD, "def"),
            "1.3early": Seen((*_FORWARD, "num_accepted_tokens_device"), "call"),
            "main": Seen((*_FORWARD, "num_accepted_tokens_device"), "def"),
        },
        reads=("active_requests",),
    ),
    Hook(
        "sample", "every rank", "T1", _PE, "PyExecutor", "_sample_async", ("scheduled_batch", "batch_outputs"),
        _NO_STEPS, _all("scheduled_batch", "batch_outputs"),
    ),
    Hook(
        "responses", "every rank", "T1", _PE, "PyExecutor", "_handle_responses", (), _NO_STEPS,
        {**_all(), "main": Seen(("emit_first_iter",), "def")},
    ),
    Hook(
        "errors", "every rank", "T1", _PE, "PyExecutor", "_handle_errors", ("error_msg",), _NO_STEPS,
        {
            "1.0": Seen(("error_msg",), "def"),
            "1.2rc": Seen(("error_msg", "*", "requests"), "def"),
            "1.3early": Seen(("error_msg", "*", "requests"), "unverified"),
            "main": Seen(("error_msg", "*", "requests", "charge_budget", "fatal_is_collective_aligned"), "def"),
        },

    ),
    Hook(
        "request", "every rank", "T1", "tensorrt_llm._torch.pyexecutor.llm_request", "LlmRequest", "", (), _NO_STEPS,
        {},
        reads=("py_request_id", "py_client_id", "py_draft_tokens"),
    ),
    Hook(
        "iteration", "every rank", "T1-native", _PE, "PyExecutor", "_process_iter_stats", _STATE,
        "upstream's own events (T1-native)",
        {
            "1.0": Seen(_STATE, "def"),
            "1.2rc": Seen(_STATE, "def"),
            "1.3early": Seen((*_STATE, "micro_batch_id"), "def"),
            "main": Seen((*_STATE, "micro_batch_id"), "def"),
        },
        optional=True,
    ),
    Hook(
        "batch state", "every rank", "T1-native", _PE, "BatchState", "", (),
        "upstream's own events (T1-native): older versions have none", {"main": Seen((), "def")},
        fields=("scheduled_requests", "gpu_forward_start_event", "gpu_forward_end_event"), optional=True,
    ),
    Hook(
        "stats", "every rank", "T2", _PE, "PyExecutor", "_append_iter_stats", _STATS,
        "statistics of iterations with a GPU time (T2), which stand in where the step hooks do not fit",
        {
            "1.0": Seen(_STATS, "def"),
            "1.2rc": Seen(_STATS, "unverified"),
            "1.3early": Seen(_STATS, "unverified"),
            "main": Seen(
                (
                    *_STATS, "kv_iter_stats", "attention_dp_rank", "host_step_time_ms", "prev_device_step_time_ms",
                    "gpu_forward_time_ms",
                ),
                "def",
            ),
        },
        anywhere=("gpu_forward_time_ms",), optional=True,
    ),
    Hook(
        "start", "every rank", "life", _PE, "PyExecutor", "start_worker", (),
        "when the engine became ready: start-up then lasts until its first batch",
        _all(call=("1.2rc", "1.3early", "main")),
    ),
    Hook(
        "stop", "every rank", "life", _PE, "PyExecutor", "shutdown", (),
        "the engine's last word: its end is then its last heartbeat", _all(call=("1.2rc", "1.3early", "main")),
    ),
    Hook(
        "enqueue", "rank 0", "tenant", "tensorrt_llm.executor.base_worker", "BaseWorker", "_enqueue_request",
        ("request",), _NO_TENANT,
        {
            "1.0": Seen(("request",), "unverified"),
            "1.2rc": Seen(("request", "result_wait_queue"), "unverified"),
            "1.3early": Seen(("request", "result_wait_queue"), "unverified"),
            "main": Seen(("request", "result_wait_queue"), "def"),
        },
    ),
    Hook(
        "enqueue.1.0", "rank 0", "tenant", "tensorrt_llm.executor.worker", "GenerationExecutorWorker",
        "_enqueue_request", ("request",), "nothing where `enqueue` fits (it stood here before base_worker.py existed)",
        {"1.0": Seen(("request",), "unverified")},
    ),
    Hook(
        "queue item", "every rank", "tenant", _QUEUE, "RequestQueueItem", "__init__", ("id", "request"), _OTHER_RANKS,
        {
            "1.0": Seen(("id", "request", "*", "child_req_ids", "is_canceled_request", "query"), "call"),
            "1.2rc": Seen(("id", "request", "*", "child_req_ids", "is_canceled_request", "query"), "def"),
            "1.3early": Seen(("id", "request", "*", "child_req_ids"), "unverified"),
            "main": Seen(("id", "request", "*", "child_req_ids"), "unverified"),
        },
    ),
    Hook(
        "label", "server", "tenant", "tensorrt_llm.executor.request", "GenerationRequest", "__init__",
        ("prompt_token_ids", "sampling_params"), _NO_TENANT,
        {
            "1.0": Seen((*_REQUEST, "query_token_ids", "lora_request"), "call"),
            "1.2rc": Seen((*_REQUEST, "query_token_ids", "lora_request", "prompt_adapter_request", "streaming"), "def"),
            "1.3early": Seen((*_REQUEST, "query_token_ids", "lora_request"), "call"),
            "main": Seen((*_REQUEST, "query_token_ids", "lora_request", "prompt_adapter_request", "streaming"), "def"),
        },
    ),
    Hook(
        "http", "server", "tenant", "tensorrt_llm.serve.openai_server", "OpenAIServer", "__init__", (), _NO_TENANT,
        {
            "1.2rc": Seen(("llm", "model", "server_role", "metadata_server_cfg", "disagg_cluster_config"), "def"),
            "main": Seen(("generator", "model", "tool_parser", "server_role", "metadata_server_cfg"), "def"),
        },
        reads=("app",),
    ),
    Hook(
        "peer", "server", "tenant", "uvicorn.middleware.proxy_headers", "ProxyHeadersMiddleware", "__call__",
        ("scope", "receive", "send"),
        "behind a proxy that sets X-Forwarded-For, the trusted peer is taken from that header", {},
        kind="coroutine",
    ),
    Hook(
        "dynamo", "dynamo", "tenant", "dynamo.trtllm.request_handlers.handler_base", "HandlerBase", "generate_locally",
        ("request", "context"), "tenant of requests that come through Dynamo", {}, kind="generator",
    ),
)  # fmt: skip


def covered(version: str) -> str:
    """Why *version* is outside the contract; '' where it is inside, or not known."""
    parts = version.split(".")
    try:
        release = (int(parts[0]), int(parts[1]))
    except (ValueError, IndexError):
        return ""
    if OLDEST <= release <= NEWEST:
        return ""
    low, high = (".".join(map(str, bound)) for bound in (OLDEST, NEWEST))
    return f"version {version} is outside the contract ({low} to {high})"
