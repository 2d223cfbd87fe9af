"""Fields of records in other tools' files: read exactly, or refused with a message that names the field."""

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from costtrace.core.errors import CosttraceError
from costtrace_board.figures import FigureRefused

Record = Mapping[str, object]


def load_json(text: str, file: str) -> object:
    """Parse JSON, with decimals exact. Raises: CosttraceError."""
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise CosttraceError(f"{file} is no JSON: {error}") from error


def number(record: Record, key: str) -> Decimal | None:
    """A finite number, or None where there is none. Raises: FigureRefused, for any other value."""
    value = record.get(key)
    if value is None or value == "":
        return None
    try:
        parsed = Decimal(str(value).replace(",", "").strip())
    except InvalidOperation:
        raise FigureRefused(f"{key} is {value!r}, not a number") from None
    if not parsed.is_finite() or isinstance(value, bool):
        raise FigureRefused(f"{key} is {value!r}, not a number")
    return parsed


def positive(record: Record, key: str) -> Decimal:
    """A number above 0. Raises: FigureRefused."""
    parsed = number(record, key)
    if parsed is None or parsed <= 0:
        raise FigureRefused(f"{key} is {record.get(key)!r}: a throughput above 0 is needed")
    return parsed


def whole(record: Record, key: str) -> int | None:
    """A whole number above 0, or None where there is none. Raises: FigureRefused."""
    parsed = number(record, key)
    if parsed is None:
        return None
    if parsed != parsed.to_integral_value() or parsed <= 0:
        raise FigureRefused(f"{key} is {record.get(key)!r}, not a count")
    return int(parsed)


def text(record: Record, key: str) -> str:
    """The value as text; '' where there is none."""
    value = record.get(key)
    return "" if value is None else str(value).strip()


def inner(record: Record, *path: str) -> Record:
    """The object at *path*; an empty one where it is missing."""
    inner_value: object = record
    for key in path:
        inner_value = inner_value.get(key) if isinstance(inner_value, Mapping) else None
    return inner_value if isinstance(inner_value, Mapping) else {}
