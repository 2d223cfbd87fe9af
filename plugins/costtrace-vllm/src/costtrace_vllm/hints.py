"""What a response says of its cost: by which id its row can be asked for. Off unless `response_hints` is set.

Not the cost itself: when a response begins, the steps that it will share have not been run, and when it ends, the agent
has not yet shared them. The server's process knows neither the steps nor the prices, and the engine is not to wait.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from costtrace.guard import guard

REQUEST_ID = b"x-costtrace-request-id"
FIRST_ERROR = 400
"""Status from which on a response is an error: no row, or one that explains nothing."""

Send = Callable[[Any], Awaitable[None]]


def hinted(send: Send, identify: Callable[[], str]) -> Send:
    """*send* of an ASGI server, with the header on the response's beginning where *identify* knows an id by then."""

    async def send_with_hint(message: Any) -> None:
        with guard("vllm.hints"):
            message = _with_id(message, identify)
        await send(message)

    return send_with_hint


def _with_id(message: Any, identify: Callable[[], str]) -> Any:
    if message["type"] != "http.response.start" or message["status"] >= FIRST_ERROR:
        return message
    known = identify()
    # What a client chose as its request id is in it: nothing that could end a header may get into one.
    if not known or not (known.isascii() and known.isprintable()):
        return message
    return {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, known.encode())]}
