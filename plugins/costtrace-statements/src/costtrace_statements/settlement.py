"""A period of all devices under one idle policy. Pure.

What each tenant pays, what nobody pays, and the proof that together they are the ledger's total. Every posting of the
period is on exactly one line: the usage of a tenant's requests, a tenant's share of idle or overhead, or a rest (idle
and overhead that nobody takes, unobserved). `Settlement.ties` compares the lines with a total that was asked of the
store by itself.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import tzinfo
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.units import NANO_PER_UNIT, minor_digits
from costtrace.core.wall_time import moment
from costtrace.ledger.answers import Ended, Period, Used
from costtrace.reports.usage.summary import REQUESTS, known_sum
from costtrace_statements.idle_policies import Claim, Handed, Pot, hand_out

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
    """What a store has of a period; `query.load` reads it."""

    period: Period
    zone: tzinfo
    used: Sequence[Used]
    """By device, tenant, model, day."""
    ended: Sequence[Ended]
    """By device, tenant, model, day."""
    slots: Sequence[Used]
    """By device, tenant, hour (quarter hours); only the policy `peak` needs them."""
    totals: Sequence[Used]
    """Without dimensions, for the tie-out."""
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
    simulated: int = 0
    """How many of its postings are of simulated devices or sensors."""
    basis: str = ""
    """On a share of idle or overhead: the quantity that its weight is in."""
    weight: int = 0
    weights: int = 0
    """Its weight, of all weights."""
    cost_cents: int | None = None
    """To book, in the currency's smallest unit (cents of USD, yen of JPY): all lines of a currency add up to its total.

    Set by `to_cents`.
    """

    @property
    def rounded(self) -> Decimal | None:
        """What is to be booked, in currency units."""
        return None if self.cost_cents is None else Decimal(self.cost_cents).scaleb(-minor_digits(self.currency))

    def plus(self, other: "SettlementLine") -> "SettlementLine":
        """The sum of both, with this line's names."""
        added = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        cents = known_sum(self.cost_cents, other.cost_cents)
        return self._replace(pot=self.pot.plus(other.pot), cost_cents=cents, **added)


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
    lines: list[SettlementLine]
    """Tenants in order, each by day; then the rests."""
    facts: Mapping[str, Facts]
    ties: list[Tie]
    closing: str = ""
    """Whether the figures can still change, where that is known: the period is closed, or not over."""

    def tenants(self) -> list[str]:
        """All tenants with a line."""
        return sorted({line.tenant for line in self.lines if line.kind == REQUESTS or line.tenant})

    def of(self, tenant: str) -> list[SettlementLine]:
        """Lines of one tenant."""
        return [line for line in self.lines if line.tenant == tenant and (line.kind == REQUESTS or tenant)]

    def by_tenant(self) -> dict[str, list[SettlementLine]]:
        """Lines of each tenant, in their order."""
        by_tenant: dict[str, list[SettlementLine]] = {tenant: [] for tenant in self.tenants()}
        for line in self.lines:
            if line.kind == REQUESTS or line.tenant:
                by_tenant[line.tenant].append(line)
        return by_tenant

    def rests(self) -> list[SettlementLine]:
        """Lines that no tenant pays."""
        return [line for line in self.lines if not line.tenant and line.kind != REQUESTS]


def settle(inputs: SettlementInput, policy: IdlePolicy, extra: Sequence[SettlementLine] = ()) -> Settlement:
    """Hand out what the policy hands out, round, tie out. *extra* lines (a bill's difference) are rests."""
    usage = _usage(inputs)
    unowned = _unowned(inputs)
    claims = _claims(inputs, policy, usage, unowned)
    lines = sorted(usage, key=lambda line: (line.tenant, line.day, line.model, line.pool, line.currency))
    rests: list[SettlementLine] = []
    for line in unowned:
        if line.kind not in policy.shares or policy.name == "separate":
            rests.append(line)
            continue
        handed = hand_out(policy.name, line.kind, line.pot, claims.get((line.pool, line.currency), {}))
        lines += _shares(line, handed)
        if any(handed.kept):
            rests.append(line._replace(pot=handed.kept))
    lines.sort(key=lambda line: (line.tenant, not line.day, line.day))
    whole = to_cents([*lines, *rests, *extra])
    return Settlement(inputs.period, inputs.zone, policy, whole, inputs.facts, _ties(inputs, lines, rests))


def _day_namer(inputs: SettlementInput) -> Callable[[str], str]:
    known: dict[str, str] = {}

    def name(quarter: str) -> str:
        if quarter not in known:
            known[quarter] = moment(int(quarter), inputs.zone).strftime("%Y-%m-%d")
        return known[quarter]

    return name


def _currencies(inputs: SettlementInput) -> Callable[[str, str], str]:
    """Where to put what has no currency: with the only currency of its pool, where there is just one."""
    by_pool: dict[str, set[str]] = defaultdict(set)
    for row in inputs.used:
        by_pool[row.keys[0]].add(row.currency)
    everywhere = set().union(*by_pool.values()) - {""}

    def place(pool: str, currency: str) -> str:
        if currency:
            return currency
        currencies = (by_pool.get(pool, set()) - {""}) or everywhere
        return next(iter(currencies)) if len(currencies) == 1 else ""

    return place


def pot_of(row: Used) -> Pot:
    """The amounts of a sum of postings.

    The price of the device is owed whether its energy was measured or not: what is known of a cost is in it, and the
    time for which that is not all is beside it.
    """
    known = row.device_nano is not None and row.energy_nano is not None
    cost = known_sum(row.device_nano, row.energy_nano)
    return Pot(row.gpu_ns, row.energy_uj, row.energy_unknown_ns, cost, 0 if known else row.gpu_ns)


def _usage(inputs: SettlementInput) -> list[SettlementLine]:
    """What tenants used, by day, model and pool."""
    day, place = _day_namer(inputs), _currencies(inputs)
    lines: dict[tuple[str, ...], SettlementLine] = {}

    def add(line: SettlementLine) -> None:
        key = (line.tenant, line.day, line.pool, line.model, line.currency)
        lines[key] = lines[key].plus(line) if key in lines else line

    for row in inputs.used:
        if row.kind == REQUESTS:
            pool, tenant, model, quarter = row.keys
            line = SettlementLine(
                tenant, day(quarter), pool, model, REQUESTS, "", place(pool, row.currency), pot_of(row)
            )
            sums = {name: getattr(row, name) for name in ("prefill_ns", "decode_ns", "wasted_ns", "simulated")}
            add(line._replace(**sums))
    for end in inputs.ended:
        pool, tenant, model, quarter = end.keys
        line = SettlementLine(tenant, day(quarter), pool, model, REQUESTS, "", place(pool, end.currency), Pot())
        tokens = {name: getattr(end, name) for name in ("input_tokens", "cached_tokens", "output_tokens")}
        add(line._replace(requests=end.requests, **tokens))
    return [_known_nothing(line) for line in lines.values()]


def _known_nothing(line: SettlementLine) -> SettlementLine:
    """The line with amounts of 0, where requests ended on a day on which they had no device time."""
    if line.pot != Pot():
        return line  # an adjustment has money without time
    return line._replace(pot=Pot(energy_uj=0, cost_nano=0 if line.currency else None))


def _unowned(inputs: SettlementInput) -> list[SettlementLine]:
    """Idle, overhead and unobserved, by pool."""
    place = _currencies(inputs)
    lines: dict[tuple[str, ...], SettlementLine] = {}
    for row in inputs.used:
        if row.kind == REQUESTS:
            continue
        pool = row.keys[0]
        line = SettlementLine("", "", pool, "", row.kind, row.reason, place(pool, row.currency), pot_of(row))
        line = line._replace(simulated=row.simulated)
        key = (row.kind, row.reason, pool, line.currency)
        lines[key] = lines[key].plus(line) if key in lines else line
    return [lines[key] for key in sorted(lines)]


def _claims(
    inputs: SettlementInput, policy: IdlePolicy, usage: Iterable[SettlementLine], unowned: Iterable[SettlementLine]
) -> dict[tuple[str, str], dict[str, Claim]]:
    place = _currencies(inputs)
    claims: dict[tuple[str, str], dict[str, Claim]] = defaultdict(lambda: defaultdict(Claim))
    pools: dict[tuple[str, str], int] = defaultdict(int)
    for line in usage:
        claim = claims[line.pool, line.currency][line.tenant]
        claims[line.pool, line.currency][line.tenant] = claim._replace(own=claim.own.plus(line.pot))
    for line in (*usage, *unowned):
        pools[line.pool, line.currency] += line.pot.gpu_ns
    slots: dict[tuple[str, str, str, str], int] = defaultdict(int)
    for row in inputs.slots:
        if row.kind == REQUESTS:
            pool, tenant, slot = row.keys
            slots[pool, place(pool, row.currency), tenant, slot] += row.gpu_ns
    for (pool, currency, tenant, _), ns in slots.items():
        claim = claims[pool, currency][tenant]
        claims[pool, currency][tenant] = claim._replace(peak_ns=max(claim.peak_ns, ns))
    for quota in policy.quotas:
        for (pool, currency), whole_ns in pools.items():
            if quota.pool in {"", pool}:
                claim = claims[pool, currency][quota.tenant]
                reserved_ns = claim.reserved_ns + int(quota.share * whole_ns)
                claims[pool, currency][quota.tenant] = claim._replace(reserved_ns=reserved_ns)
    return claims


def _shares(line: SettlementLine, handed: Handed) -> list[SettlementLine]:
    weights = sum(handed.weights.values())
    return [
        line._replace(tenant=tenant, pot=pot, basis=handed.basis, weight=handed.weights[tenant], weights=weights)
        for tenant, pot in handed.shares.items()
    ]


def to_cents(lines: Sequence[SettlementLine]) -> list[SettlementLine]:
    """Give each line with a cost its whole cents, or whatever is the smallest unit of its currency.

    Of each currency, they add up to its total, rounded half up; each line is less than one unit off. A tenant's total
    is the sum of its lines' units, the total that of all lines.
    """
    rounded = list(lines)
    groups: dict[str, list[int]] = defaultdict(list)
    for place, line in enumerate(rounded):
        if line.pot.cost_nano is not None:
            groups[line.currency].append(place)
    for currency, places in groups.items():
        unit_nano = NANO_PER_UNIT // 10 ** minor_digits(currency)
        nanos = [rounded[place].pot.cost_nano or 0 for place in places]
        floors = [nano // unit_nano for nano in nanos]
        due = (2 * sum(nanos) + unit_nano) // (2 * unit_nano)
        rest = [nano - floor * unit_nano for nano, floor in zip(nanos, floors, strict=True)]
        ups = _cents_up(due - sum(floors), rest)
        for place, floor, up in zip(places, floors, ups, strict=True):
            rounded[place] = rounded[place]._replace(cost_cents=floor + up)
    return rounded


def _cents_up(missing: int, rests: Sequence[int]) -> list[int]:
    """1 for the lines that are rounded up (those with the largest fractions of a unit), else 0."""
    order = sorted(range(len(rests)), key=lambda place: -rests[place])
    up = set(order[:missing])
    return [int(place in up) for place in range(len(rests))]


def _ties(inputs: SettlementInput, lines: Sequence[SettlementLine], rests: Sequence[SettlementLine]) -> list[Tie]:
    """The sums of all lines against the totals of the store."""
    place = _currencies(inputs)
    pots: dict[str, Pot] = defaultdict(Pot)
    totals: dict[str, Pot] = defaultdict(Pot)
    for line in (*lines, *rests):
        pots[line.currency] = pots[line.currency].plus(line.pot)
    for row in inputs.totals:
        currency = row.currency or place("", "")
        totals[currency] = totals[currency].plus(pot_of(row))
    ties = []
    whole, booked = Pot(), Pot()
    for currency in sorted(pots.keys() | totals.keys()):
        pot, total = pots[currency], totals[currency]
        booked, whole = booked.plus(pot), whole.plus(total)
        if currency:
            ties.append(Tie(f"cost, nano-{currency}", pot.cost_nano or 0, total.cost_nano or 0))
    ties += [
        Tie("device time, ns", booked.gpu_ns, whole.gpu_ns),
        Tie("energy, uJ", booked.energy_uj or 0, whole.energy_uj or 0),
        Tie("device time of unknown energy, ns", booked.energy_unknown_ns, whole.energy_unknown_ns),
        Tie("device time of unknown cost, ns", booked.cost_unknown_ns, whole.cost_unknown_ns),
    ]
    return ties
