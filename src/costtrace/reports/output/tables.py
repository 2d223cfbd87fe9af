"""A table: exact rows for machines, and columns that say how people are shown them."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

Value = str | int | bool | Decimal | None | tuple[str, ...]
Row = Mapping[str, Value]


class Column(NamedTuple):
    """One column as people see it."""

    heading: str
    show: Callable[[Row], str]
    right: bool = True


class Table(NamedTuple):
    """Rows of exact values (integers with the unit in their name), and the columns that show them."""

    name: str
    """Its key in JSON."""
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    fields: Sequence[str] = ()
    """Keys of the rows, for the header of a file without rows."""
    view: bool = False
    """It shows the rows of another table again: CSV and JSON leave it out."""


def text(heading: str, key: str) -> Column:
    """A column of text."""
    return Column(heading, lambda row: str(row[key]), right=False)


def count(heading: str, key: str) -> Column:
    """A column of whole numbers, in groups of thousands; nothing where the row has none."""

    def show(row: Row) -> str:
        value = row[key]
        return f"{value:,}" if isinstance(value, int) else ""

    return Column(heading, show)


def per_cent(part: int, whole: int) -> str:
    """``12.3 %``; ``-`` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"
