"""Reading a price book from YAML: exact numbers, and errors that name file, entry, field, value and remedy.

version: "2026-11"            # every charge names it
currency: USD
label: sample                 # optional: sample, demo or list; shown wherever the book's money is shown
tier: neocloud                # optional: which tier applies, where entries have tiers
devices:
  - match: "NVIDIA H100*"     # name as NVML has it; * and ? are wild
    per_gpu_hour: 2.10
    includes_energy: false    # true: the price covers power
    from: 2026-11-01          # a date is its midnight in UTC
    until: 2027-11-01         # optional; otherwise until the next entry with this match begins
    kind: gpu                 # optional: gpu, mig or cpu
    tier: neocloud            # optional
    source: "contract 4711"   # optional
    pool: a3-highgpu          # optional: only on nodes of this pool (setting `node_pool`); likewise region
    region: eu-west-4
    currency: EUR             # optional: where it is not the book's; `exchange` says what it is worth
  - match: "NVIDIA H200*"
    owned: {purchase: 31000, residual: 3000, life_years: 4, cost_of_capital: 0.08, utilisation: 1,
            facility_per_hour: 0.11, support_per_year: 900}      # instead of per_gpu_hour; see `device_terms`
    includes_energy: false
    from: 2026-11-01
  - match: "NVIDIA B200*"
    reserved: {per_gpu_hour: 1.20, upfront: 9000, term_years: 3}
    includes_energy: true
    from: 2026-11-01
electricity:
  - per_kwh: 0.14
    pue: 1.25                 # optional, 1 if left out
    from: 2026-11-01
  - per_kwh: 0.22             # by time of use: goes before the one without hours
    hours: 07:00-20:00        # a price holds for whole windows: the one in which they begin
    days: mon-fri             # optional, every day if left out
    zone: Europe/Berlin       # whose clocks; UTC if left out
    from: 2026-11-01
models:                       # optional: internal list prices, for tenants who are billed by price and not by cost
  - match: llama-3.3-70b*
    per_million_input: 0.60
    per_million_cached: 0.06  # optional: as any input
    per_million_output: 2.40
    from: 2026-11-01
exchange:                     # optional: what other currencies are worth in the book's
  - {currency: EUR, rate: 1.08, from: 2026-11-01}
"""

from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from costtrace.config.yaml_fields import Fields
from costtrace.config.yaml_file import load_mapping
from costtrace.core.errors import PriceBookError
from costtrace.pricing.device_terms import Owned, Reserved
from costtrace.pricing.list_prices import ListPrice
from costtrace.pricing.price_book import DevicePrice, ElectricityPrice, ExchangeRate, PriceBook
from costtrace.pricing.time_of_use import MINUTES, TimeOfUse, parse_days, parse_hours

LABELS = ("sample", "demo", "list")
KINDS = ("gpu", "mig", "cpu")

_BOOK_FIELDS = ("version", "currency", "label", "tier", "devices", "electricity", "models", "exchange")
_DEVICE_FIELDS = (
    "match", "per_gpu_hour", "owned", "reserved", "includes_energy", "from", "until", "kind", "tier", "pool", "region",
    "currency", "source",
)  # fmt: skip
_ELECTRICITY_FIELDS = ("per_kwh", "pue", "from", "until", "source", "hours", "days", "zone", "currency")
_MODEL_FIELDS = (
    "match", "per_million_input", "per_million_cached", "per_million_output", "from", "until", "source",
)  # fmt: skip
_EXCHANGE_FIELDS = ("currency", "rate", "from", "until", "source")


def load_price_book(path: Path, currency: str = "", pool: str = "", region: str = "") -> PriceBook:
    """Read and check the price book at *path*. *currency*: what it must be in; '': any.

    *pool* and *region*: of the node whose devices are rated; entries of another pool or region do not apply.
    Raises: PriceBookError.
    """
    raw = load_mapping(path, PriceBookError, "the price book")
    book = Fields(raw, str(path), _BOOK_FIELDS)
    try:
        loaded = PriceBook(
            version=book.text("version", 'a name for this edition, as in: version: "2026-11"'),
            currency=book.currency(),
            label=book.choice("label", LABELS),
            tier=book.text("tier"),
            devices=[_device(fields) for fields in book.entries("devices", _DEVICE_FIELDS)],
            electricity=[_electricity(fields) for fields in book.entries("electricity", _ELECTRICITY_FIELDS)],
            models=[_model(fields) for fields in book.entries("models", _MODEL_FIELDS)],
            exchange=[_exchange(fields) for fields in book.entries("exchange", _EXCHANGE_FIELDS)],
            pool=pool,
            region=region,
        )
    except PriceBookError as error:
        if str(error).startswith(str(path)):
            raise
        raise PriceBookError(f"{path}: {error}") from error
    if currency and loaded.currency != currency:
        raise PriceBookError(
            f"{path}: currency: {loaded.currency}, but the setting `currency` (COSTTRACE_CURRENCY) expects {currency}. "
            "Use another price book, or change the setting."
        )
    return loaded


def _device(fields: Fields) -> DevicePrice:
    terms = _terms(fields)
    if terms is None:
        per_gpu_hour = fields.number("per_gpu_hour", "a price, as in: per_gpu_hour: 2.10")
    else:
        per_gpu_hour = terms.per_gpu_hour() if isinstance(terms, Owned) else terms.hourly()
    return DevicePrice(
        match=fields.text("match", 'the device\'s name, as in: match: "NVIDIA H100*" (`nvidia-smi -L` shows it)'),
        per_gpu_hour=per_gpu_hour,
        includes_energy=fields.flag(
            "includes_energy", "true if the price covers power, false if power is billed on top"
        ),
        from_ns=fields.required_time("from"),
        until_ns=fields.time("until"),
        kind=fields.choice("kind", KINDS) or "gpu",
        tier=fields.text("tier"),
        source=fields.text("source"),
        pool=fields.text("pool"),
        region=fields.text("region"),
        currency=fields.currency(optional=True),
        terms=terms,
    )


def _terms(fields: Fields) -> Owned | Reserved | None:
    """What a price per hour is computed from; None where the entry gives the price."""
    if sum(fields.has(name) for name in ("per_gpu_hour", "owned", "reserved")) > 1:
        raise fields.wrong("match", "has more than one of per_gpu_hour, owned, reserved: leave one")
    zero = Decimal(0)
    if (owned := fields.mapping("owned", Owned._fields)) is not None:
        utilisation = owned.number("utilisation", "", default=Decimal(1), least=Decimal("0.01"))
        if utilisation > 1:
            raise owned.wrong("utilisation", "is a part of all hours: at most 1")
        interest = owned.number("cost_of_capital", "", default=zero)
        if interest > 1:
            raise owned.wrong("cost_of_capital", "is a part a year: 0.08 is 8 %")
        terms = Owned(
            purchase=owned.number("purchase", "what a device cost, as in: purchase: 30000"),
            life_years=owned.whole("life_years", "the years in which it is written off, as in: life_years: 4"),
            residual=owned.number("residual", "", default=zero),
            cost_of_capital=interest,
            utilisation=utilisation,
            facility_per_hour=owned.number("facility_per_hour", "", default=zero),
            support_per_year=owned.number("support_per_year", "", default=zero),
        )
        if terms.residual > terms.purchase:
            raise owned.wrong("residual", "is more than the purchase")
        return terms
    if (reserved := fields.mapping("reserved", Reserved._fields)) is not None:
        return Reserved(
            reserved.number("per_gpu_hour", "what each hour costs beside `upfront`, as in: per_gpu_hour: 0.90"),
            reserved.number("upfront", "", default=zero),
            reserved.whole("term_years", "the years that were committed to, as in: term_years: 3"),
        )
    return None


def _model(fields: Fields) -> ListPrice:
    cached = "per_million_cached"
    return ListPrice(
        match=fields.text("match", "the model's name as it is served, as in: match: llama-*"),
        per_million_input=fields.number("per_million_input", "a price, as in: per_million_input: 0.50"),
        per_million_output=fields.number("per_million_output", "a price, as in: per_million_output: 1.50"),
        from_ns=fields.required_time("from"),
        until_ns=fields.time("until"),
        per_million_cached=fields.number(cached, "") if fields.has(cached) else None,
        source=fields.text("source"),
    )


def _exchange(fields: Fields) -> ExchangeRate:
    return ExchangeRate(
        currency=fields.currency(),
        rate=fields.number("rate", "what one unit of it is in the book's currency, as in: rate: 1.08"),
        from_ns=fields.required_time("from"),
        until_ns=fields.time("until"),
        source=fields.text("source"),
    )


def _electricity(fields: Fields) -> ElectricityPrice:
    return ElectricityPrice(
        per_kwh=fields.number("per_kwh", "a price, as in: per_kwh: 0.14"),
        from_ns=fields.required_time("from"),
        until_ns=fields.time("until"),
        pue=fields.number("pue", "", default=Decimal(1), least=Decimal(1)),
        source=fields.text("source"),
        when=_time_of_use(fields),
        currency=fields.currency(optional=True),
    )


def _time_of_use(fields: Fields) -> TimeOfUse | None:
    hours, days, zone = (fields.text(name) for name in ("hours", "days", "zone"))
    if not hours and not days:
        if zone:
            raise fields.wrong("zone", "says nothing without `hours` or `days`")
        return None
    minutes = parse_hours(hours) if hours else (0, MINUTES)
    if minutes is None:
        raise fields.wrong("hours", 'must be a stretch of a day, as in: hours: "07:00-20:00"')
    weekdays = parse_days(days) if days else frozenset(range(7))
    if weekdays is None:
        raise fields.wrong("days", "must be days of the week, as in: days: mon-fri, or: days: sat,sun")
    try:
        place = ZoneInfo(zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise fields.wrong("zone", "is no time zone that this machine knows, as in: zone: Europe/Berlin") from None
    return TimeOfUse(*minutes, weekdays, place, zone or "UTC")
