"""Hooks on the ends of requests: the engine learns what the client got where the server itself ended a request.

At a stop string the server ends the request and aborts it in the engine, which has computed a few tokens more and would
record an abort. So the list of the abort carries a note: the number of tokens that were delivered, then the request's
id once more. Ids are texts, which clients may choose; no client can put a number there. A scheduler without costtrace
ignores the number, as it ignores any id that it does not know.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

from costtrace.core.client_text import short
from costtrace.core.guard import guard

REMEMBERED = 10_000
"""Ended requests whose delivered tokens are kept until their abort is sent."""
ABORT = b"\x01"
"""Value of vLLM's EngineCoreRequestType.ABORT."""

_delivered: OrderedDict[str, int] = OrderedDict()
"""Tokens that clients got, by internal id, of requests with stop strings that have just ended."""


def wrap_finish(original: Callable[..., Any]) -> Callable[..., Any]:
    """`OutputProcessor._finish_request`: remember what the client got, in case the server itself ended the request."""

    @wraps(original)
    def _finish_request(self: Any, req_state: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("vllm.finish_request"):
            detokenizer = req_state.detokenizer
            if detokenizer is not None and getattr(detokenizer, "stop", None):
                _delivered[short(req_state.request_id)] = detokenizer.num_output_tokens()
                if len(_delivered) > REMEMBERED:
                    _delivered.popitem(last=False)
        return original(self, req_state, *args, **kwargs)

    return _finish_request


def wrap_send(original: Callable[..., Any]) -> Callable[..., Any]:
    """`_send_input` of an engine's client, asynchronous or not: an abort also says what the clients got."""

    @wraps(original)
    def _send_input(self: Any, request_type: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("vllm.abort"):
            if getattr(request_type, "value", None) == ABORT and not isinstance(request, str):
                request = _with_stop_notes(request)
        return original(self, request_type, request, *args, **kwargs)

    return _send_input


def wrap_abort_balanced(original: Callable[..., Any]) -> Callable[..., Any]:
    """`DPLBAsyncMPClient.abort_requests_async`: it sends nothing for a request that its engine has just ended itself.

    By then the client no longer knows which engine had the request, so the note goes to every engine. Those that never
    had the request ignore it.
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
    """`InprocClient.abort_requests`: an abort also says what the clients got."""

    @wraps(original)
    def abort_requests(self: Any, request_ids: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("vllm.abort"):
            request_ids = _with_stop_notes(request_ids)
        return original(self, request_ids, *args, **kwargs)

    return abort_requests


def _with_stop_notes(request_ids: Any) -> Any:
    notes = _stop_notes(request_ids)
    return [*request_ids, *notes] if notes else request_ids


def _stop_notes(request_ids: list[str]) -> list[int | str]:
    """Tokens and id of each of *request_ids* that the server has ended itself. Each is sent once."""
    if not _delivered:
        return []
    return [part for i in request_ids if (kept := short(i)) in _delivered for part in (_delivered.pop(kept), i)]
