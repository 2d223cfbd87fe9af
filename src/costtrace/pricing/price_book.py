"""The price book: dated prices of devices and electricity, and which of them applies. Pure; `price_book_file` reads it.

A price applies to whole windows: the one that holds when a window begins. An entry without an end holds until the next
one for the same devices begins, so that a price change is one more entry and history stays as it was.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple, TypeVar

from costtrace.core.errors import PriceBookError
from costtrace.core.units import NANO_PER_UNIT, NS_PER_HOUR, NS_PER_S, UJ_PER_KWH
from costtrace.pricing.device_terms import Owned, Reserved
from costtrace.pricing.list_prices import ListPrice
from costtrace.pricing.name_pattern import matches, patterns_meet, precedence
from costtrace.pricing.rating import Rate
from costtrace.pricing.time_of_use import TimeOfUse


class DevicePrice(NamedTuple):
    """One dated price of devices, as the price book has it. Times are wall ns since the epoch."""

    match: str
    """Device name, or a pattern with ``*`` and ``?``; without regard to case."""
    per_gpu_hour: Decimal
    includes_energy: bool
    """True: the price covers power too, so energy is not billed on top."""
    from_ns: int
    until_ns: int | None = None
    """None: until the next price of the same devices begins."""
    kind: str = "gpu"
    """``gpu``, ``mig`` or ``cpu``: a MIG instance is not billed as a whole GPU, nor a CPU that stands in for one."""
    tier: str = ""
    source: str = ""
    pool: str = ""
    """Applies only on nodes of this pool; '': on all. `region` likewise."""
    region: str = ""
    currency: str = ""
    """'': the book's."""
    terms: Owned | Reserved | None = None
    """What the price per hour was computed from; None: it was given."""

    @property
    def name(self) -> str:
        """What rates and messages call this entry."""
        scope = ", ".join(word for word in (self.tier, self.pool, self.region) if word)
        return f"{self.match}{f' ({scope})' if scope else ''} from {show_time(self.from_ns)}"


class ElectricityPrice(NamedTuple):
    """One dated price of electricity."""

    per_kwh: Decimal
    from_ns: int
    until_ns: int | None = None
    pue: Decimal = Decimal(1)
    """Power usage effectiveness: energy that the facility draws for each joule of a device."""
    source: str = ""
    when: TimeOfUse | None = None
    """None: at all times without a time-of-use price."""
    currency: str = ""

    @property
    def name(self) -> str:
        """What messages call this entry."""
        return f"electricity{f' {self.when.name}' if self.when else ''} from {show_time(self.from_ns)}"


class ExchangeRate(NamedTuple):
    """What one unit of another currency is worth in the book's, from a date on."""

    currency: str
    rate: Decimal
    from_ns: int
    until_ns: int | None = None
    source: str = ""

    @property
    def name(self) -> str:
        """What messages call this entry."""
        return f"the exchange rate of {self.currency} from {show_time(self.from_ns)}"


class PriceBook:
    """A checked set of dated prices in one currency.

    The entry that applies to a device is the one of its kind for the node's pool, else its region, else any; of those
    the one with its exact name, else the pattern with the most literal characters.
    Raises: PriceBookError, naming the entries that contradict each other.
    """

    def __init__(
        self,
        *,
        version: str,
        currency: str,
        devices: Sequence[DevicePrice],
        electricity: Sequence[ElectricityPrice] = (),
        label: str = "",
        tier: str = "",
        models: Sequence[ListPrice] = (),
        exchange: Sequence[ExchangeRate] = (),
        pool: str = "",
        region: str = "",
    ) -> None:
        self.version = version
        self.currency = currency
        self.label = label
        self.tier = tier
        self.devices = _close_periods(devices, _same_devices)
        self.electricity = _close_periods(electricity, lambda entry: entry.when and entry.when.name)
        self.models = _close_periods(models, lambda entry: entry.match.casefold())
        self.exchange = _close_periods(exchange, lambda entry: entry.currency)
        self.applicable = [
            entry
            for entry in self.devices
            if entry.tier in {"", tier} and entry.pool in {"", pool} and entry.region in {"", region}
        ]
        self._check_currencies()
        self._check_tier()
        self._check_ambiguity()
        self._check_times_of_use()

    @property
    def name(self) -> str:
        """What a bill calls this book: its version, and its label where it is not a real price."""
        return f"{self.version} [{self.label}]" if self.label else self.version

    def device_price(self, device_name: str, device_kind: str, wall_ns: int) -> DevicePrice | None:
        """Find the entry that applies to a device at a time; None where there is none."""
        fits = [
            entry
            for entry in self.applicable
            if entry.kind == device_kind and holds(entry, wall_ns) and matches(entry.match, device_name)
        ]
        return max(fits, key=_rank, default=None)

    def electricity_price(self, wall_ns: int) -> ElectricityPrice | None:
        """Find the price of electricity at a time: by time of use, else at all times; None where there is none."""
        fits = [entry for entry in self.electricity if holds(entry, wall_ns)]
        for entry in fits:
            if entry.when is not None and entry.when.holds(wall_ns):
                return entry
        return next((entry for entry in fits if entry.when is None), None)

    def rate_for(self, device_name: str, device_kind: str, wall_ns: int) -> Rate | None:
        """Return the rate of a window that begins at *wall_ns*; None: the device has no price, its cost is unknown."""
        entry = self.device_price(device_name, device_kind, wall_ns)
        if entry is None:
            return None
        worth = self.worth(entry.currency, wall_ns)
        if worth is None:
            return None
        device = Fraction(entry.per_gpu_hour) * worth * NANO_PER_UNIT / NS_PER_HOUR
        tariff = None if entry.includes_energy else self.electricity_price(wall_ns)
        energy = (0, 0)
        if tariff is not None and (worth := self.worth(tariff.currency, wall_ns)) is not None:
            exact = Fraction(tariff.per_kwh) * Fraction(tariff.pue) * worth * NANO_PER_UNIT / UJ_PER_KWH
            energy = exact.as_integer_ratio()
        rest = (self.name, self.currency, entry.name, *device.as_integer_ratio(), *energy, entry.includes_energy)
        return Rate(hashlib.sha256(repr(rest).encode()).hexdigest()[:16], *rest)

    def worth(self, currency: str, wall_ns: int) -> Fraction | None:
        """What one unit of *currency* is worth in the book's at a time; None: no exchange rate holds."""
        if currency in {"", self.currency}:
            return Fraction(1)
        fits = (entry for entry in self.exchange if entry.currency == currency and holds(entry, wall_ns))
        entry = next(fits, None)
        return None if entry is None else Fraction(entry.rate)

    def list_price(self, model: str, wall_ns: int) -> ListPrice | None:
        """Find the list price of a model at a time; None where it has none."""
        fits = [entry for entry in self.models if holds(entry, wall_ns) and matches(entry.match, model)]
        return max(fits, key=lambda entry: precedence(entry.match), default=None)

    def missing(self, device_name: str, device_kind: str, wall_ns: int) -> str:
        """A message: what this book lacks for the full cost of a device at a time, and the remedy; '' if nothing."""
        entry = self.device_price(device_name, device_kind, wall_ns)
        when = show_time(wall_ns)[:10]  # the day: one message a day, not one a window
        if entry is None:
            return (
                f"price book {self.name} has no price for the {device_kind} {device_name!r} on {when}: its time and "
                f"energy are accounted for, its cost is unknown. Add an entry under `devices` (match: {device_name!r}, "
                f"kind: {device_kind})."
            )
        tariff = None if entry.includes_energy else self.electricity_price(wall_ns)
        for currency in (entry.currency, tariff.currency if tariff else ""):
            if self.worth(currency, wall_ns) is None:
                return (
                    f"price book {self.name} has no exchange rate of {currency} on {when}: the cost of {entry.name} is "
                    f"unknown. Add an entry under `exchange` (currency: {currency}, rate, from)."
                )
        if not entry.includes_energy and tariff is None:
            return (
                f"price book {self.name} has no electricity price on {when}, and the price of {entry.name} does not "
                "include energy: its cost is unknown. Add an entry under `electricity` (per_kwh, from), or set "
                "includes_energy: true if the price covers power."
            )
        return ""

    def _check_tier(self) -> None:
        tiers = sorted({entry.tier for entry in self.devices if entry.tier})
        if self.tier and self.tier not in tiers:
            raise PriceBookError(f"tier: {self.tier!r} is no entry's tier. There are: {', '.join(tiers) or 'none'}.")
        if tiers and not self.tier:
            raise PriceBookError(f"entries have tiers: say which one applies, as in `tier: {tiers[0]}` at the top.")

    def _check_currencies(self) -> None:
        known = {"", self.currency, *(entry.currency for entry in self.exchange)}
        entries: list[DevicePrice | ElectricityPrice] = [*self.devices, *self.electricity]
        for entry in entries:
            if entry.currency not in known:
                raise PriceBookError(
                    f"{entry.name}: currency: there is no exchange rate of {entry.currency}. Add an entry under "
                    f"`exchange` (currency: {entry.currency}, rate, from)."
                )

    def _check_ambiguity(self) -> None:
        """Refuse two entries of the same rank that could both apply to one device."""
        for index, one in enumerate(self.applicable):
            for other in self.applicable[:index]:
                if (
                    one.kind == other.kind
                    and _rank(one) == _rank(other)
                    and _overlap(one, other)
                    and patterns_meet(one.match.casefold(), other.match.casefold())
                ):
                    raise PriceBookError(
                        f"devices: {other.name!r} and {one.name!r} can apply to the same device at the same time. Make "
                        "one match more exact, or end it with `until`."
                    )

    def _check_times_of_use(self) -> None:
        """Refuse two prices of electricity that both name the same moment."""
        for index, one in enumerate(self.electricity):
            for other in self.electricity[:index]:
                if one.when and other.when and _overlap(one, other) and one.when.meets(other.when):
                    raise PriceBookError(
                        f"electricity: {other.name!r} and {one.name!r} can hold at the same time. Let their `hours` or "
                        "`days` not meet, and give all of them the same `zone`."
                    )


def holds(entry: DevicePrice | ElectricityPrice | ListPrice | ExchangeRate, wall_ns: int) -> bool:
    """Whether an entry holds at a time."""
    return entry.from_ns <= wall_ns and (entry.until_ns is None or wall_ns < entry.until_ns)


def show_time(wall_ns: int) -> str:
    """A time as a price book has it: ``2026-11-01``, or with the time of day where it is not midnight UTC."""
    moment = datetime.fromtimestamp(wall_ns // NS_PER_S, UTC)
    return f"{moment:%Y-%m-%d}" if wall_ns % (24 * NS_PER_HOUR) == 0 else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


_Dated = TypeVar("_Dated", DevicePrice, ElectricityPrice, ListPrice, ExchangeRate)


def _same_devices(entry: DevicePrice) -> Hashable:
    return entry.kind, entry.match.casefold(), entry.tier, entry.pool, entry.region


def _rank(entry: DevicePrice) -> tuple[bool, bool, bool, int]:
    """A key that is greater for the entry that goes first: the pool's, the region's, then by name."""
    return entry.pool != "", entry.region != "", *precedence(entry.match)


def _close_periods(entries: Iterable[_Dated], same: Callable[[_Dated], Hashable]) -> tuple[_Dated, ...]:
    """End every open entry where the next one for the same thing begins. Raises: PriceBookError (they overlap)."""
    groups: dict[Hashable, list[_Dated]] = defaultdict(list)
    for entry in entries:
        if entry.until_ns is not None and entry.until_ns <= entry.from_ns:
            raise PriceBookError(f"{entry.name}: `until` {show_time(entry.until_ns)} is not after `from`.")
        groups[same(entry)].append(entry)
    closed: list[_Dated] = []
    for group in groups.values():
        group.sort(key=lambda entry: entry.from_ns)
        for number, entry in enumerate(group, 1):
            following = group[number] if number < len(group) else None
            if following is not None and following.from_ns < (entry.until_ns or entry.from_ns + 1):
                raise PriceBookError(
                    f"{entry.name} and {following.name} overlap. Let the first end (`until`) where the second begins, "
                    "or leave `until` out: then it ends there by itself."
                )
            until_ns = entry.until_ns if following is None or entry.until_ns is not None else following.from_ns
            closed.append(entry._replace(until_ns=until_ns))
    return tuple(closed)


def _overlap(one: DevicePrice | ElectricityPrice, other: DevicePrice | ElectricityPrice) -> bool:
    return holds(one, other.from_ns) or holds(other, one.from_ns)
