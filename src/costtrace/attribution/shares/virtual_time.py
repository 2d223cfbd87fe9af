"""Exact shares of a step in O(1): cumulative counters instead of a loop over the batch.

The *cohort* is the set of sequences that decode one token a step. In step k each of them pays
``h_k * w + v_k + b_k * ctx``: its weight in the head fee, a fixed sum, and its context, which grows by one a step. What
a member owes over any span of steps is therefore a difference of four counters (docs/method/paper.md section 6):

    H = sum h_k     A = sum v_k     B = sum b_k     C = sum b_k * k
    owed = w * dH + dA + (ctx0 - k0) * dB + dC        (entered at step k0 with context ctx0)

Counters are Python integers in fixed point (2**-SHIFT of a unit): no drift, no overflow, and the parts of a step sum
to the step exactly; what cannot be divided evenly (less than one fixed-point unit a member) is carried on.

A `CostCounter` counts one meter (nanoseconds, or microjoules). Membership is shared by all cost counters of an engine.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from costtrace.attribution.steps.prices import Prices
from costtrace.core.attention_reach import AttentionReach
from costtrace.core.cohort import CohortState

SHIFT = 40
"""Fixed point: one unit (ns, uJ) is 2**40 parts."""
ONE = 1 << SHIFT
HEAD = 1 << 20
"""Weight of a whole head fee: a request with two sequences gives each half of it (docs/method/rules.md, 3.6)."""


class ItemUse(NamedTuple):
    """What a participant that is not in the cohort used of a step. Whole numbers."""

    tokens: int
    context: int
    """KV tokens read if it decodes (0 for a prefill chunk: its reads are in `attention`)."""
    attention: int
    """Chunk tokens x (context before it + half of the chunk); 0 for a decode."""
    weight: float = HEAD
    """Its weight in the head fee."""
    expert: float = 1.0
    """The experts' weights that it makes be read, in those of one decoded token."""
    encoder: int = 0
    """Encoder tokens."""
    prompt: int = 0
    """1 for a prefill chunk."""
    beyond: float = 0.0
    """Tokens beyond the knee that it brings about, less those of as many decoded one by one; may be negative."""


class Cohort(CohortState):
    """The cohort as it is charged: up to the step whose energy is known, with weights in the head fee."""

    weight: int = 0
    """Of all members; kept by who knows the policy (`Accounts`, `TenantFees`)."""
    unit: int = HEAD
    """What `weight` counts: so much of it is one head fee."""
    reach: AttentionReach | None = msgspec.field(default=None, name="span")
    """Layers with a sliding window: `context` counts its units; None: there are none."""


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A counter's values when a member was last settled."""

    h: int
    a: int
    b: int
    c: int


class CostCounter(msgspec.Struct):
    """One meter's counters."""

    h: int = 0
    a: int = 0
    b: int = 0
    c: int = 0
    carry: int = 0
    """Fixed-point parts that the last step could not divide evenly: part of the next one."""
    fee: float = 0.0
    """What a whole head paid of the newest step, in fixed point: the head fee of a participant outside the cohort."""

    def mark(self) -> Mark:
        """The counters now."""
        return Mark(self.h, self.a, self.b, self.c)

    def follow(self, other: "CostCounter") -> None:
        """Be as *other* is: it was charged the same, from the same state."""
        self.h, self.a, self.b, self.c = other.h, other.a, other.b, other.c
        self.carry, self.fee = other.carry, other.fee

    def owed(self, since: Mark, step0: int, context0: int, weight: int = HEAD, growth: tuple[int, int] = (1, 0)) -> int:
        """What a member owes since *since*, in fixed point; it entered at *step0* with *context0*.

        *growth*: reads by token of its context, and beside them (`AttentionReach.growth`).
        """
        read = self.b - since.b
        base = weight * (self.h - since.h) + (self.a - since.a)
        return base + growth[0] * ((context0 - step0) * read + (self.c - since.c)) + growth[1] * read

    def charge(self, total: int, cohort: Cohort, items: Sequence[ItemUse], prices: Prices) -> list[int]:
        """Share *total* units (a whole number) between the cohort and *items*; returns the items' parts, fixed point.

        Exact: ``total`` plus the carry before equals the items' parts, what the cohort's members owe more than
        before, and the carry after. The caller advances the cohort.
        """
        amount = (total << SHIFT) + self.carry
        self.carry = 0
        self.fee = 0.0
        head, context, count = prices.head, prices.context, cohort.count
        if cohort.reach is not None:
            context /= cohort.reach.units
        member = prices.sequence + prices.token + prices.expert + prices.decode
        whole = head * cohort.weight / cohort.unit + member * count + context * cohort.context
        weights: list[float] = []
        if items:
            weights = [_weight(prices, item) for item in items]
            whole += sum(weights)
        if not whole > 0.0:  # nothing has a price (or the prices are not numbers): equal shares
            return self._charge_equally(amount, cohort, len(items))
        scale = amount / whole
        self.fee = head * scale
        parts: list[int] = []
        rest = amount
        if items:
            parts = [int(weight * scale) for weight in weights]
            rest -= sum(parts)
        if count == 0 or rest < 0:
            _add_to_largest(parts, rest)
            return parts
        per_context = per_weight = 0
        if cohort.context:
            per_context = min(int(context * scale), rest // cohort.context)
            rest -= per_context * cohort.context
        if cohort.weight:
            per_weight = min(int(self.fee / cohort.unit), rest // cohort.weight)
            rest -= per_weight * cohort.weight
        per_member, self.carry = divmod(rest, count)
        self._count(per_weight, per_member, per_context, cohort.step)
        return parts

    def _charge_equally(self, amount: int, cohort: Cohort, items: int) -> list[int]:
        everyone = cohort.count + items
        if everyone == 0:
            self.carry = amount
            return []
        each, rest = divmod(amount, everyone)
        self._count(0, each if cohort.count else 0, 0, cohort.step)
        self.carry = rest
        return [each] * items

    def _count(self, per_weight: int, per_member: int, per_context: int, step: int) -> None:
        self.h += per_weight
        self.a += per_member
        self.b += per_context
        self.c += per_context * step


def _weight(prices: Prices, item: ItemUse) -> float:
    """What a participant that is not in the cohort has to pay, before scaling."""
    head, sequence, token, context, attention, _, expert, encoder, prompt, decode, beyond = prices
    fee = head * item.weight / HEAD + sequence + expert * item.expert + encoder * item.encoder
    fee += prompt * item.prompt + decode * (1 - item.prompt)
    compute = max(0.0, token * item.tokens + beyond * item.beyond)  # where it is 0, rounding may be on either side
    return fee + compute + context * item.context + attention * item.attention


def _add_to_largest(parts: list[int], rest: int) -> None:
    """What float rounding left over (a few parts in 2**53) goes to the largest part: nothing is carried or lost."""
    if parts:
        largest = max(range(len(parts)), key=parts.__getitem__)
        parts[largest] += rest


class Rounder(msgspec.Struct):
    """Turns fixed-point parts into whole units whose running sum is the floor of the exact running sum."""

    pool: int = 0

    def whole(self, part: int) -> int:
        """Whole units of *part*, together with what earlier parts left over."""
        self.pool += part
        units = self.pool >> SHIFT
        self.pool &= ONE - 1
        return units
