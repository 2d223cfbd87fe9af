"""Reading a provider's bill: FOCUS as CSV (gzip too) or Parquet, row by row."""

import csv
import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path

from costtrace.core.errors import CosttraceError
from costtrace.reports.output.parquet import read_rows


def read_focus(path: Path) -> Iterator[Mapping[str, object]]:
    """Rows of a FOCUS file. Raises: CosttraceError."""
    try:
        if path.name.endswith(".parquet"):
            yield from read_rows(path)
            return
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, strict=True), 1):
                if None in row:
                    raise CosttraceError(f"row {number} of the bill has more cells than the header: a decimal comma?")
                yield row
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise CosttraceError(f"cannot read the bill {path}: {error}") from error
