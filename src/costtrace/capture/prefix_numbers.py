"""Numbers for the blocks of a prefix cache, so that a journal records who reuses whose block and nothing of its text.

An engine names its cached blocks by hashes, which identify prompts. Here each block that a sequence is about to compute
gets a number; the hash stays in this table, in the engine's process. A block that was evicted and is computed again
gets a new number: it is a new cost. Numbers of two journals are unrelated.
"""

from collections.abc import Hashable, Sequence
from itertools import islice

from costtrace.core.events import PrefixPath

MOST = 131_072
"""Blocks that are remembered (some 20 MB): more than the KV cache of one device has. The oldest are forgotten: who
computed them is then unknown."""


class PrefixNumbers:
    """The numbers of one engine's blocks."""

    def __init__(self, block_tokens: int, most: int = MOST) -> None:
        self.block_tokens = block_tokens
        self._most = most
        self._numbers: dict[Hashable, int] = {}
        self._next = 1

    def path(self, slot: int, at_ns: int, names: Sequence[Hashable], found_tokens: int) -> PrefixPath | None:
        """The blocks that a sequence finds in the cache and those that it computes; None if none of them can be shared.

        *names*: hashes of the whole blocks of its prompt, in order, each covering all blocks before it. *found_tokens*:
        how many tokens of the prompt were cached.
        """
        count = min(found_tokens // self.block_tokens, len(names))
        cached: list[tuple[int, int]] = []
        for name in names[:count]:
            number = self._numbers.get(name, 0)
            first, length = cached[-1] if cached else (-1, 0)
            if number == (first + length if first else 0):
                cached[-1] = (first, length + 1)
            else:
                cached.append((number, 1))
        computed = len(names) - count
        if not computed and not any(first for first, _ in cached):
            return None
        first_computed = self._number(names[count:]) if computed else 0
        return PrefixPath(slot, at_ns, self.block_tokens, tuple(cached), first_computed, computed)

    def _number(self, names: Sequence[Hashable]) -> int:
        """Give consecutive numbers; return the first. The number after them stays unused: two runs never touch."""
        first = self._next
        numbers = self._numbers
        for number, name in enumerate(names, first):
            numbers.pop(name, None)  # to the end: the table is in the order in which blocks were computed
            numbers[name] = number
        self._next = first + len(names) + 1
        for name in list(islice(numbers, max(0, len(numbers) - self._most))):
            del numbers[name]
        return first
