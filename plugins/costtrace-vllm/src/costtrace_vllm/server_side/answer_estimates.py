"""What an answer says of its cost: the id by which the ledger has its row, and an estimate. Off unless it is set.

An answer cannot state its cost itself: when it begins, the steps that it will share have not run, and when it ends, the
agent has not attributed them yet. The engine must not wait for that. An estimate goes by the answer's tokens, which are
known once its `usage` is, and by what requests have cost until now (`costtrace.capture.node_files.cost_estimates`).
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import Any

from costtrace.capture.node_files.cost_estimates import Estimate, Used, estimate
from costtrace.core.guard import guard
from costtrace.core.units import NANO_PER_UNIT, amount
from costtrace_vllm.process import process
from costtrace_vllm.server_side.caller import SCOPE_KEY, Caller, current_caller

REQUEST_ID = b"x-costtrace-request-id"
COST_ESTIMATE = b"x-costtrace-cost-estimate"
COST_CURRENCY = b"x-costtrace-cost-currency"
FIRST_ERROR = 400
"""HTTP status from which on a response is an error: it has no row in the ledger, or one that explains nothing."""
USD = "USD"
"""The currency that readers of `usage.cost` assume."""

Send = Callable[[Any], Awaitable[None]]
Header = tuple[bytes, bytes]


def are_wanted() -> bool:
    """Whether responses get headers that concern their cost."""
    return process.settings.response_hints or process.settings.cost_estimates != "off"


def with_headers(send: Send, headers: Callable[[], Iterable[Header]]) -> Send:
    """*send* of an ASGI server which adds *headers*, evaluated when the response begins, to those of the response."""

    async def send_with_headers(message: Any) -> None:
        with guard("vllm.hints"):
            message = _add(headers, message)
        await send(message)

    return send_with_headers


def _add(headers: Callable[[], Iterable[Header]], message: Any) -> Any:
    if message["type"] != "http.response.start" or message["status"] >= FIRST_ERROR:
        return message
    added = tuple(headers())
    return {**message, "headers": [*message.get("headers", ()), *added]} if added else message


def headers_of(caller: Caller) -> Iterable[Header]:
    """The id by which the ledger finds the caller's request, and the estimate: each where it is known by now."""
    request_id, estimated = caller.ledger_id(), caller.estimate
    # A client can choose the id: nothing that could end a header may get into one.
    if request_id and request_id.isascii() and request_id.isprintable():
        yield REQUEST_ID, request_id.encode()
    if estimated is not None:
        yield COST_ESTIMATE, f"{amount(estimated.nano):f}".encode()
        yield COST_CURRENCY, estimated.means.currency.encode()


def wrap_answer(original: Callable[..., None]) -> Callable[..., None]:
    """`__init__` of a class of answers: one made with its usage gets an estimate (the last of a stream).

    (A usage in the middle of a stream is set later, piece by piece, and gets none.)
    """

    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name
        original(self, *args, **kwargs)
        if kwargs.get("usage") is not None:
            with guard("vllm.estimate"):
                note_answer(self)

    return __init__


def wrap_build(original: Callable[..., Any]) -> Callable[..., Any]:
    """`ServingEmbedding._build_response`, which runs in a thread of its own: set there who asks."""

    @wraps(original)
    def _build_response(self: Any, ctx: Any, *args: Any, **kwargs: Any) -> Any:
        token = None
        with guard("vllm.estimate"):
            raw = ctx.raw_request  # None where no HTTP server asks
            token = current_caller.set(None if raw is None else raw.scope.get(SCOPE_KEY))
        try:
            return original(self, ctx, *args, **kwargs)
        finally:
            if token is not None:
                current_caller.reset(token)

    return _build_response


def note_answer(answer: Any) -> None:
    """Put an estimate into the usage of *answer* (a response of OpenAI's form) and keep it for the headers."""
    caller = current_caller.get()
    if caller is not None and caller.identity is not None:
        caller.estimate = _state(answer, caller.identity.tenant, caller.ledger_id())


def _state(answer: Any, tenant: str, request_id: str) -> Estimate | None:
    """Put the estimate into the usage of *answer*, and return it; None where there are no means to estimate by.

    `cost` is a number in USD, as gateways that sell by the token have it and as their readers expect it (some refuse
    anything but a number). `cost_details` says that it is an estimate, and of what; in other currencies it comes alone.
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
