"""Texts that clients choose (ids, names, trace headers): bounded where they enter, always fit to be written. Pure."""

from hashlib import blake2b
from typing import Any

import msgspec

MOST = 256
"""Characters that are kept of such a text."""
_MARK = "#"
_ENDS = 4096
_CUT = MOST + len(_MARK) + 16


def short(text: str) -> str:
    """*text*; if it is longer than `MOST`, its beginning, ``#``, and a hash of it. The same again where it is that."""
    if len(text) <= MOST or is_cut(text):
        return text
    # Of both ends and the length: a text of many megabytes must not take the time that hashing it would.
    ends = f"{len(text)}{text[:_ENDS]}{text[-_ENDS:]}".encode("utf-8", "replace")
    return f"{text[:MOST]}{_MARK}{blake2b(ends, digest_size=8).hexdigest()}"


def is_cut(text: str) -> bool:
    """Whether *text* is one that `short` has cut."""
    return len(text) == _CUT and text[MOST] == _MARK


def writable(value: object) -> Any:  # noqa: ANN401 - what msgspec makes of any value
    """*value* as msgspec encodes it, all texts cut, with ``?`` for each control character and lone surrogate."""
    if isinstance(value, str):
        return "".join(char if char.isprintable() else "?" for char in short(value))
    if isinstance(value, dict):
        return {writable(key): writable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [writable(each) for each in value]
    plain = msgspec.to_builtins(value)
    return plain if plain is value else writable(plain)
