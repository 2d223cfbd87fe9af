"""What an answer says of its cost: by which id its row can be asked for, and an estimate. Off unless it is set.

The cost itself it cannot say: when an answer begins, the steps that it will share have not been run, and when it ends,
the agent has not yet shared them. The engine is not to wait. An estimate goes by the tokens of the answer, which are
known when its `usage` is, and by what requests have cost until now (`costtrace.capture.node_files.cost_estimates`).
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import Any

from costtrace.capture.node_files.cost_estimates import Estimate, Used, estimate
from costtrace.core.guard import guard
from costtrace.core.units import NANO_PER_UNIT, amount
from costtrace_vllm.process import process

REQUEST_ID = b"x-costtrace-request-id"
COST_ESTIMATE = b"x-costtrace-cost-estimate"
COST_CURRENCY = b"x-costtrace-cost-currency"
FIRST_ERROR = 400
"""Status from which on a response is an error: no row, or one that explains nothing."""
USD = "USD"
"""What readers of `usage.cost` take it for."""

Send = Callable[[Any], Awaitable[None]]
Header = tuple[bytes, bytes]


def hinted(send: Send, headers: Callable[[], Iterable[Header]]) -> Send:
    """*send* of an ASGI server, with *headers*, as they are by then, on the response's beginning."""

    async def send_with_hint(message: Any) -> None:
        with guard("vllm.hints"):
            message = _with(message, headers)
        await send(message)

    return send_with_hint


def _with(message: Any, headers: Callable[[], Iterable[Header]]) -> Any:
    if message["type"] != "http.response.start" or message["status"] >= FIRST_ERROR:
        return message
    more = tuple(headers())
    return {**message, "headers": [*message.get("headers", ()), *more]} if more else message


def headers_for(request_id: str, estimated: Estimate | None) -> Iterable[Header]:
    """The id by which the ledger knows a request, and the estimate, each where it is known ('', None: it is not)."""
    # What a client chose as its request id is in it: nothing that could end a header may get into one.
    if request_id and request_id.isascii() and request_id.isprintable():
        yield REQUEST_ID, request_id.encode()
    if estimated is not None:
        yield COST_ESTIMATE, f"{amount(estimated.nano):f}".encode()
        yield COST_CURRENCY, estimated.means.currency.encode()


def wrap_answer(note: Callable[[Any], None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`__init__` of a class of answers: *note* is told of those that state their usage. Of a stream, that is the last.

    (The usage in the middle of a stream is set later, piece by piece.)
    """

    def wrap(original: Callable[..., None]) -> Callable[..., None]:
        @wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name
            original(self, *args, **kwargs)
            if kwargs.get("usage") is not None:
                with guard("vllm.estimate"):
                    note(self)

        return __init__

    return wrap


def state(answer: Any, tenant: str, request_id: str) -> Estimate | None:
    """Put the estimate into the usage of *answer*, and return it; None where nothing is known to go by.

    `cost` is a number in USD, as gateways have it that sell by the token and as their readers expect it (some refuse
    anything but a number); `cost_details` says that it is an estimate, of what, and stands alone in other currencies.
    """
    means = process.estimates.means(str(answer.model or ""), tenant)
    if means is None:
        return None
    usage = answer.usage
    details = usage.prompt_tokens_details
    used = Used(usage.prompt_tokens, getattr(details, "cached_tokens", None), usage.completion_tokens or 0)
    estimated = estimate(means, used)
    if estimated is not None:
        if means.currency == USD:
            usage.cost = estimated.nano / NANO_PER_UNIT
        usage.cost_details = {**estimated.details(), "request_id": request_id}
    return estimated
