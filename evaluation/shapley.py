"""Who would have to pay what for a step: the Shapley value of the measured game, by sampled permutations.

The game of a step: a coalition of its sequences costs the time that the kernels would take for them alone. Up to nine
sequences all coalitions are looked at. With more, each sampled order adds the sequences one by one, and each is charged
what it adds. Orders come in pairs, one the reverse of the other.
"""

from functools import lru_cache
from math import factorial

import numpy as np

from costtrace.simulator import Batch
from evaluation.kernels import Tables

EXACT = 9
"""Steps of up to so many sequences are solved exactly."""


@lru_cache(maxsize=EXACT)
def coalitions(n: int) -> tuple[np.ndarray, np.ndarray]:
    """All coalitions of *n* players (rows of 0 and 1), and how much of each one's cost each player bears."""
    member = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
    size = member.sum(axis=1)
    joins = np.array([factorial(k) * factorial(n - k - 1) / factorial(n) if k < n else 0.0 for k in range(n + 1)])
    # A coalition that has the player counts as what it leaves behind; one that has not, as what the player joins.
    return member, np.where(member == 1, joins[np.maximum(size - 1, 0)][:, None], -joins[size][:, None])


class Truth:
    """Accumulates each sequence's Shapley value (ms) over all steps, and the variance of what was sampled."""

    def __init__(self, tables: Tables, *, pairs: int, seed: int) -> None:
        self._tables = tables
        self._pairs = pairs
        self._rng = np.random.default_rng(seed)
        self.by_slot: dict[int, float] = {}
        self.variance: dict[int, float] = {}
        self.prompts_ms = 0.0
        """Of it, what was for prompts."""

    def add(self, batch: Batch, took_ns: int) -> None:
        """Take in a step that took *took_ns*: its values are scaled to that."""
        members = batch.members
        value, variance = self._values(batch)
        scale = took_ns / 1e6 / value.sum()
        for place, member in enumerate(members):
            share = float(value[place]) * scale
            self.by_slot[member.slot] = self.by_slot.get(member.slot, 0.0) + share
            self.variance[member.slot] = self.variance.get(member.slot, 0.0) + float(variance[place]) * scale * scale
            if not member.decodes:
                self.prompts_ms += share

    def _values(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        members, tables = batch.members, self._tables
        n = len(members)
        tokens = np.array([m.tokens for m in members])
        decodes = np.array([m.decodes for m in members], dtype=int)
        context = np.array([m.context for m in members])
        samples = np.array([m.samples for m in members], dtype=int)
        chunk = np.where(decodes == 0, tables.prefill_ms(tokens, context), 0.0)
        if n <= EXACT:
            member, weight = coalitions(n)
            count, read = member @ decodes, member @ (context * decodes)
            value = tables.linear[member @ tokens] + tables.head[member @ samples] + tables.decode_ms(count, read)
            value += tables.host * (member.any(axis=1)) + member @ chunk
            return weight.T @ value, np.zeros(n)
        half = np.argsort(self._rng.random((self._pairs, n)), axis=1)
        orders = np.concatenate([half, half[:, ::-1]])
        count = np.cumsum(decodes[orders], axis=1)
        total = tables.linear[np.cumsum(tokens[orders], axis=1)] + tables.head[np.cumsum(samples[orders], axis=1)]
        read = np.cumsum((context * decodes)[orders], axis=1)
        total += tables.decode_ms(count.ravel(), read.ravel()).reshape(count.shape)
        marginal = np.diff(total, axis=1, prepend=0.0)
        marginal[:, 0] += tables.host
        found = np.empty_like(marginal)
        np.put_along_axis(found, orders, marginal, axis=1)
        found += chunk
        paired = (found[: self._pairs] + found[self._pairs :]) / 2
        return paired.mean(axis=0), paired.var(axis=0, ddof=1) / self._pairs
