"""Tables as text for people, CSV for spreadsheets, JSON for programs.

Names of tenants, models and requests come from clients: what could steer a terminal is shown as an escape, and what a
spreadsheet would run as a formula gets an apostrophe (OWASP, "CSV Injection").
"""

import csv
import io
import json
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

from rich.cells import cell_len

from costtrace.core.units import amount
from costtrace.reports.output.tables import AnyTable, Column, Line, Row, Table, Value

FORMATS = ("table", "json", "csv")

_STEERS = {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
"""Unicode categories that are not shown as they are: control, format (bidi), surrogates, not assigned, line ends."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a spreadsheet take a cell for a formula; the last four are the full-width forms."""


def clean(name: str) -> str:
    """*name* without anything that steers a terminal: an escape character is shown as its number, and so on."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _STEERS else char for char in name
    )


def render(tables: Sequence[AnyTable], form: str) -> str:
    """*tables* as one of `FORMATS`. CSV holds the first one only: a file has one header."""
    if form == "json":
        return as_json(tables)
    if form == "csv":
        return as_csv(tables[0])
    return "\n".join(as_text(table) for table in tables)


def as_text(table: Table[Line]) -> str:
    """A table with aligned columns; wide characters count as what they take on the screen."""
    head = [column.heading for column in table.columns]
    body = [[clean(column.show(line)) for column in table.columns] for line in table.lines]
    widths = [max(map(cell_len, cells)) for cells in zip(head, *body, strict=True)]
    lines = [clean(table.title), "", _padded(head, widths, table.columns), "  ".join("-" * width for width in widths)]
    lines += [_padded(cells, widths, table.columns) for cells in body]
    lines += ["", *(f"  {clean(note)}" for note in table.notes)] if table.notes else []
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _padded(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column[Line]]) -> str:
    padded = []
    for cell, width, column in zip(cells, widths, columns, strict=True):
        space = " " * (width - cell_len(cell))
        padded.append(space + cell if column.right else cell + space)
    return "  ".join(padded)


def as_json(tables: Sequence[AnyTable]) -> str:
    """One object: a list of rows by table name. Integers are exact; money is a decimal string too."""
    tree: dict[str, object] = {table.name: [_plain(row) for row in table.rows] for table in tables if not table.view}
    if notes := [note for table in tables for note in table.notes]:
        tree["notes"] = notes
    return json.dumps(tree, indent=2).replace("\x7f", "\\u007f") + "\n"


def _plain(row: Row) -> dict[str, object]:
    plain: dict[str, object] = {}
    for key, value in row.items():
        plain[key] = f"{value:f}" if isinstance(value, Decimal) else value
        if key.endswith("_nano"):
            plain[key.removesuffix("_nano")] = f"{amount(value):f}" if isinstance(value, int) else None
    return plain


def as_csv(table: Table[Line]) -> str:
    """The rows with all their fields, exact, under a header. Unknown is an empty cell: it is not 0."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    rows = table.rows
    keys = list(rows[0]) if rows else list(table.fields)
    writer.writerow(keys)
    writer.writerows([_cell(row[key]) for key in keys] for row in rows)
    return out.getvalue()


def _cell(value: Value) -> str | int:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int):
        return value
    return safe_text(" ".join(value) if isinstance(value, tuple) else value)


def safe_text(value: str) -> str:
    """A text cell that no spreadsheet takes for a formula and no terminal for a command."""
    return ("'" if value.lstrip(" ").startswith(_FORMULA) else "") + clean(value)
