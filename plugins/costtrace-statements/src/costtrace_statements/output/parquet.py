"""Rows as Parquet: integers stay 64-bit integers, money that is shown as text stays an exact decimal."""

import io
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from costtrace.reports.output.parquet import library
from costtrace.reports.output.tables import Row

DECIMAL = (38, 12)
"""Precision and scale of `Decimal` columns."""


def as_parquet(rows: Sequence[Row], fields: Sequence[str], metadata: dict[str, str] | None = None) -> bytes:
    """One file. A column is of text, of integers or of decimals, by its values. Raises: CosttraceError."""
    arrow, parquet = library()
    columns = {name: [row[name] for row in rows] for name in fields}
    schema = arrow.schema([(name, _type(arrow, name, values)) for name, values in columns.items()])
    schema = schema.with_metadata({key.encode(): value.encode() for key, value in (metadata or {}).items()})
    arrays = [
        arrow.array([_plain(value) for value in values], type=schema.field(name).type)
        for name, values in columns.items()
    ]
    out = io.BytesIO()
    parquet.write_table(arrow.Table.from_arrays(arrays, schema=schema), out, compression="zstd")
    return out.getvalue()


def read_rows(path: Path) -> Iterator[Mapping[str, object]]:
    """Rows of a file, batch by batch. Raises: ValueError, CosttraceError (no pyarrow)."""
    arrow, parquet = library()
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"it has the column {twice[0]!r} twice")  # noqa: TRY301 - one message for what cannot be read
            for batch in file.iter_batches():
                yield from _in_microseconds(arrow, batch).to_pylist()
    except (OSError, ValueError, OverflowError, KeyError, arrow.ArrowException) as error:
        raise ValueError(f"as Parquet: {error}") from error


def _in_microseconds(arrow: Any, batch: Any) -> Any:
    """*batch* with times that Python's own datetime holds: it has no nanoseconds."""
    columns = [
        column.cast(arrow.timestamp("us", column.type.tz), safe=False)
        if arrow.types.is_timestamp(column.type) and column.type.unit == "ns"
        else column
        for column in batch.columns
    ]
    return arrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


_NUMBERS = ("_nano", "_ns", "_uj", "_ug", "_cents", "_tokens")


def _type(arrow: Any, name: str, values: Sequence[object]) -> Any:
    known = [value for value in values if value is not None]
    if any(isinstance(value, Decimal) for value in known) or (not known and name.endswith(("_ratio", "_rounded"))):
        return arrow.decimal128(*DECIMAL)
    if any(isinstance(value, bool) for value in known):
        return arrow.bool_()
    if any(isinstance(value, int) for value in known) or (not known and name.endswith(_NUMBERS)):
        return arrow.int64()
    return arrow.string()


def _plain(value: object) -> object:
    return value.quantize(Decimal(1).scaleb(-DECIMAL[1])) if isinstance(value, Decimal) else value
