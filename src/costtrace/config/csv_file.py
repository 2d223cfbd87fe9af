"""Reading the CSV files that people and other programs write."""

import csv
from collections.abc import Iterator
from typing import TextIO


def csv_rows(file: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row under the header, with its line; a cell that is missing is None. Raises: ValueError, with the line."""
    reader = csv.DictReader(file, strict=True)
    try:
        names = reader.fieldnames
        if not names:
            raise ValueError("it has no header")
        if twice := [name for name in names if name and names.count(name) > 1]:
            raise ValueError(f"it has the column {twice[0]!r} twice")
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} has more cells than the header: is a decimal comma in it?")
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
