"""Reading a price book from YAML: exact numbers, and errors that name file, entry, field, value and remedy.

version: "2026-11"            # stands on every charge
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
electricity:
  - per_kwh: 0.14
    pue: 1.25                 # optional, 1 if left out
    from: 2026-11-01
  - per_kwh: 0.22             # by time of use: goes before the one without hours
    hours: 07:00-20:00        # a price holds for whole windows: the one in which they begin
    days: mon-fri             # optional, every day if left out
    zone: Europe/Berlin       # whose clocks; UTC if left out
    from: 2026-11-01
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from costtrace.errors import PriceBookError
from costtrace.price_book import DevicePrice, ElectricityPrice, PriceBook
from costtrace.time_of_use import MINUTES, TimeOfUse, parse_days, parse_hours
from costtrace.units import NS_PER_S
from costtrace.yamlfile import load_mapping

LABELS = ("sample", "demo", "list")
KINDS = ("gpu", "mig", "cpu")

_BOOK_FIELDS = ("version", "currency", "label", "tier", "devices", "electricity")
_DEVICE_FIELDS = ("match", "per_gpu_hour", "includes_energy", "from", "until", "kind", "tier", "source")
_ELECTRICITY_FIELDS = ("per_kwh", "pue", "from", "until", "source", "hours", "days", "zone")
_LARGEST = Decimal(10) ** 9
_PLACES = 18


def load_price_book(path: Path, currency: str = "") -> PriceBook:
    """Read and check the price book at *path*. *currency*: the one that it must be in, if that is known.

    Raises: PriceBookError.
    """
    raw = load_mapping(path, PriceBookError, "the price book")
    book = _Fields(raw, str(path), _BOOK_FIELDS)
    try:
        loaded = PriceBook(
            version=book.text("version", 'a name for this edition, as in: version: "2026-11"'),
            currency=book.currency(),
            label=book.choice("label", LABELS),
            tier=book.text("tier"),
            devices=[_device(fields) for fields in book.entries("devices", _DEVICE_FIELDS)],
            electricity=[_electricity(fields) for fields in book.entries("electricity", _ELECTRICITY_FIELDS)],
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


def _device(fields: "_Fields") -> DevicePrice:
    return DevicePrice(
        match=fields.text("match", 'the device\'s name, as in: match: "NVIDIA H100*" (`nvidia-smi -L` shows it)'),
        per_gpu_hour=fields.number("per_gpu_hour", "a price, as in: per_gpu_hour: 2.10"),
        includes_energy=fields.flag(
            "includes_energy", "true if the price covers power, false if power is billed on top"
        ),
        from_ns=fields.required_time("from"),
        until_ns=fields.time("until"),
        kind=fields.choice("kind", KINDS) or "gpu",
        tier=fields.text("tier"),
        source=fields.text("source"),
    )


def _electricity(fields: "_Fields") -> ElectricityPrice:
    return ElectricityPrice(
        per_kwh=fields.number("per_kwh", "a price, as in: per_kwh: 0.14"),
        from_ns=fields.required_time("from"),
        until_ns=fields.time("until"),
        pue=fields.number("pue", "", default=Decimal(1), least=Decimal(1)),
        source=fields.text("source"),
        when=_time_of_use(fields),
    )


def _time_of_use(fields: "_Fields") -> TimeOfUse | None:
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


class _Fields:
    """One mapping of the file, read field by field; each complaint says where it is."""

    def __init__(self, raw: Mapping[str, object], where: str, known: tuple[str, ...]) -> None:
        self._raw = raw
        self._where = where
        for key in raw:
            if key not in known:
                near = get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
                raise PriceBookError(
                    f"{where}: there is no field {key!r}. The nearest is {near!r}, of {', '.join(known)}."
                )

    def text(self, field: str, remedy: str = "") -> str:
        """Read a text. With a *remedy* it must be there."""
        value = self._raw.get(field)
        if value is None or value == "":
            if remedy:
                raise self._missing(field, remedy)
            return ""
        if isinstance(value, bool) or not isinstance(value, (str, int, Decimal, date)):
            raise self.wrong(field, "must be a text")
        text = str(value)
        if not text.isprintable() or len(text) > 200:
            raise self.wrong(field, "must be printable and at most 200 characters long")
        return text

    def choice(self, field: str, allowed: tuple[str, ...]) -> str:
        """Read one of some words, or nothing."""
        value = self.text(field)
        if value and value not in allowed:
            raise self.wrong(field, f"must be one of {', '.join(allowed)}")
        return value

    def currency(self) -> str:
        """Read the currency: three capital letters."""
        value = self.text("currency", "the currency of all prices in it, as in: currency: USD")
        if not (len(value) == 3 and value.isascii() and value.isalpha() and value.isupper()):
            raise self.wrong("currency", "must be an ISO 4217 code, as in: USD, EUR, JPY")
        return value

    def flag(self, field: str, remedy: str) -> bool:
        """Read true or false; it must be there."""
        value = self._raw.get(field)
        if value is None:
            raise self._missing(field, remedy)
        if not isinstance(value, bool):
            raise self.wrong(field, f"must be true or false: {remedy}")
        return value

    def number(self, field: str, remedy: str, default: Decimal | None = None, least: Decimal = Decimal(0)) -> Decimal:
        """Read an exact number from *least* to 10^9 with at most 18 decimal places."""
        value = self._raw.get(field)
        if value is None:
            if default is not None:
                return default
            raise self._missing(field, remedy)
        try:
            number = Decimal(value) if isinstance(value, (int, str, Decimal)) and not isinstance(value, bool) else None
        except InvalidOperation:
            number = None
        if number is None or not number.is_finite():
            raise self.wrong(field, "must be a number, as in: 2.10")
        if not least <= number <= _LARGEST:
            raise self.wrong(field, f"must be between {least} and {_LARGEST}")
        exponent = number.as_tuple().exponent
        if isinstance(exponent, int) and exponent < -_PLACES:
            raise self.wrong(field, f"has more than {_PLACES} decimal places")
        return number

    def required_time(self, field: str) -> int:
        """Read a time that must be there."""
        value = self.time(field)
        if value is None:
            raise self._missing(field, f"the date from which it holds, as in: {field}: 2026-11-01")
        return value

    def time(self, field: str) -> int | None:
        """Read a date (its midnight in UTC) or a time with its zone; wall ns since the epoch."""
        value = self._raw.get(field)
        if value is None:
            return None
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value) if "T" in value or " " in value else date.fromisoformat(value)
            except ValueError:
                raise self.wrong(field, "must be a date, as in: 2026-11-01") from None
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise self.wrong(field, "needs a zone, as in: 2026-11-01T00:00:00Z")
            moment = value
        elif isinstance(value, date):
            moment = datetime(value.year, value.month, value.day, tzinfo=UTC)
        else:
            raise self.wrong(field, "must be a date, as in: 2026-11-01")
        if not 1970 < moment.year < 2200:
            raise self.wrong(field, "must lie between 1971 and 2199")
        return int(moment.timestamp()) * NS_PER_S

    def entries(self, field: str, known: tuple[str, ...]) -> list["_Fields"]:
        """Read a list of mappings."""
        value = self._raw.get(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(field, "must be a list: one entry under each `-`")
        found = []
        for number, entry in enumerate(value, 1):
            where = f"{self._where}: {field}: entry {number}"
            if not isinstance(entry, dict):
                raise PriceBookError(f"{where} must be a mapping (`key: value` lines), not {entry!r:.100}")
            named = entry.get("match")
            found.append(_Fields(entry, f"{where} ({named})" if isinstance(named, str) else where, known))
        return found

    def _missing(self, field: str, remedy: str) -> PriceBookError:
        return PriceBookError(f"{self._where}: {field} is missing. Write {remedy}")

    def wrong(self, field: str, why: str) -> PriceBookError:
        """Complaint about a field's value."""
        value = self._raw.get(field)
        shown = str(value) if isinstance(value, (Decimal, date)) else repr(value)
        return PriceBookError(f"{self._where}: {field}: {shown[:100]} {why}.")
