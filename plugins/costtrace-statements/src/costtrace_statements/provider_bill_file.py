"""Reading a provider's bill: FOCUS as CSV (gzip too) or Parquet, row by row."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from costtrace.config.csv_file import csv_rows
from costtrace.core.errors import CosttraceError
from costtrace_statements.output.parquet import read_rows
from costtrace_statements.provider_bill import BillRow


def read_focus(path: Path) -> Iterator[BillRow]:
    """Rows of a FOCUS file. Raises: CosttraceError."""
    try:
        if path.name.endswith(".parquet"):
            for number, row in enumerate(read_rows(path), 1):
                yield BillRow(row, f"{path}, row {number}")
            return
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            for line, cells in csv_rows(file):
                yield BillRow(cells, f"{path}, line {line}")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise CosttraceError(
            f"cannot read the bill {path}: {error}. It must be FOCUS as CSV, CSV.gz or Parquet."
        ) from error
