"""Hooks of the server's side: who asks, what the engine is told of it, and what the client got in the end."""

import atexit
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from costtrace.capture.asgi import headers_of, peer_of
from costtrace.capture.node_files.refusals import Refusal
from costtrace.capture.request_context import traceparent_of
from costtrace.capture.tenancy import identity as tenancy
from costtrace.core import clock
from costtrace.core.guard import guard, swallow
from costtrace_vllm import request_context
from costtrace_vllm.process import process
from costtrace_vllm.request_context import HEADER, RequestContext
from costtrace_vllm.server_side import answer_estimates, refusal
from costtrace_vllm.server_side.routes import route_of

SCOPE_KEY = "costtrace"
REMEMBERED = 10_000
"""Requests of which something is kept until the engine has been told of it: who asks, or what was delivered."""
ABORT = b"\x01"
"""Value of vLLM's EngineCoreRequestType.ABORT."""

_boot = clock.boot_id()
_said_pid = 0


def _say_status() -> None:
    """Write this process's status file, with its first request: a launcher or an inspection process has none."""
    global _said_pid  # noqa: PLW0603 - once a process
    if _said_pid != os.getpid():
        _said_pid = os.getpid()
        home = process.settings.home
        process.status.write(home, "frontend")
        atexit.register(_remove_status, home, _said_pid)


def _remove_status(home: Path, pid: int) -> None:
    if os.getpid() == pid:
        with guard("vllm.status"):
            process.status.remove(home, "frontend")


class Caller:
    """One request of a client, as it reached the HTTP server. What costs anything is worked out on first use."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.arrived_ns = time.monotonic_ns()
        self.key = ""
        self.identity: Any = None
        self.traceparent = ""
        self.estimate: Any = None
        """What its answer has probably cost, once that is known."""

    def resolve(self, adapter: str = "") -> None:
        """Find out who it is: once, when the request has passed authentication and goes to an engine.

        *adapter* is the LoRA adapter that is asked for, if any.
        """
        headers = headers_of(self.scope)
        identity = tenancy.resolve(headers, peer_of(self.scope), process.tenancy, model=adapter)
        label, route = process.settings.route_label, route_of(self.path)
        self.identity = identity._replace(labels={**identity.labels, label: route}) if label and route else identity
        self.traceparent = traceparent_of(headers)
        self.key = secrets.token_hex(8)

    @property
    def path(self) -> str:
        """Route of the request."""
        return str(self.scope.get("path", ""))

    def response_id(self) -> str:
        """The id of the response, where the server has already chosen it (vLLM keeps it for its own middlewares)."""
        metadata = (self.scope.get("state") or {}).get("request_metadata")
        return str(getattr(metadata, "request_id", "") or "")

    def ledger_id(self) -> str:
        """An id by which the ledger knows it, if there is one yet; else ''."""
        return self.response_id() or self.key

    def hints(self) -> Iterable[answer_estimates.Header]:
        """What is known by now of its cost, for the headers of its answer."""
        return answer_estimates.headers_for(self.ledger_id(), self.estimate)


_caller: ContextVar[Caller | None] = ContextVar("costtrace_caller", default=None)


def wrap_http(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Starlette.__call__`: remember who asks, for all that is done on behalf of this request."""

    @wraps(original)
    async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> None:  # noqa: N807 - its name
        token, refused, answer = None, None, send
        try:
            # A mounted application sees its parent's scope: the request is known already.
            if scope["type"] in {"http", "websocket"} and SCOPE_KEY not in scope:
                scope[SCOPE_KEY] = caller = Caller(scope)
                refused = _refused(caller)
                if _hints_are_on() and refusal.concerns(scope):
                    answer = answer_estimates.hinted(send, caller.hints)
                token = _caller.set(caller)
        except Exception as error:  # noqa: BLE001 - a request must not fail by its bookkeeping
            swallow("vllm.http", error)
        try:
            if refused is None:
                await original(self, scope, receive, answer)
            else:
                await refusal.answer(refused, scope, send)
        finally:
            if token is not None:
                with guard("vllm.http"):
                    _caller.reset(token)

    return __call__


def _hints_are_on() -> bool:
    setting = process.settings
    return setting.response_hints or setting.cost_estimates != "off"


def note_answer(answer: Any) -> None:
    """State in the usage of *answer* (a response of OpenAI's form) what it has probably cost."""
    caller = _caller.get()
    if caller is not None and caller.identity is not None:
        caller.estimate = answer_estimates.state(answer, caller.identity.tenant, caller.ledger_id())


wrap_answer = answer_estimates.wrap_answer(note_answer)


def wrap_build(original: Callable[..., Any]) -> Callable[..., Any]:
    """`ServingEmbedding._build_response`, in a thread that knows of no request: say there who asks."""

    @wraps(original)
    def _build_response(self: Any, ctx: Any, *args: Any, **kwargs: Any) -> Any:
        token = None
        with guard("vllm.estimate"):
            raw = ctx.raw_request  # None where no HTTP server asks
            token = _caller.set(None if raw is None else raw.scope.get(SCOPE_KEY))
        try:
            return original(self, ctx, *args, **kwargs)
        finally:
            if token is not None:
                _caller.reset(token)

    return _build_response


def _refused(caller: Caller) -> Refusal | None:
    """Why the caller's tenant is refused, where that is switched on."""
    setting = process.settings
    if not setting.admission or not refusal.concerns(caller.scope):
        return None
    caller.resolve()
    source = caller.identity.source
    if setting.tenant_models and (source == tenancy.DEFAULT or source.startswith(tenancy.REJECTED)):
        caller.identity = None  # the adapter, which only the engine's front end knows, may yet say who pays
        return None
    return process.refusals.refusal(caller.identity.tenant)


_introduced: OrderedDict[str, RequestContext] = OrderedDict()
"""Who is behind the newest external ids, where not vLLM's own server but another front end asks the engine."""


def introduce(external_id: str, context: RequestContext) -> None:
    """Say, for another front end than vLLM's server, who is behind *external_id* before the engine is asked for it.

    Its prompt key and operation are found out here. The newest `REMEMBERED` are kept: an id is asked for at once.
    """
    _introduced[external_id] = context
    if len(_introduced) > REMEMBERED:
        _introduced.popitem(last=False)


def label(request: Any) -> None:
    """Write the context of *request* (an EngineCoreRequest) where its engine finds it."""
    with guard("vllm.status"):
        _say_status()
    internal_id = request.request_id
    external_id = getattr(request, "external_req_id", None) or request_context.external_of(internal_id)
    pooling = request.pooling_params is not None
    caller = _caller.get()
    prompt_key = request_context.prompt_of(internal_id, external_id)
    introduced = _introduced.get(external_id)
    if introduced is not None:
        operation = introduced.operation or request_context.operation_of("", external_id, pooling=pooling)
        context = msgspec.structs.replace(introduced, prompt_key=prompt_key, operation=operation)
    elif caller is None:
        tenant = process.settings.tenant_default
        request_id = request_context.response_id(external_id, pooling=False)
        operation = request_context.operation_of("", external_id, pooling=pooling)
        context = RequestContext(request_id, request_id, prompt_key, operation, tenant, "process")
    else:
        if caller.identity is None:
            caller.resolve(str(getattr(getattr(request, "lora_request", None), "lora_name", "") or ""))
        identity = caller.identity
        context = RequestContext(
            caller.key,
            caller.response_id() or request_context.response_id(external_id, pooling=pooling),
            prompt_key,
            request_context.operation_of(caller.path, external_id, pooling=pooling),
            identity.tenant,
            identity.source,
            caller.traceparent,
            caller.arrived_ns,
            _boot,
            identity.user,
            identity.labels,
        )
    # A new dict: the children of a request with n>1 are shallow copies that share the old one.
    request.trace_headers = {**(request.trace_headers or {}), HEADER: request_context.encode(context)}


def wrap_add_async(original: Callable[..., Any]) -> Callable[..., Any]:
    """`add_request_async` of a client: label the request just before it is sent to the engine."""

    @wraps(original)
    async def add_request_async(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("vllm.add_request"):
            label(request)
        return await original(self, request, *args, **kwargs)

    return add_request_async


def wrap_add(original: Callable[..., Any]) -> Callable[..., Any]:
    """`add_request` of a client: label the request just before it is sent to the engine."""

    @wraps(original)
    def add_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("vllm.add_request"):
            label(request)
        return original(self, request, *args, **kwargs)

    return add_request


_delivered: OrderedDict[str, int] = OrderedDict()
"""Tokens that clients got, by internal id, of requests with stop strings that have just ended."""


def wrap_finish(original: Callable[..., Any]) -> Callable[..., Any]:
    """`OutputProcessor._finish_request`: remember what the client got, in case the server itself ended it."""

    @wraps(original)
    def _finish_request(self: Any, req_state: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("vllm.finish_request"):
            detokenizer = req_state.detokenizer
            if detokenizer is not None and getattr(detokenizer, "stop", None):
                _delivered[req_state.request_id] = detokenizer.num_output_tokens()
                if len(_delivered) > REMEMBERED:
                    _delivered.popitem(last=False)
        return original(self, req_state, *args, **kwargs)

    return _finish_request


def _stop_notes(request_ids: list[str]) -> list[str]:
    """Notes for the engine on those of *request_ids* that the server has ended itself. Each is told once."""
    if not _delivered:
        return []
    return [request_context.stop_note(_delivered.pop(i), i) for i in request_ids if i in _delivered]


def _with_stop_notes(request_type: Any, request: Any) -> Any:
    if getattr(request_type, "value", None) != ABORT or isinstance(request, str):
        return request
    notes = _stop_notes(request)
    return [*request, *notes] if notes else request


def wrap_send(original: Callable[..., Any]) -> Callable[..., Any]:
    """`_send_input` of a client (both kinds): an abort also says what the client got."""

    @wraps(original)
    def _send_input(self: Any, request_type: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("vllm.abort"):
            request = _with_stop_notes(request_type, request)
        return original(self, request_type, request, *args, **kwargs)

    return _send_input


def wrap_abort_balanced(original: Callable[..., Any]) -> Callable[..., Any]:
    """`DPLBAsyncMPClient.abort_requests_async`: it sends nothing for a request that its engine has just ended itself.

    The engine is not known any more by then, so every engine is told; the others do not know the id.
    """

    @wraps(original)
    async def abort_requests_async(self: Any, request_ids: Any, *args: Any, **kwargs: Any) -> Any:
        result = await original(self, request_ids, *args, **kwargs)
        with guard("vllm.abort"):
            notes = _stop_notes(request_ids)
            if notes and not self.resources.engine_dead:
                abort = import_module("vllm.v1.engine").EngineCoreRequestType.ABORT
                for engine in self.core_engines:
                    await self._send_input(abort, notes, engine)
        return result

    return abort_requests_async


def wrap_abort_inproc(original: Callable[..., Any]) -> Callable[..., Any]:
    """`InprocClient.abort_requests`: an abort also says what the client got."""

    @wraps(original)
    def abort_requests(self: Any, request_ids: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("vllm.abort"):
            notes = _stop_notes(request_ids)
            request_ids = [*request_ids, *notes] if notes else request_ids
        return original(self, request_ids, *args, **kwargs)

    return abort_requests
