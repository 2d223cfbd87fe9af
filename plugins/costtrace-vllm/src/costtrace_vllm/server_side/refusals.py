"""HTTP 429 for a tenant above a hard budget. Off unless `admission` is set; the agent says who is above one."""

import json
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from costtrace.capture.node_files.refusals import Refusal
from costtrace.capture.tenancy.identity import DEFAULT, REJECTED
from costtrace.core.guard import guard
from costtrace_vllm.process import process
from costtrace_vllm.server_side import status_file
from costtrace_vllm.server_side.caller import Caller
from costtrace_vllm.server_side.routes import is_engine_work

POLICY_VIOLATION = 1008
"""Close code of RFC 6455, 7.4.1."""


def refusal_of(caller: Caller) -> Refusal | None:
    """Why the caller's tenant is refused now; None where it is not, or refusals are off."""
    settings = process.settings
    if not settings.admission or not is_engine_work(caller.scope):
        return None
    identity = caller.resolve()
    if settings.tenant_models and (identity.source == DEFAULT or identity.source.startswith(REJECTED)):
        caller.identity = None  # the adapter may yet name a tenant, and is known only once the body has been read
        return None
    return process.refusals.refusal(identity.tenant)


async def send_refusal(
    refusal: Refusal, scope: dict[str, Any], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """Answer with HTTP 429 in the form of OpenAI's errors. Raises: what *send* raises.

    A websocket is refused before it is accepted. A server without the extension ``websocket.http.response`` can only
    close it, which the client sees as HTTP 403.
    """
    if scope["type"] == "websocket" and "websocket.http.response" not in (scope.get("extensions") or {}):
        reason = f"The budget {refusal.budget!r} is spent."
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason})
    else:
        kind = "websocket.http" if scope["type"] == "websocket" else "http"
        body, headers = _response(refusal, time.time())
        status_code = HTTPStatus.TOO_MANY_REQUESTS.value
        await send({"type": f"{kind}.response.start", "status": status_code, "headers": headers})
        await send({"type": f"{kind}.response.body", "body": body})
    with guard("vllm.refusal"):
        status_file.rewrite_soon()


def _response(refusal: Refusal, now_s: float) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Body and headers. A client can retry when the budget's period ends; a rolling budget has no such time."""
    headers = [(b"content-type", b"application/json")]
    message = f"The budget {refusal.budget!r} is spent. "
    if refusal.ends_s:
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(refusal.ends_s))
        message += f"It starts again at {ends}; until then, ask the person who set it."
        headers.append((b"retry-after", str(max(1, round(refusal.ends_s - now_s))).encode()))
    else:
        message += "It looks back over some days: ask the person who set it."
    error = {
        "message": message,
        "type": "insufficient_quota",
        "param": None,
        "code": HTTPStatus.TOO_MANY_REQUESTS.value,
    }
    body = json.dumps({"error": error}).encode()
    return body, [*headers, (b"content-length", str(len(body)).encode())]
