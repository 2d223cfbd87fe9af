"""One closed day of the fleet store as Parquet files: for auditors, and as a copy that outlasts the store."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from costtrace.core.errors import CosttraceError
from costtrace.core.wall_time import wall_ns
from costtrace.reports.output.files import new_file
from costtrace.reports.output.parquet import write_rows
from costtrace_fleet.store import ClickHouseStore
from costtrace_fleet.tables import NAME, ROW_TABLES, TEXT


def copy_day(store: ClickHouseStore, words: str, folder: Path, now_ns: int) -> Iterator[tuple[Path, int]]:
    """Write postings, meter rows and usage records of a day of UTC; yields each file and its rows.

    Rows go through in groups: memory does not depend on how many there are. Raises: CosttraceError.
    """
    try:
        day = datetime.strptime(words, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise CosttraceError(f"cannot read the day {words!r}: use 2026-11-23") from None
    since_ns, until_ns = wall_ns(day), wall_ns(day + timedelta(days=1))
    if until_ns > now_ns:
        raise CosttraceError(f"{words} is not over yet: its copy would lack rows")
    for table in ROW_TABLES:
        columns = ", ".join(f'"{name}"' for name in table.columns)
        sql = (
            f"SELECT {columns} FROM {table.name} WHERE {table.time} >= :since AND {table.time} < :until "  # noqa: S608 - constants
            f"ORDER BY {', '.join(table.key)}"
        )
        rows = store.rows(sql, {"since": since_ns, "until": until_ns})
        name, fields = f"{table.name}-{words}.parquet", {column: _kind(of) for column, of in table.columns.items()}
        with new_file(folder, name) as file:
            written = write_rows(file, rows, fields, {"costtrace.day": words, "costtrace.table": table.name})
        yield folder / name, written


def _kind(of: str) -> type:
    """The type of a column of the store in a file."""
    return str if of in {TEXT, NAME} else int
