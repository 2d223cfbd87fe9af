"""Decimal numbers as people, files and other programs write them."""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_LONGEST = 400


def exact(text: str) -> Decimal | None:
    """The decimal number that *text* is, or None.

    Digits are ASCII, the decimal separator is a point: ``012`` is 12, ``.5`` and ``1e3`` are numbers;
    ``1,5``, ``1_000``, ``0x1F``, ``1:30`` and ``NaN`` are not.
    """
    text = text.strip()
    return Decimal(text) if len(text) <= _LONGEST and _NUMBER.fullmatch(text) else None
