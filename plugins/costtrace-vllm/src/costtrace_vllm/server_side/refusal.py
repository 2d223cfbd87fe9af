"""HTTP 429 for a tenant above a hard budget. Off unless `admission` is set; who is above one, the agent says."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from costtrace.capture.node_files.refusals import Refusal
from costtrace.core.guard import guard
from costtrace_vllm.process import process
from costtrace_vllm.server_side.routes import WORK, last_part

SAY_EVERY_S = 1.0
POLICY_VIOLATION = 1008
"""Of RFC 6455, 7.4.1."""

_saying = False


def concerns(scope: dict[str, Any]) -> bool:
    """Whether a request is one for an engine to work on."""
    asks = scope.get("type") == "websocket" or scope.get("method") == "POST"
    return asks and last_part(str(scope.get("path", ""))) in WORK


async def answer(why: Refusal, scope: dict[str, Any], send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Refuse, in the form of OpenAI's errors. Raises: what *send* raises.

    A websocket is refused before it is accepted; a server that cannot say more than that answers it with HTTP 403.
    """
    if scope["type"] == "websocket" and "websocket.http.response" not in (scope.get("extensions") or {}):
        await send(
            {"type": "websocket.close", "code": POLICY_VIOLATION, "reason": f"The budget {why.budget!r} is spent."}
        )
    else:
        kind = "websocket.http" if scope["type"] == "websocket" else "http"
        body, headers = _body(why, time.time())
        status_code = HTTPStatus.TOO_MANY_REQUESTS.value
        await send({"type": f"{kind}.response.start", "status": status_code, "headers": headers})
        await send({"type": f"{kind}.response.body", "body": body})
    with guard("vllm.refusal"):
        _say_soon()


def _body(why: Refusal, now_s: float) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    headers = [(b"content-type", b"application/json")]
    message = f"The budget {why.budget!r} is spent. "
    if why.ends_s:
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(why.ends_s))
        message += f"It begins anew at {ends}; until then, ask whoever set it."
        headers.append((b"retry-after", str(max(1, round(why.ends_s - now_s))).encode()))
    else:
        message += "It looks back over some days: ask whoever set it."
    error = {
        "message": message,
        "type": "insufficient_quota",
        "param": None,
        "code": HTTPStatus.TOO_MANY_REQUESTS.value,
    }
    body = json.dumps({"error": error}).encode()
    return body, [*headers, (b"content-length", str(len(body)).encode())]


def _say_soon() -> None:
    """Write the count of refusals for the agent, once for all of a second."""
    global _saying  # noqa: PLW0603 - one timer a process
    if not _saying:
        _saying = True
        asyncio.get_running_loop().call_later(SAY_EVERY_S, _say)


def _say() -> None:
    global _saying  # noqa: PLW0603 - one timer a process
    _saying = False
    with guard("vllm.refusal"):
        process.status.write(process.settings.home, "frontend", refused=process.refusals.refusals)
