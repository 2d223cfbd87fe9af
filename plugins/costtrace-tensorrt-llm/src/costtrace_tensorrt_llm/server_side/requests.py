"""Hooks of the server's side: who asks, written onto the request that goes to the ranks. OpenAI routes and Dynamo."""

import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any

import msgspec

from costtrace.capture.asgi import headers_of, peer_of
from costtrace.capture.request_context import traceparent_of, valid_traceparent
from costtrace.capture.tenancy import identity as tenancy
from costtrace.core import clock
from costtrace.core.guard import guard, swallow
from costtrace.core.rows import JOINED
from costtrace_tensorrt_llm import request_context
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.rank_side.batches import number, read
from costtrace_tensorrt_llm.request_context import ATTRIBUTE, RequestContext
from costtrace_tensorrt_llm.server_side.contexts import contexts


class Caller:
    """One request of a client. What costs anything is worked out when it goes to an engine."""

    def __init__(self, headers: list[tuple[bytes, bytes]], peer: str | None, path: str, key: str = "") -> None:
        self.headers = headers
        self.peer = peer
        self.path = path
        self.key = key or secrets.token_hex(8)
        self.arrived_ns = time.monotonic_ns()
        self._context: RequestContext | None = None

    def context(self) -> RequestContext:
        """Who it is, and its place in a trace: the same for all that is done on its behalf."""
        if self._context is None:
            identity = tenancy.resolve(self.headers, self.peer, process.tenancy)
            self._context = RequestContext(
                self.key,
                identity.tenant,
                identity.source,
                request_context.operation_of(self.path),
                traceparent_of(self.headers),
                self.arrived_ns,
                clock.boot_id(),
                identity.user,
                identity.labels,
            )
        return self._context


_caller: ContextVar[Caller | None] = ContextVar("costtrace_caller", default=None)


class Identify:
    """ASGI middleware: remembers who asks, for all that is done on behalf of this HTTP request."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        try:
            if scope["type"] in {"http", "websocket"}:
                _caller.set(Caller(headers_of(scope), peer_of(scope), scope.get("path", "")))
        except Exception as error:  # noqa: BLE001 - a request must not fail by its bookkeeping
            swallow("trtllm.http", error)
        await self.app(scope, receive, send)


def wrap_server(original: Callable[..., Any]) -> Callable[..., Any]:
    """`OpenAIServer.__init__`: its application gets the middleware."""

    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name
        original(self, *args, **kwargs)
        with guard("trtllm.server"):
            self.app.add_middleware(Identify)

    return __init__


def wrap_label(original: Callable[..., Any]) -> Callable[..., Any]:
    """`GenerationRequest.__init__`: write who asks onto the request."""

    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name
        original(self, *args, **kwargs)
        with guard("trtllm.label"):
            self.__dict__[ATTRIBUTE] = request_context.encode(_context_of(self))

    return __init__


def _context_of(request: Any) -> RequestContext:
    caller = _caller.get()
    adapter = str(read(read(request, "lora_request"), "lora_name", "") or "")
    if caller is not None:
        context = caller.context()
        return msgspec.structs.replace(context, model=adapter) if adapter else context
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


def wrap_dynamo(original: Callable[..., Any]) -> Callable[..., Any]:
    """Dynamo's `HandlerBase.generate_locally`: no HTTP server here; the router's context says who asks.

    Its metadata were set by Dynamo's frontend, which is the trusted hop: what comes in from outside is stripped there.
    """

    @wraps(original)
    async def generate_locally(self: Any, request: Any, context: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        token = None
        with guard("trtllm.dynamo"):
            token = _caller.set(Caller(_dynamo_headers(context), None, "", _dynamo_key(context)))
        try:
            async for answer in original(self, request, context, *args, **kwargs):
                yield answer
        finally:
            if token is not None:
                try:
                    _caller.reset(token)
                except ValueError:
                    _caller.set(None)  # closed from another context than it was begun in

    return generate_locally


def _dynamo_key(context: Any) -> str:
    """The id that Dynamo gives every worker that works on a request: its parts are joined by it."""
    name = read(context, "id", "")
    name = name() if callable(name) else name
    return JOINED + name if isinstance(name, str) and name else ""


def _dynamo_headers(context: Any) -> list[tuple[bytes, bytes]]:
    found: dict[str, str] = {}
    metadata = read(context, "metadata", {})
    metadata = metadata() if callable(metadata) else metadata
    found.update({str(key): str(value) for key, value in dict(metadata or {}).items()})
    trace = read(context, "trace_headers")
    trace = trace() if callable(trace) else trace
    found.update({key: str(value) for key, value in dict(trace or {}).items() if key == "traceparent" and value})
    return [(_bytes(key.lower()), _bytes(value)) for key, value in found.items()]


def _bytes(text: str) -> bytes:
    return text.encode("latin-1", "replace")


# -- on rank 0, and from there to the others


class _Coming(threading.local):
    """What the request that is being queued on this thread says."""

    text = ""


_coming = _Coming()


def wrap_enqueue(original: Callable[..., Any]) -> Callable[..., Any]:
    """`BaseWorker._enqueue_request`: here the server's request becomes the executor's."""

    @wraps(original)
    def _enqueue_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        text = ""
        with guard("trtllm.enqueue"):
            text = request_context.text_on(request)
            if text:
                contexts.remember(text, [], number(request, "id"))
        _coming.text = text
        try:
            name = original(self, request, *args, **kwargs)
        finally:
            _coming.text = ""
        with guard("trtllm.enqueue"):
            if text and isinstance(name, int):
                contexts.remember(text, [name])
        return name

    return _enqueue_request


def wrap_queue_item(original: Callable[..., Any]) -> Callable[..., Any]:
    """`RequestQueueItem.__init__`: the item that rank 0 broadcasts carries the text."""

    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name
        original(self, *args, **kwargs)
        if _coming.text:
            with guard("trtllm.queue_item"):
                self.__dict__[ATTRIBUTE] = _coming.text
                _remember(self)

    return __init__


def unpack_queue_item(self: Any, state: dict[str, Any]) -> None:
    """`RequestQueueItem.__setstate__`, which it lacks: on the other ranks the text is read as the item comes."""
    self.__dict__.update(state)
    if ATTRIBUTE in state:
        with guard("trtllm.queue_item"):
            _remember(self)


def _remember(item: Any) -> None:
    children = read(item, "child_req_ids", [])
    contexts.remember(request_context.text_on(item), [item.id, *children])
