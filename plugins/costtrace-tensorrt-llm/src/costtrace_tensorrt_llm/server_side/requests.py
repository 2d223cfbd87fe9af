"""Hooks that carry a request's context: from HTTP or Dynamo onto the server's request, and with it to every rank."""

import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any

import msgspec

from costtrace.capture.asgi import headers_of, peer_of
from costtrace.capture.request_context import dynamo_key, traceparent_of, valid_traceparent
from costtrace.capture.tenancy import identity as tenancy
from costtrace.core import clock
from costtrace.core.client_text import short
from costtrace.core.events import COUNTED_REQUEST
from costtrace.core.guard import guard
from costtrace_tensorrt_llm import request_context
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.request_context import ATTRIBUTE, RequestContext
from costtrace_tensorrt_llm.upstream import Method, number, read, wrapper


@dataclass
class Caller:
    """One request of a client. Its identity is resolved only when the request goes to an engine."""

    headers: list[tuple[bytes, bytes]]
    peer: str | None
    """Address that the connection came from."""
    path: str
    key: str = ""
    """Of the request; '' makes one."""
    elsewhere: int = 0
    """What of it is counted with other requests of the same call."""
    arrived_ns: int = field(default_factory=time.monotonic_ns)
    sent: int = 0
    """Requests that went to an engine on its behalf: prompts of a list go one by one."""

    @cached_property
    def context(self) -> RequestContext:
        """Tenant and place in a trace: the same for all that is done on behalf of this request."""
        identity = tenancy.resolve(self.headers, self.peer, process.tenancy)
        return RequestContext(
            self.key or secrets.token_hex(8),
            identity.tenant,
            identity.source,
            request_context.operation_of(self.path),
            traceparent_of(self.headers),
            self.arrived_ns,
            clock.boot_id(),
            identity.user,
            identity.labels,
            elsewhere=self.elsewhere,
        )


_caller: ContextVar[Caller | None] = ContextVar("costtrace_caller", default=None)


class Identify:
    """ASGI middleware: keeps the caller for all that is done on behalf of this HTTP request."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        with guard("trtllm.http"):
            if scope["type"] in {"http", "websocket"}:
                _caller.set(Caller(headers_of(scope), peer_of(scope), scope.get("path", "")))
        await self.app(scope, receive, send)


@wrapper
def wrap_server(original: Method, self: Any, *args: Any, **kwargs: Any) -> None:
    """`OpenAIServer.__init__`: add the middleware to its application."""
    original(self, *args, **kwargs)
    with guard("trtllm.server"):
        self.app.add_middleware(Identify)


@wrapper
def wrap_label(original: Method, self: Any, *args: Any, **kwargs: Any) -> None:
    """`GenerationRequest.__init__`: write the context onto the request."""
    original(self, *args, **kwargs)
    with guard("trtllm.label"):
        self.__dict__[ATTRIBUTE] = request_context.encode(_context_of(self))


def _context_of(request: Any) -> RequestContext:
    caller = _caller.get()
    adapter = short(str(read(read(request, "lora_request"), "lora_name", "") or ""))
    if caller is not None:
        caller.sent += 1
        elsewhere = caller.elsewhere | (COUNTED_REQUEST if caller.sent > 1 else 0)
        return msgspec.structs.replace(caller.context, model=adapter, elsewhere=elsewhere)
    headers = read(request, "trace_headers", {})
    parent = headers.get("traceparent") if isinstance(headers, dict) else ""
    return RequestContext(
        secrets.token_hex(8),
        process.settings.tenant_default,
        "process",
        traceparent=valid_traceparent(parent),
        arrived_ns=time.monotonic_ns(),
        boot=clock.boot_id(),
        model=adapter,
    )


# -- Dynamo --------------------------------------------------------------------------------------------------------


def wrap_dynamo(original: Method) -> Method:
    """Dynamo's `HandlerBase.generate_locally`: no HTTP server here, the caller is in the router's context.

    Its metadata were set by Dynamo's frontend, which is trusted: it strips what a client sends under these names.
    """

    @wraps(original)
    async def generate_locally(self: Any, request: Any, context: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        token = None
        with guard("trtllm.dynamo"):
            token = _caller.set(Caller(_dynamo_headers(context), None, "", *_dynamo_key(context)))
        try:
            async for answer in original(self, request, context, *args, **kwargs):
                yield answer
        finally:
            if token is not None:
                try:
                    _caller.reset(token)
                except ValueError:
                    _caller.set(None)  # closed in another context than it began in

    return generate_locally


def _value(context: Any, name: str) -> Any:
    """An attribute of Dynamo's context, or its result where it is a method; None where there is none."""
    value = read(context, name)
    return value() if callable(value) else value


def _dynamo_key(context: Any) -> tuple[str, int]:
    """Key by the id that Dynamo gives every worker that works on a request, and what of it is counted elsewhere."""
    name = _value(context, "id")
    return dynamo_key(short(name)) if isinstance(name, str) and name else ("", 0)


def _dynamo_headers(context: Any) -> list[tuple[bytes, bytes]]:
    headers = {str(key): str(value) for key, value in dict(_value(context, "metadata") or {}).items()}
    traceparent = dict(_value(context, "trace_headers") or {}).get("traceparent")
    if traceparent:
        headers["traceparent"] = str(traceparent)
    return [
        (key.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace")) for key, value in headers.items()
    ]


# -- on rank 0, and from there to the others -----------------------------------------------------------------------


class _Queueing(threading.local):
    """The request that is being queued on this thread."""

    text = ""


_queueing = _Queueing()


@wrapper
def wrap_enqueue(original: Method, self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """`BaseWorker._enqueue_request`: here the server's request becomes the executor's."""
    text = ""
    with guard("trtllm.enqueue"):
        text = request_context.text_on(request)
        if text:
            process.contexts.remember(text, [], number(request, "id"))
    _queueing.text = text
    try:
        name = original(self, request, *args, **kwargs)
    finally:
        _queueing.text = ""
    with guard("trtllm.enqueue"):
        if text and isinstance(name, int):
            process.contexts.remember(text, [name])
    return name


@wrapper
def wrap_queue_item(original: Method, self: Any, *args: Any, **kwargs: Any) -> None:
    """`RequestQueueItem.__init__`: the item that rank 0 broadcasts carries the text."""
    original(self, *args, **kwargs)
    if _queueing.text:
        with guard("trtllm.queue_item"):
            self.__dict__[ATTRIBUTE] = _queueing.text
            _remember(self)


def unpack_queue_item(self: Any, state: dict[str, Any]) -> None:
    """`RequestQueueItem.__setstate__`, which upstream does not define: other ranks read the text as they unpickle."""
    self.__dict__.update(state)
    if ATTRIBUTE in state:
        with guard("trtllm.queue_item"):
            _remember(self)


def _remember(item: Any) -> None:
    children = read(item, "child_req_ids", [])
    process.contexts.remember(request_context.text_on(item), [item.id, *children])
