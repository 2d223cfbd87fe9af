"""Writing how energy was read by window, and what waits for it."""

import sqlite3
from collections.abc import Iterable

import msgspec

from costtrace.core.rows import MeterRow, PendingRow, Sensor

_PLACES = ", ".join("?" * (3 + len(Sensor.__struct_fields__)))


def put_sensors(connection: sqlite3.Connection, rows: Iterable[MeterRow]) -> None:
    """Keep how the energy of meter rows was read. A window that comes in two rows has its last one's."""
    connection.executemany(
        f"INSERT OR REPLACE INTO window_sensor VALUES ({_PLACES})",  # noqa: S608 - our names
        [
            (row.engine_id, row.device, row.window_ns, *msgspec.structs.astuple(row.sensor))
            for row in rows
            if row.sensor is not None and row.energy_uj is not None
        ],
    )


def put_pending(connection: sqlite3.Connection, rows: Iterable[PendingRow]) -> None:
    """Say what is pending now, in place of what was."""
    connection.execute("DELETE FROM pending")
    connection.executemany("INSERT INTO pending VALUES (?,?,?,?,?)", [msgspec.structs.astuple(row) for row in rows])
