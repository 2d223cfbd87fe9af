"""Who else used what a prompt computed: the fixed-tree rule for the prefix cache (policy `tree`), by window.

Cached blocks form a tree: each is found only behind the ones before it. The fair share of such a tree's cost
(Littlechild and Owen 1973 for a chain, Megiddo 1978 for a tree; both are Shapley values) is that each node is split
evenly among all requests that use it. A node is a block of one prompt; its cost is its tokens' part of the chunk in
which it was computed; its users are the request that computed it and those that found it in the same window. At the
window's end the others' parts move from its writer to them, in integers: what is taken equals what is given.

Wrong where chunks are long and attention weighs much: inside a chunk all tokens count alike.
"""

from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import NamedTuple

import msgspec

from costtrace.core.events import PrefixPath

Transfers = dict[int, list[int]]
"""By slot: fixed-point amounts by meter to put on its account; negative: to take off. Each meter sums to 0."""


class Chunk(msgspec.Struct, array_like=True):
    """Tokens [start, end) of a prompt that were computed in this window, and their charge by meter, in fixed point."""

    start: int
    end: int
    parts: list[int]

    def until(self, token: int, meter: int) -> int:
        """The charge of its tokens before *token*."""
        return self.parts[meter] * (token - self.start) // (self.end - self.start)


class Read(msgspec.Struct, array_like=True, frozen=True):
    """Tokens [start, end) of a writer's prompt were found by another sequence."""

    start: int
    end: int
    slot: int


class Writer(msgspec.Struct):
    """A sequence that computes blocks which others may find."""

    first: int
    """Its first node's number."""
    start: int
    """The first token of its first node: what it found itself lies before."""
    end: int
    """The end of its last whole block."""
    high: int = 0
    """Tokens below it have been computed: computing them again after a preemption is not shared."""
    newest: tuple[int, int, int] = (0, 0, 0)
    """Of the step that is being charged: [start, end) of the new tokens, and the number of all tokens."""
    chunks: list[Chunk] = []
    reads: list[Read] = []


class PrefixTree(msgspec.Struct):
    """The part of the tree that is computed in the present window."""

    block_tokens: int = 0
    writers: dict[int, Writer] = {}
    """By slot."""
    firsts: list[int] = []
    """Number of each writer's first node, ascending."""
    slots: list[int] = []
    """Slot of the writer at the same place in `firsts`."""

    def path(self, event: PrefixPath) -> bool:
        """Take in what a sequence found and which nodes it will compute; False if none of it can be shared.

        Nodes of past windows are not in the tree: they have been paid.
        """
        size = self.block_tokens = event.block_tokens
        shared = False
        token = 0
        for first, count in event.found:
            shared = self._read(event.slot, first, count, size) or shared
            token += count * size
        if event.own:
            self.writers[event.slot] = Writer(event.own_first, token, token + event.own * size)
            self.firsts.append(event.own_first)
            self.slots.append(event.slot)
        return shared or event.own > 0

    def _read(self, slot: int, first: int, count: int, size: int) -> bool:
        """Note that nodes [first, first + count) were found. They are one writer's: numbers of writers never touch."""
        place = bisect_right(self.firsts, first) - 1
        writer = self.writers.get(self.slots[place]) if place >= 0 else None
        if writer is None:
            return False
        start = writer.start + (first - writer.first) * size
        end = min(writer.end, start + count * size)
        if start >= end:
            return False
        writer.reads.append(Read(start, end, slot))
        return True

    def begin(self, slot: int, tokens: int, context: int) -> None:
        """Note that the step to be charged next computes *tokens* of the sequence after *context*."""
        if (writer := self.writers.get(slot)) is None:
            return
        start = max(context, writer.high, writer.start)
        end = min(context + tokens, writer.end)
        writer.newest = (start, end, tokens)
        writer.high = max(writer.high, end)

    def charged(self, slot: int, meter: int, owed: int) -> None:
        """Note that the sequence was charged *owed* for its chunk in this step, or in a piece of the step."""
        if (writer := self.writers.get(slot)) is None:
            return
        start, end, tokens = writer.newest
        if start >= end:
            return
        if not writer.chunks or writer.chunks[-1].start != start:
            writer.chunks.append(Chunk(start, end, [0, 0, 0]))
        writer.chunks[-1].parts[meter] += owed * (end - start) // tokens

    def true_up(self, record_of: dict[int, str]) -> Transfers:
        """End the window: by slot, how much more or less it has to pay. Sequences of one record are one user.

        *record_of*: the record of each slot that can still be charged. What has been settled is dropped.
        """
        transfers: Transfers = {}
        for slot, writer in self.writers.items():
            if slot in record_of and writer.reads and writer.chunks:
                reads = _users(writer.reads, record_of, but=record_of[slot])
                if reads:
                    _split(slot, writer.chunks, reads, transfers)
        self._forget(record_of)
        return transfers

    def _forget(self, record_of: dict[int, str]) -> None:
        """Keep only writers that may compute more, without what is settled."""
        kept = {slot for slot, writer in self.writers.items() if slot in record_of and writer.high < writer.end}
        self.writers = {slot: writer for slot, writer in self.writers.items() if slot in kept}
        for writer in self.writers.values():
            writer.chunks, writer.reads = [], []
        pairs = [(first, slot) for first, slot in zip(self.firsts, self.slots, strict=True) if slot in kept]
        self.firsts, self.slots = [first for first, _ in pairs], [slot for _, slot in pairs]


class _User(NamedTuple):
    """Tokens [start, end) that a record found, and its sequence that pays for them."""

    start: int
    end: int
    slot: int


def _users(reads: list[Read], record_of: dict[int, str], *, but: str) -> list[_User]:
    """What each record found, each token once; without the writer's record."""
    by_record: dict[str, list[_User]] = {}
    for read in sorted(reads, key=lambda read: (read.start, -read.end, read.slot)):
        record = record_of.get(read.slot)
        if record is None or record == but:
            continue
        users = by_record.setdefault(record, [])
        start = max(read.start, users[-1].end) if users else read.start
        if start < read.end:
            users.append(_User(start, read.end, read.slot))
    return [user for users in by_record.values() for user in users]


def _split(writer: int, chunks: list[Chunk], users: list[_User], transfers: Transfers) -> None:
    """Split each stretch between two edges evenly among the writer and the users that found it.

    Sums over stretches are kept (the airport game's closed form): a user costs two look-ups, however long its path.
    """
    edges = sorted(
        {edge for chunk in chunks for edge in (chunk.start, chunk.end)}
        | {edge for user in users for edge in (user.start, user.end)}
    )
    place = {edge: i for i, edge in enumerate(edges)}
    count = [0] * len(edges)
    for user in users:
        count[place[user.start]] += 1
        count[place[user.end]] -= 1
    users_at = list(accumulate(count))
    sums: list[list[int]] = [[0], [0], [0]]
    by_start = sorted(chunks, key=lambda chunk: chunk.start)
    nth = 0
    for i, (start, end) in enumerate(pairwise(edges)):
        while nth < len(by_start) and by_start[nth].end <= start:
            nth += 1
        chunk = by_start[nth] if nth < len(by_start) and by_start[nth].start <= start else None
        for meter, so_far in enumerate(sums):
            cost = 0 if chunk is None else chunk.until(end, meter) - chunk.until(start, meter)
            so_far.append(so_far[-1] + cost // (1 + users_at[i]))
    gives = transfers.setdefault(writer, [0, 0, 0])
    for user in users:
        takes = transfers.setdefault(user.slot, [0, 0, 0])
        for meter, so_far in enumerate(sums):
            part = so_far[place[user.end]] - so_far[place[user.start]]
            takes[meter] += part
            gives[meter] -= part
