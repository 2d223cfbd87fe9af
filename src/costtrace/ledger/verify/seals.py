"""Closed periods: a chain of seals, each over the rows of its period and over the seal before it.

A row's digest is 8 bytes of BLAKE2b over its columns, a table's digest is SHA-256 over those of its rows, and a seal's
hash is SHA-256 over its other fields, the hash of the seal before among them. With the newest hash kept outside the
ledger, any later change to a closed period shows, a change to this chain included.

When it is wrong: anyone who can write the ledger can also make the chain again from the changed row on. Only a hash
that was kept elsewhere shows that.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from costtrace.ledger.verify.lines import Discrepancy, paired

_ENTRY = struct.Struct(">q8s")
BLOCK_ROWS = 4096
"""Digests in one row of table ``seal_block``."""
Entry = tuple[int, bytes]
"""Number and digest of a row."""


class SealLine(NamedTuple):
    """A seal, as the ledger has it. Times are wall ns; `content` is JSON: digests by table, and totals."""

    seal_id: int
    kind: str
    period: str
    since_ns: int
    until_ns: int
    at_ns: int
    content: str
    previous: str
    hash: str

    @property
    def name(self) -> str:
        """How a discrepancy names it."""
        return f"seal {self.seal_id} ({self.kind} of {self.period})"


def row_digest(row: Sequence[Any]) -> bytes:
    """Hash the columns of a row to 8 bytes."""
    return hashlib.blake2b(msgspec.json.encode(row), digest_size=8).digest()


def seal_hash(seal: SealLine) -> str:
    """Compute the hash that a seal must have: over all its fields but its number and the hash itself."""
    return hashlib.sha256(json.dumps(seal[1:8]).encode()).hexdigest()


def pack(entries: Iterable[Entry]) -> bytes:
    """Encode digests with their row numbers, as table ``seal_block`` holds them."""
    return b"".join(_ENTRY.pack(*entry) for entry in entries)


def unpack(blocks: Iterable[bytes]) -> Iterator[Entry]:
    """Decode what `pack` encoded. A truncated last entry is left out: the table's digest shows it."""
    for block in blocks:
        yield from _ENTRY.iter_unpack(block[: len(block) // _ENTRY.size * _ENTRY.size])


def table_digest(blocks: Iterable[bytes]) -> str:
    """The digest of one table's rows in a period."""
    whole = hashlib.sha256()
    for block in blocks:
        whole.update(block)
    return whole.hexdigest()


def read_content(seal: SealLine) -> dict[str, Any]:
    """Decode what a seal covers; empty where it is not JSON (its hash shows that)."""
    try:
        content = json.loads(seal.content)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def check_chain(seals: Sequence[SealLine]) -> Iterator[Discrepancy]:
    """Check that every seal has the hash of its content and names the hash before it, and that no periods overlap."""
    previous, until_ns = "", 0
    closed: dict[str, SealLine] = {}
    for seal in seals:
        due = seal_hash(seal)
        if seal.hash != due:
            meaning = "what this seal says was changed after it was made"
            yield _discrepancy(seal.name, "hash", due, seal.hash, meaning)
        if seal.previous != previous:
            meaning = "the chain is broken: a seal is gone or was put in"
            yield _discrepancy(seal.name, "previous", previous, seal.previous, meaning)
        previous = seal.hash
        if seal.kind == "close":
            if seal.since_ns < until_ns:
                meaning = "two closed periods overlap"
                yield _discrepancy(seal.name, "since_ns", f"{until_ns} or later", str(seal.since_ns), meaning)
            until_ns = seal.until_ns
            closed[seal.period] = seal
        else:
            yield from _check_totals(seal, closed.get(seal.period))


def head_missing(seals: Sequence[SealLine], head: str | None) -> Iterator[Discrepancy]:
    """Check that *head*, a hash that was kept elsewhere, is in the chain; otherwise the chain was made again."""
    if head is not None and head not in {seal.hash for seal in seals}:
        newest = seals[-1].hash if seals else "no closed period"
        meaning = "a closed period is another than it was"
        yield _discrepancy("the chain of closed periods", "hash", head, newest, meaning)


def _check_totals(seal: SealLine, close: SealLine | None) -> Iterator[Discrepancy]:
    """Check that compaction kept every total."""
    due = read_content(close).get("totals") if close else None
    totals = read_content(seal).get("totals")
    if totals != due:
        meaning = "compaction has to keep every total of the period"
        yield _discrepancy(seal.name, "totals", json.dumps(due), json.dumps(totals), meaning)


def check_totals(seal: SealLine, now: Mapping[str, Any]) -> Iterator[Discrepancy]:
    """Compare a seal's totals with those of the period's rows *now*."""
    then = read_content(seal).get("totals", {})
    for field in sorted(then.keys() | now.keys()):
        if then.get(field) != now.get(field):
            sealed, summed = (json.dumps(totals.get(field), sort_keys=True) for totals in (then, now))
            meaning = "this total was another when the period closed"
            yield _discrepancy(f"period {seal.period}", field, sealed, summed, meaning)


def check_table(
    seal: SealLine, table: str, blocks: Sequence[bytes], rows: Iterable[tuple[int, Sequence[Any]]]
) -> Iterator[Discrepancy]:
    """Check that the rows of *table* are those that were sealed. *rows*: number and columns, in sealing order."""
    due = read_content(seal).get("parts", {}).get(table, {}).get("digest", "")
    digest = table_digest(blocks)
    if due != digest:
        meaning = "the digests of this period's rows were changed"
        yield _discrepancy(seal.name, f"digest of {table}", str(due), digest, meaning)
    for sealed, row in paired(unpack(blocks), rows, lambda entry: entry[0], lambda entry: entry[0]):
        number = (sealed or row or (0,))[0]
        name = f"{table} {number} of closed period {seal.period}"
        if row is None:
            yield _discrepancy(name, "row", "as it was sealed", "none", "it was deleted after its period was closed")
        elif sealed is None:
            yield _discrepancy(name, "row", "none", _short(row[1]), "it was put in after its period was closed")
        elif row_digest(row[1]) != sealed[1]:
            expected, changed = sealed[1].hex(), f"{row_digest(row[1]).hex()}: {_short(row[1])}"
            yield _discrepancy(name, "digest", expected, changed, "it was changed after its period was closed")


def _short(row: Sequence[Any]) -> str:
    return ", ".join("NULL" if value is None else str(value) for value in row)[:200]


def _discrepancy(row: str, field: str, expected: str, found: str, meaning: str) -> Discrepancy:
    return Discrepancy("closed periods", row, field, expected, found, meaning)
