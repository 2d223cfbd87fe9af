"""How a request's context gets from the server to the ranks: as one text on TensorRT-LLM's own request objects.

The server's `GenerationRequest` and the executor's `RequestQueueItem` are plain objects that are pickled with all their
attributes, over every transport (ZMQ, RPC, Ray, MPI). A process without costtrace can unpickle a text.
"""

from typing import Annotated, Any

import msgspec

from costtrace.capture.request_context import TextCodec

ATTRIBUTE = "_costtrace"


class RequestContext(msgspec.Struct, array_like=True, frozen=True):
    """What the server knows of a request and the ranks do not."""

    request_key: str
    tenant: str
    tenant_source: str
    operation: str = "chat"
    traceparent: str = ""
    arrived_ns: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    boot: str = ""
    """Boot id of the server's host: `arrived_ns` means nothing on another one."""
    user: str = ""
    labels: dict[str, str] = {}
    model: str = ""
    """Name of a LoRA adapter, which is billed as a model of its own."""
    elsewhere: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    """As `SequenceAdded.elsewhere`."""


_codec = TextCodec(RequestContext)
encode, decode = _codec.encode, _codec.decode


def text_on(request: Any) -> str:
    """The text on a request object; '' where there is none."""
    text = getattr(request, "__dict__", {}).get(ATTRIBUTE, "")
    return text if isinstance(text, str) else ""


def operation_of(path: str) -> str:
    """gen_ai operation name of a route."""
    return "text_completion" if path.endswith("/completions") and not path.endswith("/chat/completions") else "chat"
