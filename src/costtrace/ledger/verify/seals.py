"""Closed periods: a chain of seals, each over the rows of its period and over the seal before it.

A row's digest is 8 bytes of BLAKE2b over its columns; a part's digest is SHA-256 over the digests of its rows; a seal's
hash is SHA-256 over all that the seal says and over the hash of the seal before. Whoever keeps the newest hash outside
the ledger can tell whether anything that was closed has been changed since, this chain included.

When it is wrong: who can write the ledger can also make the chain again from the changed row on. Only a hash that was
kept elsewhere shows that.
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


class SealLine(NamedTuple):
    """A seal as it stands in the ledger."""

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
    """Eight bytes that stand for the columns of a row."""
    return hashlib.blake2b(msgspec.json.encode(row), digest_size=8).digest()


def seal_hash(seal: SealLine) -> str:
    """The hash that a seal must have: over all its fields but its number and the hash itself."""
    return hashlib.sha256(json.dumps(seal[1:8]).encode()).hexdigest()


def pack(entries: Iterable[Entry]) -> bytes:
    """Digests with their row numbers, as table ``seal_block`` holds them."""
    return b"".join(_ENTRY.pack(*entry) for entry in entries)


def unpack(blocks: Iterable[bytes]) -> Iterator[Entry]:
    """What `pack` has packed; a torn end is left out (the part's digest shows it)."""
    for block in blocks:
        yield from _ENTRY.iter_unpack(block[: len(block) // _ENTRY.size * _ENTRY.size])


def part_digest(blocks: Iterable[bytes]) -> str:
    """The digest of one part of a period."""
    whole = hashlib.sha256()
    for block in blocks:
        whole.update(block)
    return whole.hexdigest()


def read_content(seal: SealLine) -> dict[str, Any]:
    """What a seal says; nothing where it cannot be read (its hash shows that)."""
    try:
        content = json.loads(seal.content)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def check_chain(seals: Sequence[SealLine]) -> Iterator[Discrepancy]:
    """Every seal has the hash of its content, and names the hash before it; periods follow each other."""
    previous, until_ns = "", 0
    closed: dict[str, SealLine] = {}
    for seal in seals:
        due = seal_hash(seal)
        if seal.hash != due:
            yield _off(seal.name, "hash", due, seal.hash, "what this seal says was changed after it was made")
        if seal.previous != previous:
            yield _off(
                seal.name, "previous", previous, seal.previous, "the chain is broken: a seal is gone or was put in"
            )
        previous = seal.hash
        if seal.kind == "close":
            if seal.since_ns < until_ns:
                meaning = "two closed periods overlap"
                yield _off(seal.name, "since_ns", f"{until_ns} or later", str(seal.since_ns), meaning)
            until_ns = seal.until_ns
            closed[seal.period] = seal
        else:
            yield from _check_totals(seal, closed.get(seal.period))


def head_missing(seals: Sequence[SealLine], head: str | None) -> Iterator[Discrepancy]:
    """A hash that was kept elsewhere has to stand in the chain, or the chain was made again."""
    if head is not None and head not in {seal.hash for seal in seals}:
        newest = seals[-1].hash if seals else "no closed period"
        yield _off("the chain of closed periods", "hash", head, newest, "a closed period is another than it was")


def _check_totals(seal: SealLine, close: SealLine | None) -> Iterator[Discrepancy]:
    """Compaction keeps every total."""
    due = read_content(close).get("totals") if close else None
    found = read_content(seal).get("totals")
    if found != due:
        meaning = "compaction has to keep every total of the period"
        yield _off(seal.name, "totals", json.dumps(due), json.dumps(found), meaning)


def check_totals(seal: SealLine, now: Mapping[str, Any]) -> Iterator[Discrepancy]:
    """The period's totals, summed again, are what the seal says."""
    then = read_content(seal).get("totals", {})
    for field in sorted(then.keys() | now.keys()):
        if then.get(field) != now.get(field):
            expected, found = (json.dumps(totals.get(field), sort_keys=True) for totals in (then, now))
            yield _off(f"period {seal.period}", field, expected, found, "this total was another when the period closed")


def check_part(
    seal: SealLine, part: str, blocks: Sequence[bytes], rows: Iterable[tuple[int, Sequence[Any]]]
) -> Iterator[Discrepancy]:
    """The rows of one part are those that were sealed. *rows*: number and columns, in the order of sealing."""
    due = read_content(seal).get("parts", {}).get(part, {}).get("digest", "")
    found = part_digest(blocks)
    if due != found:
        yield _off(seal.name, f"digest of {part}", str(due), found, "the digests of this period's rows were changed")
    for sealed, row in paired(unpack(blocks), rows, lambda entry: entry[0], lambda entry: entry[0]):
        number = (sealed or row or (0,))[0]
        name = f"{part} {number} of closed period {seal.period}"
        if row is None:
            yield _off(name, "row", "as it was sealed", "none", "it was deleted after its period was closed")
        elif sealed is None:
            yield _off(name, "row", "none", _short(row[1]), "it was put in after its period was closed")
        elif row_digest(row[1]) != sealed[1]:
            expected, changed = sealed[1].hex(), f"{row_digest(row[1]).hex()}: {_short(row[1])}"
            yield _off(name, "digest", expected, changed, "it was changed after its period was closed")


def _short(row: Sequence[Any]) -> str:
    return ", ".join("NULL" if value is None else str(value) for value in row)[:200]


def _off(row: str, field: str, expected: str, found: str, meaning: str) -> Discrepancy:
    return Discrepancy("closed periods", row, field, expected, found, meaning)
