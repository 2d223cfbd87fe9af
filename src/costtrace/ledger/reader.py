"""Reading a ledger on disk: the interface that queries need (`Store`), and SQLite behind it."""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from costtrace.core.errors import LedgerError
from costtrace.ledger.schema.tables import SCHEMA_VERSION
from costtrace.ledger.store import LEDGER_NAME, Ledger, remedy

Row = tuple[Any, ...]


class Store(Protocol):
    """What queries need of a database: a ledger in SQLite, or the fleet store."""

    def rows(self, sql: str, parameters: Mapping[str, int | str] | None = None) -> Iterator[Row]:
        """Run one SELECT with named parameters and stream its rows."""
        ...


class SqliteStore:
    """A SQLite ledger as a store. Within `open_ledger`, all queries see the same moment while the agent writes."""

    def __init__(self, ledger: Ledger) -> None:
        self.path = ledger.path
        self._connection = ledger.connection

    def rows(self, sql: str, parameters: Mapping[str, int | str] | None = None) -> Iterator[Row]:
        """Run one SELECT with named parameters and stream its rows. Raises: LedgerError."""
        try:
            cursor = self._connection.cursor()
            cursor.row_factory = None
            cursor.arraysize = 1_000
            cursor.execute(sql, parameters or {})
            while chunk := cursor.fetchmany():
                yield from chunk
        except sqlite3.Error as error:
            raise LedgerError(f"cannot read the ledger {self.path}: {error}. {self._remedy(error)}") from error

    def damage(self) -> list[str]:
        """What SQLite finds damaged in the file, in its words; nothing where every page can be read."""
        try:
            found = [str(row[0]) for row in self._connection.execute("PRAGMA quick_check(20)")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    def _remedy(self, error: sqlite3.Error) -> str:
        with contextlib.suppress(sqlite3.Error):
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version < SCHEMA_VERSION:
                return (
                    f"It has schema {version}, and this costtrace asks for what {SCHEMA_VERSION} has: an older agent "
                    "writes it. Start this version's, which brings it up to date (`costtrace agent --once` ends by "
                    "itself)."
                )
        return remedy(error)


@contextmanager
def open_ledger(home: Path) -> Iterator[SqliteStore]:
    """Open the ledger under *home*, read-only, as it is now. Raises: LedgerError."""
    ledger = Ledger(home / LEDGER_NAME, read_only=True)
    try:
        ledger.connection.execute("BEGIN")
        yield SqliteStore(ledger)
        ledger.check_unchanged()
    except sqlite3.Error as error:
        raise LedgerError(f"cannot read the ledger {ledger.path}: {error}. {remedy(error)}") from error
    finally:
        ledger.close()


class Filter(NamedTuple):
    """Which requests to read. None: all."""

    tenant: str | None = None
    model: str | None = None
    engine: str | None = None

    def sql(self, alias: str) -> str:
        """Conditions on table *alias*, each with a leading AND."""
        names = {"tenant": "tenant", "model": "model", "engine": "engine_id"}
        return "".join(
            f" AND {alias}.{column} = :{name}" for name, column in names.items() if getattr(self, name) is not None
        )

    def parameters(self) -> dict[str, int | str]:
        """The named parameters of the conditions."""
        return {name: value for name, value in self._asdict().items() if value is not None}
