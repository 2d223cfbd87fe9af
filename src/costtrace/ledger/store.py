"""Writing the ledger: one agent, one connection, one transaction for all rows from a stretch of journal."""

import contextlib
import errno
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from costtrace.core.errors import MORE_DESCRIPTORS, LedgerError, LedgerTooNew
from costtrace.core.events import Position
from costtrace.core.files import put_in_place
from costtrace.core.rows import (
    Charge,
    EnergyProvenance,
    EngineRow,
    FitRow,
    MeterRow,
    PendingRow,
    Posting,
    UsageCost,
    UsageRecord,
)
from costtrace.ledger.schema.tables import MIGRATIONS, SCHEMA_VERSION

LEDGER_NAME = "ledger.sqlite"
DELETED, MOVED, REPLACED, CUT = "deleted", "moved away", "replaced by another file", "cut to 0 bytes"
LOG_DELETED = "parted from its write-ahead log (-wal, -shm), which was deleted"
"""What can become of a ledger file under the agent that writes it."""
LOG_PAGES = 128
"""Length of SQLite's write-ahead log, in pages of 4 kB, at which it is written back into the ledger."""


class Ledger:
    """A ledger file. Any number of readers may open it; one agent writes, which its file lock ensures.

    Raises: LedgerTooNew, LedgerError (not a ledger, not readable).
    """

    def __init__(self, path: Path, *, read_only: bool = False, create: bool = True) -> None:
        """*create*: make it where there is none, if it is to be written."""
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._handle = -1
        self._real = path
        self._files: dict[str, tuple[int, int]] = {}
        try:
            if create and not read_only and not path.exists():
                _create(path)
            if not path.exists():
                raise LedgerError(
                    f"there is no ledger at {path}. Has an agent run with this COSTTRACE_HOME? `costtrace doctor` "
                    "shows which home is used and why."
                )
            if not path.stat().st_size:
                raise LedgerError(
                    f"the ledger {path} is empty: it was cut to 0 bytes, or its file system has lost it. Delete "
                    "it, and the -wal and -shm beside it. Put the newest copy of `costtrace backup` in its place, and "
                    "an agent books what the journals have beyond it; without a copy, it begins a new ledger."
                )
            self._connect("ro" if read_only else "rw")
            try:
                self._open(read_only=read_only)
            except sqlite3.OperationalError:
                if not read_only or not self._idle_and_out_of_reach():
                    raise
                self._seen = self._stamp()
                self.connection.close()
                self._connect("ro&immutable=1")
                self._open(read_only=True)
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"cannot open the ledger {path}: {error}. {remedy(error)}") from error

    def _idle_and_out_of_reach(self) -> bool:
        """Whether no agent has left anything beside the file, and SQLite cannot make the files it reads a log with."""
        return not self._stamp()[2] and not os.access(self.path.resolve().parent, os.W_OK)

    def _stamp(self) -> tuple[int, int, int]:
        """Time and size of the file, and the size of its write-ahead log."""
        stat, log = self.path.stat(), Path(f"{self.path.resolve()}-wal")
        return stat.st_mtime_ns, stat.st_size, log.stat().st_size if log.exists() else 0

    def check_unchanged(self) -> None:
        """Where the ledger was read without SQLite's locks: nobody has written it meanwhile. Raises: LedgerError."""
        if self._seen is not None and self._seen != self._stamp():
            raise LedgerError(f"the ledger {self.path} was written while it was read: run the command again")

    def lost(self) -> str:
        """What has become of the file, where this connection writes on into one that nobody can read; else ''."""
        for suffix in ("", "-wal", "-shm"):
            now, known = _identity(Path(f"{self._real}{suffix}") if suffix else self.path), self._files.get(suffix)
            if known is None or now == known:
                self._files |= {} if now is None else {suffix: now}
            elif suffix:
                return LOG_DELETED
            elif now is not None:
                return REPLACED
            else:
                return MOVED if os.fstat(self._handle).st_nlink else DELETED
        return "" if os.fstat(self._handle).st_size else CUT

    def leave(self, lost: str) -> None:
        """Leave no write-ahead log behind that would be taken for the log of another file in this one's place."""
        with contextlib.suppress(OSError, sqlite3.Error):
            if lost == CUT:  # written back, it would make something like a ledger of the empty file
                os.truncate(f"{self._real}-wal", 0)
            else:
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _connect(self, mode: str) -> None:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        self.connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10, check_same_thread=False)
        self.connection.row_factory = sqlite3.Row

    def _open(self, *, read_only: bool) -> None:
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise LedgerTooNew(
                f"the ledger {self.path} has schema {version}, this costtrace knows up to {SCHEMA_VERSION}: it was "
                "written by a newer version. Update costtrace-core here; the ledger was not touched."
            )
        if read_only:
            self.connection.execute("PRAGMA query_only = 1")
            return
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        # Write the log back and truncate it early: by default it takes 4 MB, which a small volume may not have.
        self.connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        self.connection.execute(f"PRAGMA journal_size_limit = {LOG_PAGES * 4096}")
        with self.transaction():
            _migrate(self.connection, version)
        # By path alone: to close another descriptor of the file would release SQLite's locks on it.
        self._handle = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        self._real = self.path.resolve()
        self.lost()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one transaction; any exception rolls it back."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:  # Ctrl-C too
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def put_engine(self, row: EngineRow) -> None:
        """Write or refresh an engine."""
        self.connection.execute(_ENGINE.sql, _with_json(_ENGINE.values(row)))

    def last_number(self, table: str) -> int:
        """The highest number that a row of *table* (posting, usage) ever had, whether it was compacted or not."""
        sql = f"SELECT max(number, coalesce((SELECT max({table}_id) FROM {table}), 0)) FROM last_number WHERE name = ?"  # noqa: S608 - our names
        return int(self.connection.execute(sql, (table,)).fetchone()[0])

    def post(self, lines: Iterable[tuple[Posting, Charge]]) -> None:
        """Append postings with their charges."""
        numbered = enumerate(lines, self.last_number("posting") + 1)
        values = [(*_POSTING.values(posting), *charge, number) for number, (posting, charge) in numbered]
        self.connection.executemany(_POSTING.sql, values)

    def put_meter(self, rows: Iterable[MeterRow]) -> None:
        """Append meter rows."""
        rows = list(rows)
        put_sensors(self.connection, rows)
        self.connection.executemany(_METER.sql, [_METER.values(row) for row in rows])

    def put_usage(self, rows: Iterable[tuple[UsageRecord, UsageCost]]) -> None:
        """Append usage records of parts that have closed, with their costs."""
        numbered = enumerate(rows, self.last_number("usage") + 1)
        values = [(*_with_json(_USAGE.values(record)), *cost, number) for number, (record, cost) in numbered]
        self.connection.executemany(_USAGE.sql, values)

    def put_fit(self, row: FitRow) -> None:
        """Write or refresh what an engine's step model has learned."""
        self.connection.execute(_FIT.sql, _FIT.values(row))

    def put_rate(self, row: tuple[str, str, str, str, str, str, str, str, int]) -> None:
        """Remember a rate that is being applied; the columns of table ``rate``."""
        self.connection.execute("INSERT OR IGNORE INTO rate VALUES (?,?,?,?,?,?,?,?,?)", row)

    def put_position(self, engine_id: str, position: Position, *, done: bool) -> None:
        """Keep up to where the agent has booked an engine's journal. *done*: it has ended and was read whole."""
        self.connection.execute(
            "INSERT OR REPLACE INTO position VALUES (?,?,?,?,?,?)",
            (engine_id, position.segment, position.offset, position.sequence, int(position.damaged), int(done)),
        )

    def positions(self) -> dict[str, tuple[Position, bool]]:
        """Position by engine id, and whether its journal is done."""
        rows = self.connection.execute("SELECT engine_id, segment, offset, sequence, damaged, done FROM position")
        return {row[0]: (Position(row[1], row[2], row[3], bool(row[4])), bool(row[5])) for row in rows}

    def put_state(self, name: str, value: bytes | None) -> None:
        """Keep (or with None, drop) the state that the agent needs to go on from its positions."""
        if value is None:
            self.connection.execute("DELETE FROM state WHERE name = ?", (name,))
        else:
            self.connection.execute("INSERT OR REPLACE INTO state VALUES (?,?)", (name, value))

    def states(self, like: str = "%") -> dict[str, bytes]:
        """Kept states by name: all, or those whose names are *like* that."""
        rows = self.connection.execute("SELECT name, value FROM state WHERE name LIKE ?", (like,))
        return {row[0]: row[1] for row in rows}

    def notice(self, subject: str, message: str) -> None:
        """Keep a message that an operator has to see later."""
        # A path in it need not be UTF-8.
        text = message.encode(errors="backslashreplace").decode()
        self.connection.execute(
            "INSERT INTO notice (at_ns, subject, message) VALUES (?,?,?)", (time.time_ns(), subject, text)
        )


DAMAGED = (
    "The file is damaged: delete it, and the -wal and -shm beside it, and put the newest copy of `costtrace backup` in "
    "its place. An agent books what the journals have beyond it."
)
_REMEDIES = {
    "FULL ENOSPC EDQUOT": "Free some space on its disk.",
    "EMFILE ENFILE": MORE_DESCRIPTORS,
    "BUSY LOCKED": "Another program holds it (a copy, a shell of SQLite): end that one.",
    "CORRUPT NOTADB": DAMAGED,
    "READONLY CANTOPEN IOERR PERM AUTH EACCES EPERM EROFS EIO": "See to the permissions of the file and its directory, "
    "and to its mount. Where they must stay read-only: read a copy that `costtrace backup` made.",
}


def remedy(error: Exception) -> str:
    """What to do about an error of SQLite or of the file system."""
    of_sqlite = getattr(error, "sqlite_errorname", "SQLITE_").split("_")[1]  # SQLITE_IOERR_FSYNC
    of_system = errno.errorcode.get(getattr(error, "errno", None) or 0, "")
    texts = (text for names, text in _REMEDIES.items() if {of_sqlite, of_system} & {*names.split()})
    return next(texts, "`costtrace doctor` and `costtrace verify` examine it.")


def _create(path: Path) -> None:
    """Make a ledger whole, then give it its name: an empty file is never one that is being made."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            _migrate(connection, 0)
            connection.execute("COMMIT")
        for suffix in ("-wal", "-shm"):  # of a ledger that was deleted without them: SQLite would write them into this
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):
            put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    for number in range(version, SCHEMA_VERSION):
        for statement in _statements(MIGRATIONS[number]):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number + 1}")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino


class _Insert(NamedTuple):
    """An INSERT for rows of one struct type, and what reads a row's values in the order of its columns."""

    sql: str
    values: Callable[[object], tuple[Any, ...]]


def _insert(
    table: str, row: type[msgspec.Struct], beside: tuple[str, ...] = (), *, without: str = "", verb: str = "INSERT"
) -> _Insert:
    """Each field of *row* but *without* goes into the column of its stored name; the columns *beside* follow."""
    fields = [field for field in msgspec.structs.fields(row) if field.name != without]
    columns = [f'"{name}"' for name in (*(field.encode_name for field in fields), *beside)]
    sql = f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    return _Insert(sql, attrgetter(*(field.name for field in fields)))


_ENGINE = _insert("engine", EngineRow, verb="INSERT OR REPLACE")
_FIT = _insert("engine_fit", FitRow, verb="INSERT OR REPLACE")
_POSTING = _insert("posting", Posting, (*Charge._fields, "posting_id"))
_METER = _insert("meter", MeterRow, without="sensor")
_USAGE = _insert("usage", UsageRecord, (*UsageCost._fields, "usage_id"))


def _with_json(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(json.dumps(value) if isinstance(value, (dict, tuple)) else value for value in values)


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements (``executescript`` would commit the transaction that is open)."""
    rest = ""
    for line in script.splitlines():
        rest += line.split("--")[0] + "\n"
        if sqlite3.complete_statement(rest):
            if rest.strip():
                yield rest
            rest = ""


_SENSOR_PLACES = ", ".join("?" * (3 + len(EnergyProvenance.__struct_fields__)))


def put_sensors(connection: sqlite3.Connection, rows: Iterable[MeterRow]) -> None:
    """Write how the energy of meter rows was read. Where a window comes in two rows, the last one counts."""
    connection.executemany(
        f"INSERT OR REPLACE INTO window_sensor VALUES ({_SENSOR_PLACES})",  # noqa: S608 - our names
        [
            (row.engine_id, row.device, row.window_ns, *msgspec.structs.astuple(row.sensor))
            for row in rows
            if row.sensor is not None and row.energy_uj is not None
        ],
    )


def put_pending(connection: sqlite3.Connection, rows: Iterable[PendingRow]) -> None:
    """Replace the rows of what is pending."""
    connection.execute("DELETE FROM pending")
    connection.executemany("INSERT INTO pending VALUES (?,?,?,?,?)", [msgspec.structs.astuple(row) for row in rows])


def open_existing(home: Path) -> Ledger:
    """Open the ledger under *home* for writing; it is not made where there is none. Raises: LedgerError."""
    return Ledger(home / LEDGER_NAME, create=False)
