"""Rows as Parquet: integers stay 64-bit integers, money that is shown as text stays an exact decimal."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any

from costtrace.core.errors import CosttraceError
from costtrace.reports.output.tables import Row

DECIMAL = (38, 12)
"""Precision and scale of `Decimal` columns."""
GROUP_ROWS = 100_000


def as_parquet(rows: Sequence[Row], fields: Sequence[str], metadata: dict[str, str] | None = None) -> bytes:
    """One file. A column is of text, of integers or of decimals, by its values. Raises: CosttraceError."""
    arrow, parquet = _library()
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


def write_rows(
    file: IO[bytes], rows: Iterable[Sequence[object]], fields: Mapping[str, type], metadata: Mapping[str, str]
) -> int:
    """Write rows of integers and text (*fields*: each column's type) a row group at a time; how many there were.

    Any number of rows goes through, in the memory of one group. Raises: CosttraceError.
    """
    arrow, parquet = _library()
    types = {int: arrow.int64(), str: arrow.string()}
    schema = arrow.schema([(name, types[kind]) for name, kind in fields.items()])
    schema = schema.with_metadata({key.encode(): value.encode() for key, value in metadata.items()})
    left, written = iter(rows), 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while group := list(islice(left, GROUP_ROWS)):
            columns = zip(*group, strict=True)
            arrays = [arrow.array(values, type=kind) for values, kind in zip(columns, schema.types, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            written += len(group)
    return written


def read_rows(path: Path) -> Iterator[Mapping[str, object]]:
    """Rows of a file, batch by batch. Raises: ValueError, CosttraceError (no pyarrow)."""
    arrow, parquet = _library()
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"it has the column {twice[0]!r} twice")  # noqa: TRY301 - one message for what cannot be read
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (OSError, ValueError, OverflowError, KeyError, arrow.ArrowException) as error:
        raise ValueError(f"as Parquet: {error}") from error


_NUMBERS = ("_nano", "_ns", "_uj", "_ug", "_cents", "_tokens")


def _type(arrow: Any, name: str, values: Sequence[object]) -> Any:  # noqa: ANN401 - pyarrow has no types
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


def _library() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet as pq  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CosttraceError("Parquet needs pyarrow. In a checkout of costtrace: pip install '.[reports]'") from error
    return pa, pq
