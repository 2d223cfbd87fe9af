"""What the server knows of a request and the engine does not, and how it gets there: in a header of vLLM's own request.

vLLM passes ``trace_headers`` (string to string) unread from the server to the scheduler's request. The server's hooks
add one key with the request's context as compact JSON; the scheduler's hooks take it out before vLLM could echo it.
"""

import re
from typing import Annotated

import msgspec

from costtrace.capture.request_context import TextCodec

HEADER = "x-costtrace"

_CHILD = re.compile(r"\d+_")
_SUFFIX = re.compile(r"-[0-9a-f]{8}$")
_BEAM = re.compile(r"-[0-9a-f]{16,32}-beam-\d+$")
_PROMPT_INDEX = re.compile(r"(-prompt-\d+-chunk-\d+|-\d+)$")
_LONGEST_END = 96
"""Characters in which such an end is looked for: an id may have millions."""
_OPERATIONS = (
    ("chatcmpl-", "chat"),
    ("resp_", "chat"),
    ("cmpl-", "text_completion"),
    ("embd-", "embeddings"),
)


class RequestContext(msgspec.Struct, array_like=True, frozen=True):
    """What the server knows of a request and the engine does not."""

    request_key: str
    request_id: str
    prompt_key: str
    """The same for all sequences of one prompt."""
    operation: str
    """As ``gen_ai.operation.name``."""
    tenant: str
    tenant_source: str
    traceparent: str = ""
    arrived_ns: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """Monotonic time of the server's host."""
    boot: str = ""
    """Boot id of the server's host: `arrived_ns` means nothing on another one."""
    user: str = ""
    labels: dict[str, str] = {}
    role: str = ""
    """What the engine does for the request (``prefill``, ``decode``); empty: what the engine does for all."""
    elsewhere: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    """As `SequenceAdded.elsewhere`."""


_codec = TextCodec(RequestContext)
encode, decode = _codec.encode, _codec.decode


def parent_id(internal_id: str, external_id: str) -> str:
    """Internal id of the request that *internal_id* is a child of (``n>1``: children share its prompt), or itself."""
    child = _CHILD.match(internal_id)
    if child and internal_id.startswith(external_id, child.end()):
        return internal_id[child.end() :]
    return internal_id


def is_later_child(internal_id: str, external_id: str) -> bool:
    """Whether *internal_id* is of a child of ``n>1``, but not of the first one."""
    return parent_id(internal_id, external_id) != internal_id and not internal_id.startswith("0_")


def prompt_of(internal_id: str, external_id: str, response_id: str = "") -> str:
    """What sequences of one prompt have in common: the children of ``n>1``, and the many requests of a beam search.

    A beam search adds its marks behind the *response_id* that its server has chosen. Before them is a client's text.
    """
    known = response_id and external_id.startswith(response_id)
    whole = _without(_BEAM, external_id, len(response_id)) if known else external_id
    return whole if whole is not external_id else parent_id(internal_id, external_id)


def response_id(external_id: str, *, pooling: bool) -> str:
    """The ``id`` in the response, by the engine's *external_id*, where the server has not kept it for middlewares."""
    external_id = _without(_BEAM, external_id)
    return _without(_PROMPT_INDEX, external_id) if pooling or external_id.startswith("cmpl-") else external_id


def external_of(internal_id: str) -> str:
    """What *internal_id* was before vLLM added its random suffix, for an engine whose server sent no context."""
    child = _CHILD.match(internal_id)
    return _without(_SUFFIX, internal_id[child.end() :] if child else internal_id)


def _without(end: re.Pattern[str], text: str, start: int = 0) -> str:
    """*text* without the *end* that it has at *start* or later; *text* itself where it has none."""
    found = end.search(text, max(start, len(text) - _LONGEST_END))
    return text[: found.start()] if found else text


def operation_of(path: str, external_id: str, *, pooling: bool) -> str:
    """``gen_ai.operation.name`` of a request: by its route where there is one, else by how its id begins."""
    if pooling:
        return "embeddings"
    if path.endswith(("/chat/completions", "/responses", "/messages")):
        return "chat"
    for prefix, operation in _OPERATIONS:
        if external_id.startswith(prefix):
            return operation
    return "text_completion"
