"""Reading and writing ClickHouse, for the same queries as a ledger in SQLite (`ledger.queries`).

The differences are handled here: parameters are ``{name:Type}`` instead of ``:name``, two expressions have other names,
and settings make ClickHouse follow SQL (an outer join without a partner and a sum of nothing are NULL, not 0).

Unlike a ledger in SQLite, the queries of one command do not see one moment: push first, then verify.
"""

import marshal
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from costtrace.core.errors import CosttraceError, LedgerError
from costtrace.ledger.reader import Row
from costtrace_fleet.schema import Layout, statements
from costtrace_fleet.tables import Table

SCHEMES = ("clickhouse://", "clickhouses://", "chdb://")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)\b")
_SAME = re.compile(r"\b(\w+\.\w+) IS (\w+\.\w+)\b")
"""SQLite's "equal, or both NULL"."""
_JSON = re.compile(r"\bjson_extract\((\w+\.\w+), '\$\.\"?([\w.-]+)\"?'\)")
SETTINGS = {
    "join_use_nulls": 1,
    "aggregate_functions_null_for_empty": 1,
    "do_not_merge_across_partitions_select_final": 1,
    "enable_positional_arguments": 1,
}
_LACKS = re.compile(r"Unrecognized column|UNKNOWN_(TABLE|IDENTIFIER|DATABASE)|NO_SUCH_COLUMN_IN_TABLE")
"""What a store says, or the client for it, that lacks a table or a column."""
_UPGRADE = (
    ". If an earlier version made it, or none did: run `costtrace fleet init` with this one (for a cluster, what "
    "`costtrace fleet ddl --cluster NAME` prints)"
)
SPOOL_BYTES = 1 << 24
"""How much of an answer of the embedded engine is kept in memory; the rest goes to disk."""


class ClickHouseStore:
    """One ClickHouse database as a store for queries. *client*: clickhouse-connect's. *where*: its name in messages."""

    def __init__(
        self,
        client: Any,
        where: str,
        database: str,
    ) -> None:
        self.where = where
        self.database = database
        self._client = client
        self._streams = not where.startswith("chdb://")  # the embedded engine has one stream at a time

    def rows(self, sql: str, parameters: Mapping[str, int | str] | None = None) -> Iterator[Row]:
        """Run one SELECT with named parameters and stream its rows. Raises: LedgerError."""
        values = dict(parameters or {})
        types = {name: "Int64" if isinstance(value, int) else "String" for name, value in values.items()}
        bound = _PARAMETER.sub(lambda match: f"{{{match[1]}:{types[match[1]]}}}", sql)
        bound = _SAME.sub(r"\1 IS NOT DISTINCT FROM \2", bound)
        bound = _JSON.sub(r"JSONExtractString(\1, '\2')", bound)
        with self._errors():
            stream = self._client.query_row_block_stream(bound, parameters=values or None, settings=SETTINGS)
            if not self._streams:
                yield from _spooled(stream)
                return
            with stream:
                for block in stream:
                    yield from map(tuple, block)

    def insert(self, table: Table, rows: Sequence[Sequence[object]], pushed_ns: int) -> None:
        """Insert rows of the ledger. Of a row that was sent before, the copy with the highest *pushed_ns* counts.

        Raises: LedgerError.
        """
        if not rows:
            return
        with self._errors():
            self._client.insert(
                f"{table.name}_rows",
                [(*row, pushed_ns) for row in rows],
                column_names=[*table.columns, "pushed_ns"],
                database=self.database,
            )

    def run(self, statement: str) -> None:
        """Run one statement that returns no rows. Raises: LedgerError."""
        with self._errors():
            self._client.command(statement)

    def create(self, layout: Layout) -> None:
        """Create the database, and tables, columns and views that are missing. Raises: LedgerError."""
        self._client.database = "default"  # ours may not exist yet
        try:
            for statement in statements(layout):
                self.run(statement)
        finally:
            self._client.database = self.database

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from clickhouse_connect.driver.exceptions import Error  # noqa: PLC0415 - not for each costtrace --help

        try:
            yield
        except (Error, OSError) as error:
            remedy = _UPGRADE if _LACKS.search(str(error)) else ""
            raise LedgerError(f"the store {self.where} refuses: {_brief(error)}{remedy}") from error


def _spooled(stream: Any) -> Iterator[Row]:
    """Read a stream to its end and yield its rows from memory, or from disk if they are many. See `_streams`."""
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as file:
        blocks = 0
        with stream:
            for block in stream:
                marshal.dump([tuple(row) for row in block], file)
                blocks += 1
        file.seek(0)
        for _ in range(blocks):
            yield from marshal.load(file)  # noqa: S302 - no one else can write this file


@contextmanager
def open_store(dsn: str, *, password: str = "", database: str = "costtrace") -> Iterator[ClickHouseStore]:
    """Open the fleet store at *dsn* (``clickhouse://user@host:8123``, ``clickhouses://...``, ``chdb:///path``).

    Raises: LedgerError, CosttraceError (not such an address, or the library is not installed).
    """
    if not dsn.startswith(SCHEMES):
        raise CosttraceError(
            f"a store is {', '.join(SCHEMES)} and where it is, not {dsn.split(':', maxsplit=1)[0]}:..."
        )
    try:
        import clickhouse_connect  # noqa: PLC0415 - not for each costtrace --help
        from clickhouse_connect.driver.exceptions import Error  # noqa: PLC0415 - not for each costtrace --help
    except ImportError as error:
        raise CosttraceError(
            "a fleet store needs clickhouse-connect: in a checkout, pip install ./plugins/costtrace-fleet"
        ) from error
    where = dsn.rsplit("@", maxsplit=1)[-1]
    options: dict[str, Any] = {"password": password} if password else {}
    if not dsn.startswith("chdb://"):
        options["autogenerate_session_id"] = False  # a check reads two streams at once
    if dsn.startswith("clickhouses://"):
        options["interface"] = "https"
    try:
        client = clickhouse_connect.get_client(dsn=dsn, **options)
        client.database = database
    except (Error, OSError, ImportError, ValueError) as error:
        raise LedgerError(f"cannot open the store {where}: {_brief(error)}") from error
    store = ClickHouseStore(client, where, database)
    try:
        yield store
    finally:
        store.close()


def _brief(error: BaseException) -> str:
    """The first line of an error; the lines after it quote the query."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
