"""Attempts at a request after its first one: what of them counts beside the parts that are booked already.

No worker knows that another one was lost before it. So this is settled when a part is booked, as far as this ledger has
the others; what is on other nodes is corrected when all parts are read together (`count_once`).
"""

import sqlite3
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from msgspec.structs import replace

from costtrace.core.rows import DISAGGREGATED, JOINED, UsageCost, UsageRecord
from costtrace.ledger.count_once import INPUT, IS_BESIDE, OUTPUT


class _Booked(NamedTuple):
    arrived_ns: int
    record_id: str
    role: str
    input_tokens: int
    output_tokens: int
    counted_input: int
    counted_output: int


def settled(
    connection: sqlite3.Connection, records: Iterable[tuple[UsageRecord, UsageCost]]
) -> list[tuple[UsageRecord, UsageCost]]:
    """The same records, in their order; a later attempt counts no request, no prompt again, and what it added."""
    done: list[tuple[UsageRecord, UsageCost]] = []
    batch: dict[tuple[str, str], list[_Booked]] = {}
    for record, cost in records:
        new, key = record, record.request_key
        if key.startswith((JOINED, DISAGGREGATED)) and not record.is_beside():
            mine = batch.setdefault((key, record.tenant), [])
            new = _settled(record, [*_booked(connection, record), *mine])
            mine.append(_of(new))
        done.append((new, cost))
    return done


def _booked(connection: sqlite3.Connection, record: UsageRecord) -> list[_Booked]:
    sql = f"""
        SELECT u.arrived_ns, u.record_id, u.role, u.input_tokens, u.output_tokens, {INPUT}, {OUTPUT}
        FROM usage u WHERE u.request_key = ? AND u.tenant = ? AND NOT {IS_BESIDE}
    """  # noqa: S608 - made of constants
    return [_Booked(*row) for row in connection.execute(sql, (record.request_key, record.tenant))]


def _of(record: UsageRecord) -> _Booked:
    counts = record.counts()
    facts = (record.arrived_ns, record.record_id, record.role, record.input_tokens, record.output_tokens)
    return _Booked(*facts, counts.input_tokens, counts.output_tokens)


def _settled(record: UsageRecord, earlier: list[_Booked]) -> UsageRecord:
    stage = [part for part in earlier if (part.role == "prefill") == (record.role == "prefill")]
    if not stage:
        return record
    record = replace(record, attempt=max(record.attempt, len(stage) + 1))
    if any(part.counted_input for part in earlier):
        record = replace(record, counted_input=0, counted_cached=0)
    if record.role == "prefill":
        return record
    # By how much the prompt has grown from one attempt to the next is what the client got of the one before.
    attempts = sorted([*stage, _of(record)])
    got = sum(max(0, after.input_tokens - before.input_tokens) for before, after in pairwise(attempts))
    output = got + attempts[-1].output_tokens - sum(part.counted_output for part in stage)
    return replace(record, counted_output=max(0, output))  # counters never fall: `count_once` takes back the rest
