"""A period of a whole fleet under one idle policy: what each tenant pays, what nobody pays, and that it is all. Pure.

Every posting of the period is on exactly one line: a tenant's own usage, a tenant's share of idle or overhead, or a
rest (idle and overhead that nobody takes, unobserved). `Fleet.ties` compares the lines with a sum that was asked of the
store on its own.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import tzinfo
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder
from costtrace.core.units import NANO_PER_UNIT
from costtrace.core.wall_time import moment
from costtrace.ledger.answers import Ended, Period, Used
from costtrace.reports.statements.idle_policies import Claim, Handed, Pot, hand_out, known_sum
from costtrace.reports.usage.summary import REQUESTS

NANO_PER_CENT = NANO_PER_UNIT // 100
SHARED_KINDS = ("idle", "overhead")
"""What a policy may hand out. Unobserved time never: nobody knows whose it was."""


class IdlePolicy(NamedTuple):
    """Who pays for idle and overhead."""

    name: str = "separate"
    shares: tuple[str, ...] = SHARED_KINDS
    """Which kinds it hands out; the others stay lines of their own."""
    quotas: tuple["Quota", ...] = ()


class Quota(NamedTuple):
    """Capacity that is reserved for a tenant."""

    tenant: str
    share: Decimal
    """Of all device time of the pool, 0 to 1."""
    pool: str = ""
    """Device name; empty for every pool."""


class Facts(NamedTuple):
    """How the figures of one tenant (empty: of what has no tenant) were obtained; device-ns by each."""

    methods: dict[str, int]
    price_books: dict[str, int]
    simulated_ns: int = 0


class SettlementInput(NamedTuple):
    """What a store said about a period; `ledger.statements` asks it."""

    period: Period
    zone: tzinfo
    used: Sequence[Used]
    """By device, tenant, model, day."""
    ended: Sequence[Ended]
    """By device, tenant, model, day."""
    slots: Sequence[Used]
    """By device, tenant, hour (quarter hours); only `peak` needs them."""
    totals: Sequence[Used]
    """By nothing: the tie-out."""
    facts: Mapping[str, Facts]


class SettlementLine(NamedTuple):
    """One line: what a tenant used on one day, its share of something, or a rest."""

    tenant: str
    """'' for a rest."""
    day: str
    """'' for shares and rests: they are of the whole period."""
    pool: str
    model: str
    kind: str
    """``request``, ``idle``, ``overhead``, ``unobserved``, ``difference`` (against an imported bill)."""
    reason: str
    currency: str
    pot: Pot
    prefill_ns: int = 0
    decode_ns: int = 0
    wasted_ns: int = 0
    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    basis: str = ""
    """Of a share: what it was measured in."""
    weight: int = 0
    weights: int = 0
    """Its weight, of all weights."""
    cost_cents: int | None = None
    """Whole cents to book: all lines of a currency add up to its total. Set by `to_cents`."""

    def plus(self, other: "SettlementLine") -> "SettlementLine":
        """Both together, under this one's name."""
        added = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        return self._replace(pot=self.pot.plus(other.pot), **added)


_COUNTS = SettlementLine._fields[SettlementLine._fields.index("prefill_ns") : SettlementLine._fields.index("basis")]


class Tie(NamedTuple):
    """One currency (or a quantity): the lines against what the store says of the whole period."""

    what: str
    lines: int
    total: int

    @property
    def off(self) -> int:
        """0, or the reports are wrong."""
        return self.lines - self.total


class Settlement(NamedTuple):
    """All lines of a period under one policy."""

    period: Period
    zone: tzinfo
    policy: IdlePolicy
    cells: list[SettlementLine]
    """Tenants in order, each by day; then the rests."""
    facts: Mapping[str, Facts]
    ties: list[Tie]
    books: str = ""
    """Whether the figures can still change, where that is known: the period is closed, or not over."""

    def tenants(self) -> list[str]:
        """All tenants with a line."""
        return sorted({cell.tenant for cell in self.cells if cell.kind == REQUESTS or cell.tenant})

    def of(self, tenant: str) -> list[SettlementLine]:
        """Lines of one tenant."""
        return [cell for cell in self.cells if cell.tenant == tenant and (cell.kind == REQUESTS or tenant)]

    def by_tenant(self) -> dict[str, list[SettlementLine]]:
        """Lines of each tenant, in their order."""
        found: dict[str, list[SettlementLine]] = {tenant: [] for tenant in self.tenants()}
        for cell in self.cells:
            if cell.kind == REQUESTS or cell.tenant:
                found[cell.tenant].append(cell)
        return found

    def rests(self) -> list[SettlementLine]:
        """Lines that no tenant pays."""
        return [cell for cell in self.cells if not cell.tenant and cell.kind != REQUESTS]


def settle(source: SettlementInput, policy: IdlePolicy, extra: Sequence[SettlementLine] = ()) -> Settlement:
    """Hand out what the policy hands out, round to cents, tie out. *extra* lines (a bill's difference) are rests."""
    own = _own(source)
    left = _unowned(source)
    claims = _claims(source, policy, own, left)
    cells = sorted(own, key=lambda cell: (cell.tenant, cell.day, cell.model, cell.pool, cell.currency))
    rests: list[SettlementLine] = []
    for cell in left:
        if cell.kind not in policy.shares or policy.name == "separate":
            rests.append(cell)
            continue
        handed = hand_out(policy.name, cell.kind, cell.pot, claims.get((cell.pool, cell.currency), {}))
        cells += _shares(cell, handed)
        if any(handed.kept):
            rests.append(cell._replace(pot=handed.kept))
    cells.sort(key=lambda cell: (cell.tenant, not cell.day, cell.day))
    whole = to_cents([*cells, *rests, *extra])
    return Settlement(source.period, source.zone, policy, whole, source.facts, _ties(source, cells, rests))


def _namer(source: SettlementInput) -> Callable[[str], str]:
    known: dict[str, str] = {}

    def name(quarter: str) -> str:
        if quarter not in known:
            known[quarter] = moment(int(quarter), source.zone).strftime("%Y-%m-%d")
        return known[quarter]

    return name


def _currencies(source: SettlementInput) -> Callable[[str, str], str]:
    """Where to put what has no currency: with the only currency of its pool, where there is just one."""
    by_pool: dict[str, set[str]] = defaultdict(set)
    for row in source.used:
        by_pool[row.keys[0]].add(row.currency)
    everywhere = set().union(*by_pool.values()) - {""}

    def place(pool: str, currency: str) -> str:
        if currency:
            return currency
        found = (by_pool.get(pool, set()) - {""}) or everywhere
        return next(iter(found)) if len(found) == 1 else ""

    return place


def pot_of(row: Used) -> Pot:
    """The amounts of a sum of postings.

    The price of the device is owed whether its energy was measured or not: what is known of a cost is in it, and the
    time for which that is not all stands beside it.
    """
    known = row.device_nano is not None and row.energy_nano is not None
    cost = known_sum(row.device_nano, row.energy_nano)
    return Pot(row.gpu_ns, row.energy_uj, row.energy_unknown_ns, cost, 0 if known else row.gpu_ns)


def _own(source: SettlementInput) -> list[SettlementLine]:
    """What tenants used, by day, model and pool."""
    day, place = _namer(source), _currencies(source)
    found: dict[tuple[str, ...], SettlementLine] = {}

    def add(cell: SettlementLine) -> None:
        key = (cell.tenant, cell.day, cell.pool, cell.model, cell.currency)
        found[key] = found[key].plus(cell) if key in found else cell

    for row in source.used:
        if row.kind == REQUESTS:
            pool, tenant, model, quarter = row.keys
            cell = SettlementLine(
                tenant, day(quarter), pool, model, REQUESTS, "", place(pool, row.currency), pot_of(row)
            )
            add(cell._replace(prefill_ns=row.prefill_ns, decode_ns=row.decode_ns, wasted_ns=row.wasted_ns))
    for end in source.ended:
        pool, tenant, model, quarter = end.keys
        cell = SettlementLine(tenant, day(quarter), pool, model, REQUESTS, "", place(pool, end.currency), Pot())
        tokens = {name: getattr(end, name) for name in ("input_tokens", "cached_tokens", "output_tokens")}
        add(cell._replace(requests=end.requests, **tokens))
    return [_known_nothing(cell) for cell in found.values()]


def _known_nothing(cell: SettlementLine) -> SettlementLine:
    """Requests that ended on a day without device time of theirs: that they used nothing on it is known."""
    if cell.pot != Pot():
        return cell  # an adjustment has money without time
    return cell._replace(pot=Pot(energy_uj=0, cost_nano=0 if cell.currency else None))


def _unowned(source: SettlementInput) -> list[SettlementLine]:
    """Idle, overhead and unobserved, by pool."""
    place = _currencies(source)
    found: dict[tuple[str, ...], SettlementLine] = {}
    for row in source.used:
        if row.kind == REQUESTS:
            continue
        pool = row.keys[0]
        cell = SettlementLine("", "", pool, "", row.kind, row.reason, place(pool, row.currency), pot_of(row))
        key = (row.kind, row.reason, pool, cell.currency)
        found[key] = found[key].plus(cell) if key in found else cell
    return [found[key] for key in sorted(found)]


def _claims(
    source: SettlementInput, policy: IdlePolicy, own: Iterable[SettlementLine], left: Iterable[SettlementLine]
) -> dict[tuple[str, str], dict[str, Claim]]:
    place = _currencies(source)
    claims: dict[tuple[str, str], dict[str, Claim]] = defaultdict(dict)
    pools: dict[tuple[str, str], int] = defaultdict(int)
    for cell in own:
        mine = claims[cell.pool, cell.currency]
        claim = mine.get(cell.tenant, Claim())
        mine[cell.tenant] = claim._replace(own=claim.own.plus(cell.pot))
        pools[cell.pool, cell.currency] += cell.pot.gpu_ns
    for cell in left:
        pools[cell.pool, cell.currency] += cell.pot.gpu_ns
    slots: dict[tuple[str, str, str, str], int] = defaultdict(int)
    for row in source.slots:
        if row.kind == REQUESTS:
            pool, tenant, slot = row.keys
            slots[pool, place(pool, row.currency), tenant, slot] += row.gpu_ns
    for (pool, currency, tenant, _), ns in slots.items():
        mine = claims[pool, currency]
        claim = mine.get(tenant, Claim())
        mine[tenant] = claim._replace(peak_ns=max(claim.peak_ns, ns))
    for quota in policy.quotas:
        for (pool, currency), whole_ns in pools.items():
            if quota.pool in {"", pool}:
                mine = claims[pool, currency]
                claim = mine.get(quota.tenant, Claim())
                reserved_ns = claim.reserved_ns + int(quota.share * whole_ns)
                mine[quota.tenant] = claim._replace(reserved_ns=reserved_ns)
    return claims


def _shares(cell: SettlementLine, handed: Handed) -> list[SettlementLine]:
    weights = sum(handed.weights.values())
    return [
        cell._replace(tenant=tenant, pot=pot, basis=handed.basis, weight=handed.weights[tenant], weights=weights)
        for tenant, pot in handed.shares.items()
    ]


def to_cents(cells: Sequence[SettlementLine]) -> list[SettlementLine]:
    """Give each line with a cost its whole cents. Of each currency, they add up to its total, rounded half up.

    Each line is less than a cent off. A tenant's total is the sum of its lines' cents, the fleet's that of all lines.
    """
    rounded = list(cells)
    groups: dict[str, list[int]] = defaultdict(list)
    for place, cell in enumerate(rounded):
        if cell.pot.cost_nano is not None:
            groups[cell.currency].append(place)
    for places in groups.values():
        nanos = [rounded[place].pot.cost_nano or 0 for place in places]
        floors = [nano // NANO_PER_CENT for nano in nanos]
        due = (2 * sum(nanos) + NANO_PER_CENT) // (2 * NANO_PER_CENT)
        rest = [nano - floor * NANO_PER_CENT for nano, floor in zip(nanos, floors, strict=True)]
        extra = _cents_up(due - sum(floors), rest)
        for place, floor, more in zip(places, floors, extra, strict=True):
            rounded[place] = rounded[place]._replace(cost_cents=floor + more)
    return rounded


def _cents_up(missing: int, rests: Sequence[int]) -> list[int]:
    """Who is rounded up: those with the largest fractions of a cent."""
    order = sorted(range(len(rests)), key=lambda place: -rests[place])
    up = set(order[:missing])
    return [int(place in up) for place in range(len(rests))]


def _ties(source: SettlementInput, cells: Sequence[SettlementLine], rests: Sequence[SettlementLine]) -> list[Tie]:
    """What the lines hold against what the store says of the whole, asked without any dimension."""
    place = _currencies(source)
    lines: dict[str, Pot] = defaultdict(Pot)
    totals: dict[str, Pot] = defaultdict(Pot)
    for cell in (*cells, *rests):
        lines[cell.currency] = lines[cell.currency].plus(cell.pot)
    for row in source.totals:
        currency = row.currency or place("", "")
        totals[currency] = totals[currency].plus(pot_of(row))
    ties = []
    whole, given = Pot(), Pot()
    for currency in sorted(lines.keys() | totals.keys()):
        line, total = lines[currency], totals[currency]
        given, whole = given.plus(line), whole.plus(total)
        if currency:
            ties.append(Tie(f"cost, nano-{currency}", line.cost_nano or 0, total.cost_nano or 0))
    ties += [
        Tie("device time, ns", given.gpu_ns, whole.gpu_ns),
        Tie("energy, uJ", given.energy_uj or 0, whole.energy_uj or 0),
        Tie("device time of unknown energy, ns", given.energy_unknown_ns, whole.energy_unknown_ns),
        Tie("device time of unknown cost, ns", given.cost_unknown_ns, whole.cost_unknown_ns),
    ]
    return ties


def carbon_ug(energy_uj: int | None, grams_per_kwh: Decimal | None) -> int | None:
    """Micrograms of CO2 equivalent of an energy, rounded half up; None where the energy or the intensity is unknown."""
    if energy_uj is None or grams_per_kwh is None:
        return None
    numerator, denominator = grams_per_kwh.as_integer_ratio()
    exact = energy_uj * numerator * 1_000_000
    whole = denominator * 3_600_000_000_000
    return (2 * exact + whole) // (2 * whole)


def split_phases_nano(cell: SettlementLine) -> tuple[int, int] | None:
    """A line's cost as (prefill, decode), by device time; None where it is unknown."""
    if cell.pot.cost_nano is None:
        return None
    if not cell.prefill_ns + cell.decode_ns:
        return 0, cell.pot.cost_nano
    prefill, decode = largest_remainder(cell.pot.cost_nano, (cell.prefill_ns, cell.decode_ns))
    return prefill, decode
