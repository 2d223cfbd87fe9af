"""Hooks on requests: who asks is noted when HTTP arrives, and sent along when the request goes to an engine."""

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any

import msgspec

from costtrace.core import clock
from costtrace.core.client_text import short
from costtrace.core.events import COUNTED_PROMPT, COUNTED_REQUEST, HANDS_OVER
from costtrace.core.guard import guard, swallow
from costtrace.core.rows import local_key
from costtrace_vllm import request_context
from costtrace_vllm.process import process
from costtrace_vllm.request_context import HEADER, RequestContext
from costtrace_vllm.server_side import answer_estimates, refusals, routes, status_file
from costtrace_vllm.server_side.caller import SCOPE_KEY, Caller, current_caller

REMEMBERED = 10_000
"""Contexts of another front end that are kept until its requests go to an engine."""

_boot = clock.boot_id()


def wrap_http(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Starlette.__call__`: note who asks, for all that is done on behalf of this request; refuse a spent budget."""

    @wraps(original)
    async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> None:  # noqa: N807 - its name
        token, refusal, answer = None, None, send
        try:
            # A mounted application gets its parent's scope: the request is noted already.
            if scope["type"] in {"http", "websocket"} and SCOPE_KEY not in scope:
                scope[SCOPE_KEY] = caller = Caller(scope)
                token = current_caller.set(caller)
                refusal = refusals.refusal_of(caller)
                if answer_estimates.are_wanted() and routes.is_engine_work(scope):
                    answer = answer_estimates.with_headers(send, lambda: answer_estimates.headers_of(caller))
        except Exception as error:  # noqa: BLE001 - a request must not fail by its bookkeeping
            swallow("vllm.http", error)
        try:
            if refusal is None:
                await original(self, scope, receive, answer)
            else:
                await refusals.send_refusal(refusal, scope, send)
        finally:
            if token is not None:
                with guard("vllm.http"):
                    current_caller.reset(token)

    return __call__


def wrap_add_async(original: Callable[..., Any]) -> Callable[..., Any]:
    """`add_request_async` of an engine's client: attach the context just before the request is sent."""

    @wraps(original)
    async def add_request_async(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("vllm.add_request"):
            attach_context(request, self)
        return await original(self, request, *args, **kwargs)

    return add_request_async


def wrap_add(original: Callable[..., Any]) -> Callable[..., Any]:
    """`add_request` of an engine's client: attach the context just before the request is sent."""

    @wraps(original)
    def add_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("vllm.add_request"):
            attach_context(request, self)
        return original(self, request, *args, **kwargs)

    return add_request


_registered: OrderedDict[str, RequestContext] = OrderedDict()
"""Contexts by external id, newest last, where another front end than vLLM's server asks the engine."""


def register_context(external_id: str, context: RequestContext) -> None:
    """Give, for another front end than vLLM's server, the context of *external_id* before it asks the engine.

    Prompt key and operation are filled in when it does. The newest `REMEMBERED` are kept: an id is used at once.
    """
    _registered[external_id] = context
    if len(_registered) > REMEMBERED:
        _registered.popitem(last=False)


def attach_context(request: Any, client: Any = None) -> None:
    """Write the context of *request* (an EngineCoreRequest) into its trace headers, where its engine finds it.

    *client*: the engine's, which sends it.
    """
    with guard("vllm.status"):
        status_file.write_once()
    external_id = getattr(request, "external_req_id", None) or request_context.external_of(request.request_id)
    context = _context_of(request, external_id)
    if not context.role and (half := _half_of(request, client)):
        context = msgspec.structs.replace(context, role=half[0], elsewhere=context.elsewhere | half[1])
    # A new dict: the children of a request with n>1 are shallow copies that share the old one.
    request.trace_headers = {**(request.trace_headers or {}), HEADER: request_context.encode(context)}


def _half_of(request: Any, client: Any) -> tuple[str, int] | None:
    """Role of an engine in a request whose prompt and answer are on different engines, and what it does not count.

    A proxy between them says so to engines that pass on their KV cache. Others ignore it, so that it says nothing.
    """
    if getattr(getattr(client, "vllm_config", None), "kv_transfer_config", None) is None:
        return None
    extra = getattr(getattr(request, "sampling_params", None), "extra_args", None) or {}
    transfer = extra.get("kv_transfer_params")
    if not isinstance(transfer, dict):  # a client may put anything there
        return None
    if transfer.get("do_remote_decode"):
        return "prefill", HANDS_OVER
    return ("decode", COUNTED_PROMPT) if transfer.get("do_remote_prefill") else None


def _context_of(request: Any, external_id: str) -> RequestContext:
    pooling = request.pooling_params is not None
    caller, registered = current_caller.get(), _registered.get(external_id)
    response_id = caller.response_id() if caller is not None else ""
    prompt_key = short(request_context.prompt_of(request.request_id, external_id, response_id))
    path = caller.path if caller is not None and registered is None else ""
    operation = request_context.operation_of(path, external_id, pooling=pooling)
    # Without a server that knows all sequences of its request: the first of several children counts.
    elsewhere = (COUNTED_REQUEST | COUNTED_PROMPT) * request_context.is_later_child(request.request_id, external_id)
    if registered is not None:
        return msgspec.structs.replace(
            registered,
            prompt_key=prompt_key,
            operation=registered.operation or operation,
            elsewhere=registered.elsewhere | elsewhere,
        )
    if caller is None:  # vLLM as a library: the process is the tenant
        request_id = short(request_context.response_id(external_id, pooling=False))
        tenant = process.settings.tenant_default
        key = local_key(request_id)
        return RequestContext(key, request_id, prompt_key, operation, tenant, "process", elsewhere=elsewhere)
    if caller.identity is None:
        adapter = getattr(getattr(request, "lora_request", None), "lora_name", "")
        identity = caller.resolve(str(adapter or ""))
    else:
        identity = caller.identity
    return RequestContext(
        request_key=caller.key,
        request_id=short(response_id or request_context.response_id(external_id, pooling=pooling)),
        prompt_key=prompt_key,
        operation=operation,
        tenant=identity.tenant,
        tenant_source=identity.source,
        traceparent=caller.traceparent,
        arrived_ns=caller.arrived_ns,
        boot=_boot,
        user=identity.user,
        labels=identity.labels,
        elsewhere=caller.elsewhere(prompt_key, request.request_id),
    )
