"""Head fees by tenant (policy `tenant`), in O(1) whatever a tenant's number of requests.

The fee is split evenly over the tenants that run, and a tenant's part evenly over its running requests: the Owen value,
for a cost that is there as soon as anybody is (docs/method/paper.md section 7). When a request of a tenant
comes or goes, the parts of all its others change, but none of them is touched: each tenant keeps what a whole request
of it has paid so far, by meter, and a member's payment is a difference of two such sums.
"""

from collections.abc import Sequence

import msgspec

from costtrace.attribution.shares.virtual_time import HEAD, Cohort, CostCounter


class TenantGroup(msgspec.Struct):
    """One tenant's running requests, and what a member of it has paid."""

    requests: int = 0
    """Running requests."""
    weight: int = 0
    """Weight of its members in the cohort; `HEAD` for a whole request."""
    paid: list[int] = []
    """By meter: what a member has paid for each unit of its weight."""
    marks: list[int] = []
    """Each cost counter's head fee when `paid` was last brought up to date."""

    def unit(self) -> int:
        """The part of a head that each of its requests pays, in parts of `HEAD`."""
        return HEAD // max(1, self.requests)


class TenantFees(msgspec.Struct):
    """All tenants of an engine."""

    groups: dict[str, TenantGroup] = {}

    def unit(self, tenant: str) -> int:
        """The part of a head that a request of *tenant* pays, in parts of `HEAD`."""
        group = self.groups.get(tenant)
        return HEAD if group is None else group.unit()

    def paid(self, tenant: str, clocks: Sequence[CostCounter]) -> list[int]:
        """What a member of *tenant* has paid so far for each unit of its weight, by meter."""
        group = self.groups.setdefault(tenant, TenantGroup())
        self._bring(group, clocks)
        return list(group.paid)

    def weigh(self, tenant: str, weight: int, cohort: Cohort, clocks: Sequence[CostCounter]) -> None:
        """Members with *weight* together have entered the cohort; negative: have left it."""
        group = self.groups.setdefault(tenant, TenantGroup())
        self._bring(group, clocks)
        group.weight += weight
        cohort.weight += weight * group.unit()
        self._drop(tenant, group)

    def run(self, tenant: str, requests: int, cohort: Cohort, clocks: Sequence[CostCounter]) -> None:
        """So many requests have begun to run; negative: have ended."""
        group = self.groups.setdefault(tenant, TenantGroup())
        self._bring(group, clocks)
        before = group.unit()
        group.requests += requests
        cohort.weight += group.weight * (group.unit() - before)
        self._drop(tenant, group)

    def _bring(self, group: TenantGroup, clocks: Sequence[CostCounter]) -> None:
        if not group.marks:
            group.paid, group.marks = [0] * len(clocks), [clock.h for clock in clocks]
        unit = group.unit()
        for meter, clock in enumerate(clocks):
            group.paid[meter] += unit * (clock.h - group.marks[meter])
            group.marks[meter] = clock.h

    def _drop(self, tenant: str, group: TenantGroup) -> None:
        if not group.requests and not group.weight:
            del self.groups[tenant]
