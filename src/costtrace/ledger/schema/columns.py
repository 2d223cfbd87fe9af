"""Columns of the ledger whose name differs from the field that they hold: a column keeps its first name."""

from collections.abc import Iterable

_COLUMN_OF = {"energy_unknown_ns": "gap_ns"}


def column_of(field: str) -> str:
    """Name the column that holds *field*."""
    return _COLUMN_OF.get(field, field)


def columns_of(fields: Iterable[str], table: str = "") -> str:
    """List the columns that hold *fields*, for a SELECT; with *table*, as columns of that table or alias."""
    prefix = f"{table}." if table else ""
    return ", ".join(prefix + column_of(field) for field in fields)
