"""Fields of records in other tools' files: read exactly, or refused with a message that names the field."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal

from costtrace.core.errors import CosttraceError
from costtrace.core.numbers import exact
from costtrace_board.figures import FigureRefused

Record = Mapping[str, object]
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
_NO_NUMBERS = {"nan", "inf", "infinity"}
_MAGNITUDES = range(-40, 19)
"""Powers of ten of a number that can be meant: beyond them, arithmetic with it would fail or never end."""
_FLAGS = {"true": True, "1": True, "false": False, "0": False, "": False}


def load_json(text: str, file: str) -> object:
    """Parse JSON, with decimals exact. Raises: CosttraceError."""
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise CosttraceError(f"{file} is no JSON: {error}") from error


def number(record: Record, key: str) -> Decimal | None:
    """A finite number, or None where there is none (NaN and infinity are none). Raises: FigureRefused, for any other.

    Commas are accepted between groups of three digits only: ``1,234.5``.
    """
    written = text(record, key)
    if not written or written.casefold().lstrip("+-") in _NO_NUMBERS:
        return None
    parsed = exact(written.replace(",", "") if _GROUPED.fullmatch(written) else written)
    if parsed is None:
        decimal = exact(written.replace(",", ".", 1))
        hint = "" if decimal is None else f": write {decimal} (a comma is for thousands, as in 1,234.5)"
        raise FigureRefused(f"{key} is {_shown(record, key)}, not a number{hint}")
    if parsed and parsed.adjusted() not in _MAGNITUDES:
        raise FigureRefused(f"{key} is {_shown(record, key)}: it cannot be of that size")
    return parsed


def positive(record: Record, key: str) -> Decimal:
    """A number above 0. Raises: FigureRefused."""
    parsed = number(record, key)
    if parsed is None or parsed <= 0:
        raise FigureRefused(f"{key} is {_shown(record, key)}: a throughput above 0 is needed")
    return parsed


def measured(record: Record, key: str) -> Decimal | None:
    """A speed or a power: a number above 0; None where there is none, or one that nobody can have measured."""
    parsed = number(record, key)
    return parsed if parsed is not None and parsed > 0 else None


def count(record: Record, key: str) -> int | None:
    """A whole number from 0 up, or None where there is none. Raises: FigureRefused."""
    parsed = number(record, key)
    if parsed is None:
        return None
    if parsed != parsed.to_integral_value() or parsed < 0:
        raise FigureRefused(f"{key} is {_shown(record, key)}, not a count")
    return int(parsed)


def whole(record: Record, key: str) -> int | None:
    """A whole number above 0, or None where there is none. Raises: FigureRefused."""
    counted = count(record, key)
    if counted == 0:
        raise FigureRefused(f"{key} is {_shown(record, key)}, not a count")
    return counted


def flag(record: Record, key: str) -> bool:
    """Whether it is set: true or 1; not where it is missing. Raises: FigureRefused, for any other value."""
    stated = _FLAGS.get(text(record, key).casefold())
    if stated is None:
        raise FigureRefused(f"{key} is {_shown(record, key)}: neither true (1) nor false (0)")
    return stated


def _shown(record: Record, key: str) -> str:
    return f"{record.get(key)!r:.60}"


def all_served(failed: Decimal | None, meant: Decimal | None) -> None:
    """Refuse a run of which requests failed; *meant*: how many there were to be. Raises: FigureRefused."""
    if failed is not None and failed > 0:
        share = f" of {meant:,f} ({failed / meant:.1%})" if meant else ""
        raise FigureRefused(
            f"{failed:,f}{share} requests failed: the throughput is not that of the load that was meant"
        )


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


def mappings(value: object) -> list[Record]:
    """The objects in a list; none where it is no list."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
