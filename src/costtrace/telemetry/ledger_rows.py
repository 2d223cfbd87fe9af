"""Rows of the ledger's tables ``usage`` and ``engine``, read back as the structs that they were written from."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from costtrace.core.rows import EngineRow, UsageCost, UsageRecord

_FIELDS = tuple(field.name for field in msgspec.structs.fields(UsageRecord))
_COUNT = len(_FIELDS)
_LABELS, _REASONS, _SIMULATED = (_FIELDS.index(name) for name in ("labels", "finish_reasons", "simulated"))
_STORED = tuple(field.encode_name for field in msgspec.structs.fields(UsageRecord))
"""The columns of the fields: a field's stored name."""
_COLUMNS = ", ".join(f'"{name}"' for name in (*_STORED, *UsageCost._fields))
_ENGINE_FIELDS = tuple(field.name for field in msgspec.structs.fields(EngineRow))
_ENGINE_COLUMNS = ", ".join(_ENGINE_FIELDS)


class UsageRow(NamedTuple):
    """One row of ``usage``."""

    usage_id: int
    record: UsageRecord
    cost: UsageCost


class Page(NamedTuple):
    """Some rows of ``usage``, in the order of closing."""

    rows: list[UsageRow]
    damaged: dict[str, str]
    """Record ids of rows that cannot be read, and why."""
    last_id: int
    """The highest id of the page, damaged rows included; 0: the page is empty."""


def usage_after(connection: sqlite3.Connection, usage_id: int, limit: int) -> Page:
    """Read up to `limit` usage rows behind `usage_id`."""
    rows = connection.execute(
        f"SELECT usage_id, {_COLUMNS} FROM usage WHERE usage_id > ? ORDER BY usage_id LIMIT ?",  # noqa: S608 our names
        (usage_id, limit),
    ).fetchall()
    page = Page([], {}, rows[-1][0] if rows else 0)
    for row in rows:
        try:
            page.rows.append(_usage_row(row))
        except msgspec.DecodeError as error:
            page.damaged[row[1]] = f"its row in the ledger cannot be read ({error})"
    return page


def _usage_row(row: Sequence[Any]) -> UsageRow:
    values = list(row[1 : _COUNT + 1])
    values[_LABELS] = msgspec.json.decode(values[_LABELS], type=dict[str, str])
    values[_REASONS] = msgspec.json.decode(values[_REASONS], type=tuple[str, ...])
    values[_SIMULATED] = bool(values[_SIMULATED])
    record = UsageRecord(**dict(zip(_FIELDS, values, strict=True)))
    return UsageRow(row[0], record, UsageCost(*row[_COUNT + 1 :]))


def engines(connection: sqlite3.Connection) -> dict[str, EngineRow]:
    """Read all engines of the ledger, by id."""
    engines_by_id = {}
    for row in connection.execute(f"SELECT {_ENGINE_COLUMNS} FROM engine"):  # noqa: S608 our names
        values = dict(zip(_ENGINE_FIELDS, row, strict=True))
        for name in ("devices", "lost_hooks"):
            values[name] = tuple(json.loads(values[name]))
        values["settings"] = json.loads(values["settings"])
        values["simulated"] = bool(values["simulated"])
        engines_by_id[values["engine_id"]] = EngineRow(**values)
    return engines_by_id
