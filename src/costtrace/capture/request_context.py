"""What travels with a request through an engine's own objects, as text; and reading a W3C traceparent. Pure."""

import re
from collections.abc import Iterable
from typing import Generic, TypeVar

import msgspec

from costtrace.core.client_text import short, writable
from costtrace.core.events import COUNTED_REQUEST
from costtrace.core.rows import JOINED

T = TypeVar("T")

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


_LISTED = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}-[0-9]{1,9}")


class TextCodec(Generic[T]):
    """Encodes values of one type as text (compact JSON), and back."""

    def __init__(self, kind: type[T]) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(kind).decode

    def encode(self, value: T) -> str:
        """Text of *value*."""
        try:
            return self._encode(value).decode()
        except UnicodeEncodeError:  # a lone surrogate
            return self._encode(writable(value)).decode()

    def decode(self, text: str) -> T | None:
        """The value in *text*; None where *text* is not such JSON."""
        try:
            return self._decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None


def dynamo_key(request_id: str) -> tuple[str, int]:
    """Request key of a part that Dynamo's frontend knows as *request_id*, and what of it is counted elsewhere.

    For a list of prompts the frontend makes one request of each, ``<uuid>-<number>``: the first one counts the call.
    """
    name, _, number = request_id.rpartition("-")
    if not _LISTED.fullmatch(request_id):
        return JOINED + request_id, 0
    return f"{JOINED}{name}/{int(number)}", COUNTED_REQUEST if int(number) else 0


def valid_traceparent(value: object) -> str:
    """*value* if it is a valid W3C traceparent, else ''."""
    if not isinstance(value, str):
        return ""
    match = _TRACEPARENT.fullmatch(value)
    return short(value) if match and (match[1] is None or not value.startswith("00")) else ""


def traceparent_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The one traceparent among HTTP headers; '' where there is none, several, or none that is valid."""
    values = [value.decode("latin-1") for name, value in headers if name.lower() == b"traceparent"]
    return valid_traceparent(values[0]) if len(values) == 1 else ""
