"""Rows of integers and text as Parquet, any number of them."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import IO, Any

from costtrace.core.errors import CosttraceError

GROUP_ROWS = 100_000


def write_rows(
    file: IO[bytes], rows: Iterable[Sequence[object]], fields: Mapping[str, type], metadata: Mapping[str, str]
) -> int:
    """Write rows of integers and text (*fields*: each column's type) a row group at a time; how many there were.

    Any number of rows goes through, in the memory of one group. Raises: CosttraceError.
    """
    arrow, parquet = library()
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


def library() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet. Raises: CosttraceError (not installed)."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet as pq  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CosttraceError("Parquet needs pyarrow. In a checkout of costtrace: pip install '.[reports]'") from error
    return pa, pq
