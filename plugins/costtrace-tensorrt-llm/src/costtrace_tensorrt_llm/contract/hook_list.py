"""What costtrace hooks in TensorRT-LLM, as data: one source for start-up, `costtrace doctor` and the tests.

The rows fit what was read of versions 1.0 to 1.3. `tests/double/signatures.py` beside this plugin has each function as
each range of versions has it, and how well that is known. None of it has been run.
"""

from typing import Literal, NamedTuple

OLDEST, NEWEST = (1, 0), (1, 3)
"""Releases (major, minor) that were read. Outside of them the step hooks are not used."""

TIERS: dict[str, tuple[str, ...]] = {
    "T1": ("forward", "sample", "responses", "errors", "request"),
    "T1-native": ("forward", "responses", "errors", "request", "iteration", "batch state"),
    "T2": ("stats",),
}
"""The tiers, best first: ways to time a step, each by the names of the hooks that it needs."""
METHODS = {
    "T1": "trtllm.steps.cuda-events",
    "T1-native": "trtllm.steps.upstream-events",
    "T2": "trtllm.iteration-stats",
    "none": "none",
}
"""Id of each tier's method, as the engine's row names it (`metering`)."""
STEPS = ("T1", "T1-native")
"""The tiers that follow each batch through `PyExecutor`."""


class Hook(NamedTuple):
    """A function that is wrapped, or a class whose objects are read."""

    name: str
    tier: str
    """What it serves: a tier (`TIERS`), ``tenant``, or ``life`` (the engine's start and end)."""
    module: str
    owner: str
    function: str
    """'' where only the class's objects are read."""
    parameters: tuple[str, ...]
    """Those that the wrapper relies on, in this order, without self; others may follow."""
    lost: str
    reads: tuple[str, ...] = ()
    """Attributes that are read of its objects."""
    anywhere: tuple[str, ...] = ()
    """Parameters that have to exist, in any position."""
    fields: tuple[str, ...] = ()
    """Fields that its class has to declare."""
    optional: bool = False
    """Some versions do not have it; another tier replaces it, so its absence is no loss."""
    kind: Literal["plain", "coroutine", "generator"] = "plain"


_WORKER = "tensorrt_llm.executor.base_worker"
_PE = "tensorrt_llm._torch.pyexecutor.py_executor"
_REQUEST = "tensorrt_llm._torch.pyexecutor.llm_request"
_QUEUE = "tensorrt_llm._torch.pyexecutor.executor_request_queue"
_PROXY = "uvicorn.middleware.proxy_headers"
_DYNAMO = "dynamo.trtllm.request_handlers.handler_base"
_NO_STEPS = "step timing (T1): the next tier that fits is used, or nothing is billed"
_NO_TENANT = "tenant and trace of requests: they are billed to `default`, in a trace of their own"
_OTHER_RANKS = "tenant on ranks other than 0 (attention DP, later pipeline stages): billed to no tenant"

HOOKS: tuple[Hook, ...] = (
    Hook(
        "forward", "T1", _PE, "PyExecutor", "_forward_step", ("scheduled_requests",), _NO_STEPS,
        reads=("active_requests",),
    ),
    Hook("sample", "T1", _PE, "PyExecutor", "_sample_async", ("scheduled_batch", "batch_outputs"), _NO_STEPS),
    Hook("responses", "T1", _PE, "PyExecutor", "_handle_responses", (), _NO_STEPS),
    Hook("errors", "T1", _PE, "PyExecutor", "_handle_errors", ("error_msg",), _NO_STEPS),
    Hook(
        "request", "T1", _REQUEST, "LlmRequest", "", (), _NO_STEPS,
        reads=("py_request_id", "py_client_id", "py_draft_tokens"),
    ),
    Hook(
        "iteration", "T1-native", _PE, "PyExecutor", "_process_iter_stats",
        ("finished_requests", "active_requests", "batch_state"), "upstream's own events (T1-native)", optional=True,
    ),
    Hook(
        "batch state", "T1-native", _PE, "BatchState", "", (),
        "upstream's own events (T1-native): older versions have none",
        fields=("scheduled_requests", "gpu_forward_start_event", "gpu_forward_end_event"), optional=True,
    ),
    Hook(
        "stats", "T2", _PE, "PyExecutor", "_append_iter_stats", ("stats", "req_stats"),
        "statistics of iterations with a GPU time (T2), which stand in where the step hooks do not fit",
        anywhere=("gpu_forward_time_ms",), optional=True,
    ),
    Hook(
        "start", "life", _PE, "PyExecutor", "start_worker", (),
        "when the engine became ready: start-up then lasts until its first batch",
    ),
    Hook("stop", "life", _PE, "PyExecutor", "shutdown", (), "when the engine stopped: its end is its last heartbeat"),
    Hook("enqueue", "tenant", _WORKER, "BaseWorker", "_enqueue_request", ("request",), _NO_TENANT),
    Hook(
        "enqueue.1.0", "tenant", "tensorrt_llm.executor.worker", "GenerationExecutorWorker",
        "_enqueue_request", ("request",), "nothing where `enqueue` fits (where it was before base_worker.py)",
    ),
    Hook("queue item", "tenant", _QUEUE, "RequestQueueItem", "__init__", ("id", "request"), _OTHER_RANKS),
    Hook(
        "label", "tenant", "tensorrt_llm.executor.request", "GenerationRequest", "__init__",
        ("prompt_token_ids", "sampling_params"), _NO_TENANT,
    ),
    Hook(
        "http", "tenant", "tensorrt_llm.serve.openai_server", "OpenAIServer", "__init__", (), _NO_TENANT, reads=("app",)
    ),
    Hook(
        "peer", "tenant", _PROXY, "ProxyHeadersMiddleware", "__call__", ("scope", "receive", "send"),
        "the address that connected: behind a proxy that sets X-Forwarded-For, that header decides who may name a "
        "tenant", kind="coroutine",
    ),
    Hook(
        "dynamo", "tenant", _DYNAMO, "HandlerBase", "generate_locally", ("request", "context"),
        "tenant of requests that come through Dynamo", kind="generator",
    ),
)  # fmt: skip


def why_outside(version: str) -> str:
    """Why *version* is outside the contract; '' where it is inside, or not known."""
    try:
        major, minor = map(int, version.split(".")[:2])
    except ValueError:
        return ""
    if OLDEST <= (major, minor) <= NEWEST:
        return ""
    low, high = (".".join(map(str, bound)) for bound in (OLDEST, NEWEST))
    return f"version {version} is outside the contract ({low} to {high})"
