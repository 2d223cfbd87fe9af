"""How a request's context gets from the server to the ranks: one text on TensorRT-LLM's own request objects.

The server's `GenerationRequest` and the executor's `RequestQueueItem` are plain objects that are pickled with all their
attributes, over every transport (ZMQ, RPC, Ray, MPI). A text can be read where no costtrace is installed.
"""

import re
from typing import Any

import msgspec

ATTRIBUTE = "_costtrace"

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class RequestContext(msgspec.Struct, array_like=True, frozen=True):
    """What the server knows of a request and the ranks do not."""

    request_key: str
    tenant: str
    tenant_source: str
    operation: str = "chat"
    traceparent: str = ""
    arrived_ns: int = 0
    boot: str = ""
    """Boot id of the server's host: `arrived_ns` means nothing on another one."""
    user: str = ""
    labels: dict[str, str] = {}
    model: str = ""
    """Name of a LoRA adapter, which is a model of its own."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(RequestContext).decode


def encode(context: RequestContext) -> str:
    """Text of *context*."""
    return _encode(context).decode()


def decode(text: str) -> RequestContext | None:
    """The context in *text*; None where it is not one of ours."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return None


def arrival_of(text: str) -> int:
    """When the request with *text* was made (monotonic ns); 0 where it does not say."""
    context = decode(text) if text else None
    return context.arrived_ns if context is not None else 0


def text_on(thing: Any) -> str:
    """The text on a request object; '' where there is none."""
    text = getattr(thing, "__dict__", {}).get(ATTRIBUTE, "")
    return text if isinstance(text, str) else ""


def valid_traceparent(value: object) -> str:
    """A W3C traceparent, exactly as it came; '' where it is none."""
    if not isinstance(value, str):
        return ""
    match = _TRACEPARENT.fullmatch(value)
    return value if match and (match[1] is None or not value.startswith("00")) else ""


def operation_of(path: str) -> str:
    """gen_ai operation name of a route."""
    return "text_completion" if path.endswith("/completions") and not path.endswith("/chat/completions") else "chat"
