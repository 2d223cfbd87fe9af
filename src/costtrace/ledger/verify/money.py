"""Every posting by itself, and its charge: the running sum of money is the floor of the exact running sum.

The exact sum is of quantity x rate, per engine and rate: device-nanoseconds for the device, microjoules for energy.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from costtrace.ledger.verify.lines import (
    ROUNDING_NS,
    Discrepancy,
    EngineLine,
    PostingLine,
    RateLine,
    RollupLine,
    energy_must_be_known,
    shown,
)


class Account(NamedTuple):
    """What one engine was charged at one rate, and what its quantities cost at that rate."""

    engine_id: str
    rate_id: str
    currency: str
    gpu_ns: int
    energy_uj: int
    device_nano: int
    energy_nano: int
    device_due_nano: int
    energy_due_nano: int


class Priced(Protocol):
    """A row with quantities and money: a posting, an adjustment, a roll-up."""

    @property
    def name(self) -> str:
        """How a discrepancy names it."""
        ...

    @property
    def gpu_ns(self) -> int:
        """Device-nanoseconds."""
        ...

    @property
    def energy_uj(self) -> int | None:
        """Energy in microjoules; None: unknown."""
        ...

    @property
    def device_nano(self) -> int | None:
        """Nano-units for the time; None: unknown."""
        ...

    @property
    def energy_nano(self) -> int | None:
        """Nano-units for the energy; None: unknown."""
        ...


class RunningSum:
    """Follows one running sum of money: after every posting it is the floor of the exact running total.

    The remainder that the agent carries, in 1/denominator of a nano-unit, is known to be in [low, high). At first it is
    exactly 0. A posting that does not fit is reported once; after it the remainder is unknown.
    """

    __slots__ = ("denominator", "high", "low", "nano", "numerator", "quantity")

    def __init__(self, numerator: int, denominator: int) -> None:
        self.numerator = numerator
        self.denominator = denominator
        self.low, self.high = 0, 1
        self.quantity = self.nano = 0

    def add(self, quantity: int, nano: int) -> str:
        """Add one posting. Returns '' if *nano* is what *quantity* costs here, else what it should have been."""
        self.quantity += quantity
        self.nano += nano
        denominator = self.denominator
        exact = quantity * self.numerator
        shift = exact - nano * denominator
        low, high = self.low + shift, self.high + shift
        if high > 0 and low < denominator:
            self.low = low if low > 0 else 0  # noqa: FURB136 - `max` takes three times as long, a million times
            self.high = high if high < denominator else denominator  # noqa: FURB136 - for the same reason
            return ""
        least, most = (self.low + exact) // denominator, (self.high - 1 + exact) // denominator
        self.low, self.high = 0, denominator
        return str(least) if least == most else f"{least} to {most}"

    def skip(self, quantity: int) -> None:
        """Add a posting whose money is missing: the remainder is unknown after it."""
        self.quantity += quantity
        self.low, self.high = 0, self.denominator

    def add_rollup(self, quantity: int, nano: int, postings: int) -> bool:
        """Add a sum of *postings* that were compacted; False if they cannot have cost *nano*, rounding included.

        The remainder is unknown after it.
        """
        self.quantity += quantity
        self.nano += nano
        self.low, self.high = 0, self.denominator
        return abs(quantity * self.numerator - nano * self.denominator) <= postings * self.denominator

    @property
    def due(self) -> int:
        """What the whole quantity costs, nano-units."""
        return self.quantity * self.numerator // self.denominator


class RunningAccount:
    """What one engine is charged at one rate, posting by posting."""

    __slots__ = ("compacted_to", "device", "energy", "engine_id", "fixed", "fixed_nano", "rate")

    def __init__(self, engine_id: str, rate: RateLine) -> None:
        self.engine_id = engine_id
        self.rate = rate
        self.compacted_to = 0
        """Number of the last posting that may be in a roll-up. Before it, the remainder after a posting is unknown."""
        self.device = RunningSum(*rate.device)
        self.energy = RunningSum(*(rate.energy or (0, 1)))
        self.fixed, self.fixed_nano = "", 0 if rate.includes_energy else None
        """Why all its postings have the same money for energy, where they have; and that money."""
        if rate.includes_energy:
            self.fixed = "the device's price includes power"
        elif rate.energy is None:
            self.fixed = "no tariff applies"

    def charge(self, posting: Priced) -> Sequence[Discrepancy]:
        """Add a posting to both running sums. Returns what is wrong with its money."""
        quantity, nano = posting.gpu_ns, posting.device_nano
        faults: list[Discrepancy] = []
        if nano is None:
            self.device.skip(quantity)
            faults.append(_money(posting, "device_nano", "an amount", "a rate applies, so its cost is known"))
        elif due := self.device.add(quantity, nano):
            faults.append(_money(posting, "device_nano", due, "the running sum departs here from gpu_ns x rate"))
        energy, nano = posting.energy_uj, posting.energy_nano
        if self.fixed:
            if nano != self.fixed_nano:
                faults.append(_money(posting, "energy_nano", self.fixed_nano, self.fixed))
        elif energy is None:
            if nano is not None:
                self.energy.skip(0)
                faults.append(_money(posting, "energy_nano", None, "its energy was not measured: its cost is unknown"))
        elif nano is None:
            self.energy.skip(energy)
            faults.append(_money(posting, "energy_nano", "an amount", "its energy is known and a tariff applies"))
        elif due := self.energy.add(energy, nano):
            faults.append(_money(posting, "energy_nano", due, "the running sum departs here from energy_uj x tariff"))
        return faults

    def add_rollup(self, rollup: RollupLine) -> Sequence[Discrepancy]:
        """Add an hour of postings that were compacted. Returns what is wrong with their money."""
        self.compacted_to = max(self.compacted_to, rollup.last_posting)
        faults: list[Discrepancy] = []
        for field, running, quantity in (
            ("device", self.device, rollup.gpu_ns),
            ("energy", self.energy, rollup.energy_uj),
        ):
            nano: int | None = getattr(rollup, f"{field}_nano")
            if field == "energy" and self.fixed:
                if nano != self.fixed_nano:
                    faults.append(_money(rollup, "energy_nano", self.fixed_nano, self.fixed))
            elif (nano is None) != (quantity is None):
                faults.append(_money(rollup, f"{field}_nano", quantity and "an amount", "known where its quantity is"))
            elif nano is not None and not running.add_rollup(quantity or 0, nano, rollup.postings):
                due = f"within {rollup.postings} of {(quantity or 0) * running.numerator // running.denominator}"
                faults.append(_money(rollup, f"{field}_nano", due, "its postings cannot have cost this"))
        return faults

    def account(self) -> Account:
        """Its totals."""
        device, energy = self.device, self.energy
        return Account(
            self.engine_id,
            self.rate.rate_id,
            self.rate.currency,
            device.quantity,
            energy.quantity,
            device.nano,
            energy.nano,
            device.due,
            energy.due,
        )


class PostingCheck:
    """Checks postings one after the other, in the order in which they were booked."""

    def __init__(self, engines: Mapping[str, EngineLine], rates: Mapping[str, RateLine]) -> None:
        self._engines = engines
        self._rates = rates
        self._accounts: dict[tuple[str, str], RunningAccount] = {}
        self.cost_unknown_ns: dict[str, int] = {}
        """Device-ns without a price, by engine."""

    def check(self, postings: Iterable[PostingLine]) -> Iterator[Discrepancy]:
        """Check *postings*, sorted by posting_id."""
        for posting in postings:
            if not (_request_holds(posting) if posting.kind == "request" else _other_holds(posting)):
                yield from _explain(posting)
            if posting.engine_id not in self._engines:
                yield _unknown(posting, "engine_id", posting.engine_id, "no such engine: its time has no meter")
            yield from self._check_money(posting)

    def check_rollups(self, rollups: Iterable[RollupLine]) -> Iterator[Discrepancy]:
        """Check the money of *rollups*. Call it before `check`: roll-ups hold the older postings."""
        for rollup in rollups:
            if not rollup.rate_id:
                self.cost_unknown_ns[rollup.engine_id] = self.cost_unknown_ns.get(rollup.engine_id, 0) + rollup.gpu_ns
            elif (rate := self._rates.get(rollup.rate_id)) is None:
                yield _unknown(rollup, "rate_id", rollup.rate_id, "no such rate: its cost cannot be recomputed")
            else:
                key = (rollup.engine_id, rollup.rate_id)
                yield from self._accounts.setdefault(key, RunningAccount(rollup.engine_id, rate)).add_rollup(rollup)

    def accounts(self) -> list[Account]:
        """Money by engine and rate, after `check`."""
        return [self._accounts[key].account() for key in sorted(self._accounts)]

    def _check_money(self, posting: PostingLine) -> Sequence[Discrepancy]:
        account = self._accounts.get((posting.engine_id, posting.rate_id))
        if account is not None:
            faults = account.charge(posting)
            if posting.posting_id <= account.compacted_to:
                account.device.skip(0)
                account.energy.skip(0)
            return faults
        if not posting.rate_id:
            self.cost_unknown_ns[posting.engine_id] = self.cost_unknown_ns.get(posting.engine_id, 0) + posting.gpu_ns
            why = "money without a rate: nobody can say why it costs this"
            fields = [field for field in ("device_nano", "energy_nano") if getattr(posting, field) is not None]
            return [_money(posting, field, None, why) for field in fields]
        rate = self._rates.get(posting.rate_id)
        if rate is None:
            return [_unknown(posting, "rate_id", posting.rate_id, "no such rate: its cost cannot be recomputed")]
        account = self._accounts[posting.engine_id, posting.rate_id] = RunningAccount(posting.engine_id, rate)
        return account.charge(posting)


def _request_holds(posting: PostingLine) -> bool:
    """Whether a request's posting is right by itself. Written for speed; `_explain` names the fault."""
    energy, prefill, decode = posting.energy_uj, posting.prefill_uj, posting.decode_uj
    if energy is None:
        energy_holds = prefill is None and decode is None and posting.wasted_uj is None
    else:
        energy_holds = (
            prefill is not None and decode is not None and prefill >= 0 and decode >= 0 and energy == prefill + decode
        )
    return (
        energy_holds
        and _unknown_energy_holds(posting)
        and posting.record_id != ""
        and posting.method != ""
        and posting.prefill_ns >= 0
        and posting.decode_ns >= 0
        and posting.gpu_ns == posting.prefill_ns + posting.decode_ns
    )


def _other_holds(posting: PostingLine) -> bool:
    return (
        posting.record_id == ""
        and posting.gpu_ns >= 0
        and posting.prefill_ns == posting.decode_ns == posting.wasted_ns == 0
        and (posting.energy_uj is None or posting.energy_uj >= 0)
        and not (posting.prefill_uj or posting.decode_uj or posting.wasted_uj)
        and _unknown_energy_holds(posting)
    )


def _unknown_energy_holds(posting: PostingLine) -> bool:
    """Energy is NULL exactly where all time is in the unknown part, or nearly; an energy above 0 is always known."""
    known = energy_must_be_known(posting.gpu_ns, posting.energy_uj, posting.energy_unknown_ns)
    return (posting.energy_uj is not None) == known and 0 <= posting.energy_unknown_ns <= posting.gpu_ns + ROUNDING_NS


def _explain(posting: PostingLine) -> Iterator[Discrepancy]:
    """Name what is wrong with a posting."""
    request = posting.kind == "request"
    if request != (posting.record_id != ""):
        due = "a record" if request else "''"
        yield _wrong(posting, "record_id", due, posting.record_id or "''", "only requests have a usage record")
    if request and posting.method == "":
        yield _wrong(posting, "method", "a method of attribution", "''", "nobody can say how its step was shared")
    if not _unknown_energy_holds(posting):
        due = f"0 to {posting.gpu_ns}, all of it where energy is NULL"
        actual = f"{posting.energy_unknown_ns}, and energy_uj is {shown(posting.energy_uj)}"
        yield _wrong(posting, "gap_ns", due, actual, "unknown energy is a gap, and is not 0")
    for field, unit in (("gpu_ns", "ns"), ("energy_uj", "uj")):
        yield from _explain_phases(posting, field, unit, request=request)


def _explain_phases(posting: PostingLine, field: str, unit: str, *, request: bool) -> Iterator[Discrepancy]:
    # `wasted` may exceed the whole: an abort makes time of earlier windows wasted, all of it on the newest posting.
    whole: int | None = getattr(posting, field)
    phases: list[int | None] = [getattr(posting, f"{phase}_{unit}") for phase in ("prefill", "decode")]
    wasted: int | None = getattr(posting, f"wasted_{unit}")
    known = [value for value in (whole, *phases) if value is not None]
    if any(value < 0 for value in known):
        yield _wrong(posting, field, "0 or more", shown(min(known)), "nothing is used up backwards")
    if not request:
        if any(phases) or wasted:
            yield _wrong(posting, field, "no phases and no waste", str([*phases, wasted]), "only requests have them")
    elif 0 < len(known) < 3 or (wasted is not None and not known):
        actual = str([whole, *phases, wasted])
        yield _wrong(posting, field, "all known or all unknown", actual, "knowns and unknowns are mixed")
    elif known and known[0] != known[1] + known[2]:
        due = f"{known[1] + known[2]} (prefill + decode)"
        yield _wrong(posting, field, due, str(known[0]), "the phases are not the whole")


def _wrong(posting: PostingLine, field: str, expected: str, found: str, meaning: str) -> Discrepancy:
    return Discrepancy("posting", posting.name, field, expected, found, meaning)


def _unknown(posting: Priced, field: str, found: str, meaning: str) -> Discrepancy:
    return Discrepancy("posting", posting.name, field, "one that the ledger knows", found, meaning)


def _money(posting: Priced, field: str, expected: int | str | None, meaning: str) -> Discrepancy:
    return Discrepancy("money = rate", posting.name, field, shown(expected), shown(getattr(posting, field)), meaning)
