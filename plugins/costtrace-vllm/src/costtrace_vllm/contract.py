"""What costtrace hooks in vLLM, as data: checked when an engine starts, by `costtrace doctor`, and by the tests.

Each hook names a function by module, class and name, the parameters that it must have, and what is lost without it.
A hook that does not fit the installed vLLM is left out and logged once; serving goes on. `check_source` checks the same
against the source of a vLLM that is not imported, or could not be on this machine.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from costtrace.capture.hooks import check as hook_check
from costtrace.capture.hooks.check import HookCheck, Kind, Source


class Hook(NamedTuple):
    """A function that is wrapped, or the fields of a class that are read."""

    name: str
    module: str
    owner: str
    function: str
    """'' where only fields are wanted."""
    parameters: tuple[str, ...]
    """Parameters that it must have, without self, in this order. It may have others."""
    lost: str
    is_async: bool = False
    fields: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Hooks without which this one is of no use."""
    init: bool = False
    """The class's `__init__` is wrapped, its own or an inherited one."""


_NO_TENANT = "tenant and trace of HTTP requests: they are billed to `default`, in a trace of their own"
_NO_BILL = "everything: this engine's requests are not billed, its time is unobserved"
_CLIENT = "vllm.v1.engine.core_client"
_CORE = "vllm.v1.engine.core"
_OUTPUT = "vllm.v1.core.sched.output"
_ANSWERS = "vllm.entrypoints.openai"
_NO_ESTIMATE = "estimates of the cost in answers"

HOOKS: tuple[Hook, ...] = (
    Hook(
        "http", "starlette.applications", "Starlette", "__call__", ("scope", "receive", "send"), _NO_TENANT,
        is_async=True,
    ),
    Hook(
        "peer", "uvicorn.middleware.proxy_headers", "ProxyHeadersMiddleware", "__call__", ("scope", "receive", "send"),
        "the address that connected: behind a proxy that sets X-Forwarded-For, that header decides who may name a "
        "tenant", is_async=True,
    ),
    Hook(
        "request.async", _CLIENT, "AsyncMPClient", "add_request_async", ("request",), _NO_TENANT, is_async=True,
    ),
    Hook(
        "request.data_parallel", _CLIENT, "DPAsyncMPClient", "add_request_async", ("request",),
        _NO_TENANT + " (data parallel)", is_async=True,
    ),
    Hook("request.sync", _CLIENT, "SyncMPClient", "add_request", ("request",), "tenant of offline requests"),
    Hook("request.inproc", _CLIENT, "InprocClient", "add_request", ("request",), "tenant of in-process requests"),
    Hook(
        "request.fields", "vllm.v1.engine", "EngineCoreRequest", "", (), _NO_TENANT,
        fields=("request_id", "trace_headers", "external_req_id", "pooling_params"),
    ),
    Hook(
        "delivered", "vllm.v1.engine.output_processor", "OutputProcessor", "_finish_request",
        ("req_state",), "finish reason and delivered tokens of requests that end at a stop string: shown as `abort`",
    ),
    Hook(
        "abort.async", _CLIENT, "AsyncMPClient", "_send_input", ("request_type", "request"),
        "the same (server)", needs=("delivered",),
    ),
    Hook(
        "abort.data_parallel", _CLIENT, "DPLBAsyncMPClient", "abort_requests_async", ("request_ids",),
        "the same (data parallel, where the engine ended first)", is_async=True, needs=("abort.async",),
    ),
    Hook(
        "abort.sync", _CLIENT, "SyncMPClient", "_send_input", ("request_type", "request"),
        "the same (offline)", needs=("delivered",),
    ),
    Hook(
        "abort.inproc", _CLIENT, "InprocClient", "abort_requests", ("request_ids",),
        "the same (in-process)", needs=("delivered",),
    ),
    Hook(
        "answer.completion", f"{_ANSWERS}.completion.protocol", "CompletionResponse", "", (),
        f"{_NO_ESTIMATE} (completions)", fields=("model", "usage"), init=True,
    ),
    Hook(
        "answer.completion.stream", f"{_ANSWERS}.completion.protocol", "CompletionStreamResponse", "", (),
        f"{_NO_ESTIMATE} (completions, streamed)", fields=("model", "usage"), init=True,
    ),
    Hook(
        "answer.chat", f"{_ANSWERS}.chat_completion.protocol", "ChatCompletionResponse", "", (),
        f"{_NO_ESTIMATE} (chat)", fields=("model", "usage"), init=True,
    ),
    Hook(
        "answer.chat.stream", f"{_ANSWERS}.chat_completion.protocol", "ChatCompletionStreamResponse", "", (),
        f"{_NO_ESTIMATE} (chat, streamed)", fields=("model", "usage"), init=True,
    ),
    Hook(
        "answer.embedding", "vllm.entrypoints.pooling.embed.protocol", "EmbeddingResponse", "", (),
        f"{_NO_ESTIMATE} (embeddings)", fields=("model", "usage"), init=True,
    ),
    Hook(
        "answer.embedding.caller", "vllm.entrypoints.pooling.embed.serving", "ServingEmbedding",
        "_build_response", ("ctx",), f"{_NO_ESTIMATE} (embeddings)", needs=("answer.embedding",),
    ),
    Hook("scheduler", "vllm.config.scheduler", "SchedulerConfig", "get_scheduler_cls", (), _NO_BILL),
    Hook(
        "batch", _OUTPUT, "SchedulerOutput", "", (), _NO_BILL,
        fields=(
            "scheduled_new_reqs", "scheduled_cached_reqs", "num_scheduled_tokens", "total_num_scheduled_tokens",
            "scheduled_encoder_inputs", "finished_req_ids",
        ),
    ),
    Hook(
        "batch.new", _OUTPUT, "NewRequestData", "", (), _NO_BILL,
        fields=("req_id", "prompt_token_ids", "num_computed_tokens", "mm_features"),
    ),
    Hook(
        "batch.cached", _OUTPUT, "CachedRequestData", "", (), _NO_BILL,
        fields=("req_ids", "num_computed_tokens"),
    ),
    Hook(
        "request", "vllm.v1.request", "Request", "get_finished_reason", (),
        "finish reasons and token counts of requests",
        fields=(
            "request_id", "trace_headers", "num_prompt_tokens", "num_output_tokens", "num_preemptions",
            "lora_request", "pooling_params",
        ),
    ),
    Hook(
        "request.blocks", "vllm.v1.request", "Request", "update_block_hashes", (),
        "which prompts share a prefix: `prefix_sharing: tree` then works as `payer-of-miss`",
        fields=("block_hashes",),
    ),
    Hook(
        "devices", _CORE, "EngineCore", "_initialize_kv_caches", ("vllm_config",),
        "which devices the engine has: its time cannot be metered or priced by device, its energy is unknown",
    ),
    Hook(
        "start", _CORE, "EngineCore", "__init__", ("vllm_config", "executor_class"),
        "when a second engine in one process began to start",
    ),
    Hook(
        "shutdown", _CORE, "EngineCore", "shutdown", (),
        "when the engine stopped: its end is then its last heartbeat",
    ),
    Hook(
        "dummy batch", _CORE, "EngineCore", "execute_dummy_batch", (),
        "the time of dummy batches as overhead (data-parallel mixture of experts): it is shown as idle",
    ),
)  # fmt: skip

SCHEDULER: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("schedule", (), _NO_BILL),
    ("update_from_output", ("scheduler_output", "model_runner_output"), _NO_BILL),
    ("add_request", ("request",), "tenant, ids and prompt length of requests: no tenant is billed for them"),
    ("_free_request", ("request",), "finish reasons and exact output tokens: both are then estimated from the steps"),
    ("finish_requests", ("request_ids",), "delivered tokens of requests that end at a stop string"),
)
"""Methods of the scheduler that are wrapped in each instance: name, parameters, what is lost without them."""


def check_callable(function: Callable[..., Any] | None, parameters: tuple[str, ...], *, is_async: bool = False) -> str:
    """Why *function* does not fit; '' where it does."""
    return hook_check.check_callable(function, parameters, kind="coroutine" if is_async else "plain")


def check_source(package_dir: Path) -> list[HookCheck[Hook]]:
    """Check every hook against the source of the vLLM in *package_dir* (the folder ``vllm``), without importing it.

    Hooks outside vLLM (the HTTP framework) are left out.
    """
    hooks = [hook for hook in HOOKS if hook.module.startswith("vllm.")]
    for name, parameters, lost in SCHEDULER:
        module = "vllm.v1.core.sched.scheduler"
        hooks.append(Hook(f"scheduler.{name}", module, "Scheduler", name, parameters, lost))
    source = Source(package_dir)
    return [_check(source, hook) for hook in hooks]


def _check(source: Source, hook: Hook) -> HookCheck[Hook]:
    kind: Kind = "coroutine" if hook.is_async else "plain"
    why = source.why_not(hook.module, hook.owner, hook.function, hook.parameters, kind=kind, fields=hook.fields)
    return HookCheck(hook, ok=not why, why=why)
