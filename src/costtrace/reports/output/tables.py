"""A table: lines of one type, the columns that show them to people, and their exact values for machines.

Columns read the fields of the line itself, so mypy checks their names. `costtrace.reports.output.row_tables` makes
tables of lines that are mappings already.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Generic, NamedTuple, TypeVar

Value = str | int | bool | Decimal | None | tuple[str, ...]
Row = Mapping[str, Value]
"""A line as CSV, JSON and Parquet have it: exact values, integers with the unit in their name."""
Line = TypeVar("Line")


class Column(NamedTuple, Generic[Line]):
    """One column as people see it."""

    heading: str
    show: Callable[[Line], str]
    right: bool = True


class Table(NamedTuple, Generic[Line]):
    """Lines, the columns that show them, and how machines get them."""

    name: str
    """Its key in JSON."""
    title: str
    columns: Sequence[Column[Line]]
    lines: Sequence[Line]
    exact: Callable[[Line], Row] = lambda _: {}
    """A line with all its exact values, for CSV and JSON. A table of a document for people needs none."""
    notes: Sequence[str] = ()
    fields: Sequence[str] = ()
    """Keys of the rows, for the header of a file without rows."""
    view: bool = False
    """It shows the lines of another table again: CSV and JSON leave it out."""
    is_total: Callable[[Line], bool] = lambda _: False
    """Which lines are totals; HTML and PDF set them in bold."""

    @property
    def rows(self) -> list[Row]:
        """The exact values of all lines, made each time."""
        return [self.exact(line) for line in self.lines]


AnyTable = Table[Any]
"""A table whatever its lines are: what is written out needs only the columns and `exact`."""


def text(heading: str, value: Callable[[Line], str]) -> Column[Line]:
    """A column of text."""
    return Column(heading, value, right=False)


def brief(name: str, most: int = 80) -> str:
    """*name* as people see it: at most so many characters, ``...`` at the end where it has more."""
    return name if len(name) <= most else f"{name[: most - 3]}..."


def count(heading: str, value: Callable[[Line], int | None]) -> Column[Line]:
    """A column of whole numbers, in groups of thousands; nothing where the line has none."""

    def show(line: Line) -> str:
        number = value(line)
        return "" if number is None else f"{number:,}"

    return Column(heading, show)


def per_cent(part: int, whole: int) -> str:
    """``12.3 %``; ``-`` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"
