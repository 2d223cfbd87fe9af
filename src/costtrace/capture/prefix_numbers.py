"""Numbers for the blocks of a prefix cache, so that a journal can say who found whose, and nothing of what is in them.

An engine names its cached blocks by hashes, which identify prompts. A number is given here to each block that a
sequence is about to compute; the hash stays in this table, in the engine's process. A block that was evicted and is
computed again gets a new number: it is a new cost. Numbers of two journals have nothing to do with each other.
"""

from collections.abc import Hashable, Sequence
from itertools import islice

from costtrace.core.events import PrefixPath

MOST = 131_072
"""Blocks that are remembered: more than the KV cache of one device has (some 20 MB). The oldest are forgotten, and who
finds one of those is taken for nobody's reader."""


class PrefixNumbers:
    """The numbers of one engine's blocks."""

    def __init__(self, block_tokens: int, most: int = MOST) -> None:
        self.block_tokens = block_tokens
        self._most = most
        self._numbers: dict[Hashable, int] = {}
        self._next = 1

    def path(self, slot: int, at_ns: int, names: Sequence[Hashable], found_tokens: int) -> PrefixPath | None:
        """What a sequence finds and what it is going to compute; None if no block of it can be shared.

        *names*: of each whole block of its prompt, in order, each standing for all before it too. *found_tokens*: how
        many of its tokens the cache had.
        """
        count = min(found_tokens // self.block_tokens, len(names))
        found: list[tuple[int, int]] = []
        for name in names[:count]:
            number = self._numbers.get(name, 0)
            first, length = found[-1] if found else (-1, 0)
            if number == (first + length if first else 0):
                found[-1] = (first, length + 1)
            else:
                found.append((number, 1))
        own = len(names) - count
        if not own and not any(first for first, _ in found):
            return None
        own_first = self._number(names[count:]) if own else 0
        return PrefixPath(slot, at_ns, self.block_tokens, tuple(found), own_first, own)

    def _number(self, names: Sequence[Hashable]) -> int:
        """Give consecutive numbers; returns the first. One is left out behind them, so that two runs never touch."""
        first = self._next
        numbers = self._numbers
        for number, name in enumerate(names, first):
            numbers.pop(name, None)  # to the end: the table is in the order in which blocks were computed
            numbers[name] = number
        self._next = first + len(names) + 1
        for name in list(islice(numbers, max(0, len(numbers) - self._most))):
            del numbers[name]
        return first
