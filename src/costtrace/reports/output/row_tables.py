"""Tables whose lines are mappings: for what has no type of its own, such as the columns of a file that was read."""

from collections.abc import Sequence

from costtrace.reports.output import tables
from costtrace.reports.output.tables import Row

Column = tables.Column[Row]
Table = tables.Table[Row]


def row_table(
    name: str,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Row],
    notes: Sequence[str] = (),
    fields: Sequence[str] = (),
) -> Table:
    """A table of rows; *fields*: their keys, for the header of a file without rows."""
    return Table(name, title, columns, rows, lambda row: row, notes, fields)


def text(heading: str, key: str) -> Column:
    """A column of the text under *key*."""
    return Column(heading, lambda row: str(row[key]), right=False)


def count(heading: str, key: str) -> Column:
    """A column of the whole numbers under *key*, in groups of thousands; nothing where a row has none."""

    def number(row: Row) -> int | None:
        value = row[key]
        return value if isinstance(value, int) else None

    return tables.count(heading, number)
