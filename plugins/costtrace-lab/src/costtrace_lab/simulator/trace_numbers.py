"""Numbers and times of traces, as their writers put them: read strictly, or a `ValueError` says what is wrong."""

import re
from datetime import datetime

from costtrace.core.numbers import exact

MAX_TOKENS = 10**9
MAX_TIME = 1e14
"""Of a time in its own unit; milliseconds since 1970 are below it."""
_STAMP = re.compile(
    r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\s?(Z|[+-]\d\d:?\d\d)?",
    re.ASCII,
)


def count(value: object) -> int:
    """A whole number from 0 up to `MAX_TOKENS`; 1600.0 is one. Raises: ValueError."""
    number = None if isinstance(value, bool) else exact(str(value))
    if number is None or not 0 <= number <= MAX_TOKENS or number != int(number):
        raise ValueError(f"{value!r:.60} is no number of tokens")
    return int(number)


def time(value: object) -> float:
    """A finite number, in the trace's own unit. Raises: ValueError."""
    number = None if isinstance(value, bool) else exact(str(value))
    if number is None or abs(number) >= MAX_TIME:
        raise ValueError(f"{value!r:.60} is no time")
    return float(number)


def stamp(text: str) -> float:
    """Seconds since 1970 of a date with a time, with up to nine decimals; without an offset it is UTC.

    Raises: ValueError, OverflowError.
    """
    match = _STAMP.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r:.60} is no time, as in 2024-05-10 00:00:00.5+00:00")
    whole, fraction, offset = match.groups()  # decimals apart: `fromisoformat` reads six, Azure writes seven
    return datetime.fromisoformat(f"{whole}{offset or '+00:00'}").timestamp() + float(f"0.{fraction or 0}")
