"""Reading values of other tools' files: exact, and with a refusal that names the field."""

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from costtrace.core.errors import CosttraceError
from costtrace_board.figures import FigureRefused

Record = Mapping[str, object]


def load_json(text: str, file: str) -> object:
    """Parse JSON with exact decimals. Raises: CosttraceError."""
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise CosttraceError(f"{file} is no JSON: {error}") from error


def number(record: Record, key: str) -> Decimal | None:
    """A finite number, or None where there is none. Raises: FigureRefused, where something else stands there."""
    value = record.get(key)
    if value is None or value == "":
        return None
    try:
        found = Decimal(str(value).replace(",", "").strip())
    except InvalidOperation:
        raise FigureRefused(f"{key} is {value!r}, not a number") from None
    if not found.is_finite() or isinstance(value, bool):
        raise FigureRefused(f"{key} is {value!r}, not a number")
    return found


def positive(record: Record, key: str) -> Decimal:
    """A number above 0. Raises: FigureRefused."""
    found = number(record, key)
    if found is None or found <= 0:
        raise FigureRefused(f"{key} is {record.get(key)!r}: a throughput above 0 is needed")
    return found


def whole(record: Record, key: str) -> int | None:
    """A whole number above 0, or None where there is none. Raises: FigureRefused."""
    found = number(record, key)
    if found is None:
        return None
    if found != found.to_integral_value() or found <= 0:
        raise FigureRefused(f"{key} is {record.get(key)!r}, not a count")
    return int(found)


def text(record: Record, key: str) -> str:
    """A text, '' where there is none."""
    value = record.get(key)
    return "" if value is None else str(value).strip()


def inner(record: Record, *path: str) -> Record:
    """The object at *path*; an empty one where it is missing."""
    found: object = record
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
