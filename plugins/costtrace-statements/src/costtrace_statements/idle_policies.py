"""Who pays for device time that served nobody: idle and overhead of one pool over one period. Pure.

A *pool* is all devices of one kind that are billed in one currency. What is handed out is a `Pot`: time, energy and
money together, all split by the same weights, each by largest remainder, so that the shares and what nobody takes are
the pot again, with ``==``.

    separate   nobody: idle is a line of its own                                    (default)
    weighted   in proportion to the cost of the tenants' own requests, or to their device time where a cost is unknown
    even       the same for each tenant that used the pool
    reserved   each tenant pays for what it reserved and did not use; what nobody reserved stays a line of its own
    peak       airport formula: a tenant pays a share of the capacity up to its own peak, each layer shared evenly by
               those whose peak reaches it

Wrong when: a tenant's peak is many short bursts within one slot (`peak` sees sums by slot); reservations are not those
that capacity was bought for (`reserved` believes them).
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder
from costtrace.reports.usage.summary import known_sum

POLICIES = ("separate", "weighted", "even", "reserved", "peak")
NOBODY = ""
"""The name of what no tenant takes."""
_SCALE_BITS = 64
"""Layers of a peak are divided in units of 2**-64 ns: the weights are exact enough, and the sums are exact anyhow."""


class Pot(NamedTuple):
    """Amounts that stay together. A sum of unknowns only is None; of what is unknown, the device-ns are beside it."""

    gpu_ns: int = 0
    energy_uj: int | None = None
    energy_unknown_ns: int = 0
    """Part of `gpu_ns` whose energy is not in `energy_uj`."""
    cost_nano: int | None = None
    cost_unknown_ns: int = 0
    """Part of `gpu_ns` whose cost is not in `cost_nano`."""

    def plus(self, other: "Pot") -> "Pot":
        """The sum of both."""
        return Pot(
            self.gpu_ns + other.gpu_ns,
            known_sum(self.energy_uj, other.energy_uj),
            self.energy_unknown_ns + other.energy_unknown_ns,
            known_sum(self.cost_nano, other.cost_nano),
            self.cost_unknown_ns + other.cost_unknown_ns,
        )


class Claim(NamedTuple):
    """What one tenant used of a pool in the period, and what is reserved for it."""

    own: Pot = Pot()
    """What its requests used."""
    peak_ns: int = 0
    """Most device-ns that it used in any slot."""
    reserved_ns: int = 0
    """Device-ns of the period that are reserved for it."""


class Handed(NamedTuple):
    """A pot, handed out."""

    shares: dict[str, Pot]
    """By tenant; only those with a weight."""
    kept: Pot
    """What nobody takes."""
    basis: str
    """The unit of the weights: what a statement says the share was measured in."""
    weights: dict[str, int]
    """By tenant, and by `NOBODY` where something stays."""


def hand_out(policy: str, kind: str, pot: Pot, claims: Mapping[str, Claim]) -> Handed:
    """Hand out a pot of *kind* (``idle`` or ``overhead``) to the tenants of its pool.

    Where nobody has a weight (no tenant used the pool, nothing is reserved), all of it stays. Raises: ValueError.
    """
    basis, weights = _weights(policy, kind, pot, claims)
    takers = {tenant: weight for tenant, weight in sorted(weights.items()) if weight}
    if not any(takers):  # no tenant has a weight: all of it stays
        return Handed({}, pot, basis, {NOBODY: 1})
    parts = split(pot, list(takers.values()))
    shares = dict(zip(takers, parts, strict=True))
    return Handed({name: part for name, part in shares.items() if name}, shares.get(NOBODY, _none(pot)), basis, takers)


def split(pot: Pot, weights: list[int]) -> list[Pot]:
    """Split a pot by weights; each of its amounts adds up again exactly. What is unknown stays unknown."""
    columns = [[None] * len(weights) if amount is None else largest_remainder(amount, weights) for amount in pot]
    return [Pot._make(parts) for parts in zip(*columns, strict=True)]


def airport(peaks: Mapping[str, int]) -> dict[str, int]:
    """Weights of the airport game: each layer of capacity is shared evenly by all whose peak reaches it.

    With peaks p1 <= p2 <= ... <= pn, tenant i has the sum over k <= i of (pk - p(k-1)) / (n - k + 1): the Shapley value
    of "capacity costs what its highest user needs".
    """
    order = sorted((peak, tenant) for tenant, peak in peaks.items() if peak > 0)
    weights: dict[str, int] = {}
    running, below = 0, 0
    for place, (peak, tenant) in enumerate(order):
        running += ((peak - below) << _SCALE_BITS) // (len(order) - place)
        below = peak
        weights[tenant] = running
    # Equal peaks are equal weights: the layer between them is 0.
    assert all(weights[one[1]] <= weights[other[1]] for one, other in pairwise(order))
    return weights


def _none(pot: Pot) -> Pot:
    """Nothing of a pot: 0 of what is known."""
    return Pot._make(None if amount is None else 0 for amount in pot)


def _weights(policy: str, kind: str, pot: Pot, claims: Mapping[str, Claim]) -> tuple[str, dict[str, int]]:
    if policy == "separate":
        return "nothing", {}
    if policy == "even":
        return "tenants", {tenant: int(claim.own.gpu_ns > 0) for tenant, claim in claims.items()}
    if policy == "weighted":
        return _weighted(claims)
    if policy == "peak":
        return "peak device-ns", airport({tenant: claim.peak_ns for tenant, claim in claims.items()})
    if policy == "reserved":
        return _reserved(kind, pot, claims)
    raise ValueError(f"there is no policy {policy!r}: use one of {', '.join(POLICIES)}")


def _weighted(claims: Mapping[str, Claim]) -> tuple[str, dict[str, int]]:
    by_cost = {tenant: claim.own.cost_nano or 0 for tenant, claim in claims.items()}
    if (
        max(by_cost.values(), default=0) <= 0
    ):  # a re-rating gives costs back: what came with them is given back likewise
        by_cost = {tenant: -nano for tenant, nano in by_cost.items()}
    unknown = any(claim.own.cost_unknown_ns for claim in claims.values())
    if unknown or not any(by_cost.values()) or min(by_cost.values()) < 0:
        return "device-ns", {tenant: claim.own.gpu_ns for tenant, claim in claims.items()}
    return "nano-units of cost", by_cost


def _reserved(kind: str, pot: Pot, claims: Mapping[str, Claim]) -> tuple[str, dict[str, int]]:
    reserved = {tenant: claim.reserved_ns for tenant, claim in claims.items()}
    if kind != "idle":  # start-up and dummy batches were for all that was reserved, used or not
        return "reserved device-ns", reserved
    unused = {tenant: max(0, ns - claims[tenant].own.gpu_ns) for tenant, ns in reserved.items()}
    return "reserved and unused device-ns", {**unused, NOBODY: max(0, pot.gpu_ns - sum(unused.values()))}
