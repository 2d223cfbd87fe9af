"""Reading one mapping of a YAML file, field by field. Each error says where it is, and the remedy."""

from datetime import UTC, date, datetime
from decimal import Decimal
from difflib import get_close_matches

from costtrace.core.errors import PriceBookError
from costtrace.core.numbers import exact
from costtrace.core.units import NS_PER_S

_LARGEST = Decimal(10) ** 9
_PLACES = 18


class Written(str):
    """A word that YAML 1.1 takes for a number or a date, as it is written. Messages show it without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Section(dict[str, object]):
    """A mapping that knows the line of each key, and its own (under the key None)."""

    def __init__(self, line: int) -> None:
        self.lines: dict[str | None, int] = {None: line}


class Items(list[object]):
    """A list that knows the line of each item."""

    def __init__(self, items: list[object], lines: list[int]) -> None:
        super().__init__(items)
        self.lines = lines


class Fields:
    """One mapping of a file. *where*: how errors call it. *known*: its fields; any other is an error.

    Raises: PriceBookError, in the constructor and in every method that reads.
    """

    def __init__(self, raw: Section, where: str, known: tuple[str, ...]) -> None:
        self._raw = raw
        self._where = where
        for key in raw:
            if key not in known:
                near = get_close_matches(key, known, n=1, cutoff=0.0)[0]
                asked = f"there is no field {key!r}{self._at(key)}"
                raise PriceBookError(f"{where}: {asked}. The nearest is {near!r}, of {', '.join(known)}.")

    def text(self, field: str, remedy: str = "") -> str:
        """Read a text; '' where it is not there, which with a *remedy* is an error."""
        value = self._raw.get(field)
        if value is None or value == "":
            if remedy:
                raise self._missing(field, remedy)
            return ""
        if not isinstance(value, str):
            raise self.wrong(field, "must be a text; words such as no, on and true need quotes")
        text = str(value)
        if not text.isprintable() or len(text) > 200:
            raise self.wrong(field, "must be printable and at most 200 characters long")
        return text

    def choice(self, field: str, allowed: tuple[str, ...]) -> str:
        """Read one of the words *allowed*; '' where it is not there."""
        value = self.text(field)
        if value and value not in allowed:
            raise self.wrong(field, f"must be one of {', '.join(allowed)}")
        return value

    def currency(self, *, optional: bool = False) -> str:
        """Read a currency: three capital letters."""
        value = self.text("currency", "" if optional else "the currency of all prices in it, as in: currency: USD")
        if optional and not value:
            return ""
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
        number = exact(value) if isinstance(value, str) else None
        if number is None:
            raise self.wrong(
                field,
                f"must be a number between {least} and {_LARGEST} with at most {_PLACES} decimal places, as in: 2.10",
            )
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
        """Read a date (its midnight in UTC) or a time with its zone, as wall ns since the epoch. None: not there."""
        value = self._raw.get(field)
        if value is None:
            return None
        text = str(value)
        try:
            if "T" in text or " " in text:
                moment = datetime.fromisoformat(text)
            else:
                moment = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
        except ValueError:
            raise self.wrong(
                field, "must be a date, as in: 2026-11-01, or a time, as in: 2026-11-01T00:00:00Z"
            ) from None
        if moment.tzinfo is None:
            raise self.wrong(field, "needs a zone, as in: 2026-11-01T00:00:00Z")
        if not 1970 < moment.year < 2200:
            raise self.wrong(field, "must lie between 1971 and 2199")
        return int(moment.timestamp()) * NS_PER_S

    def whole(self, field: str, remedy: str, least: int = 1, most: int = 100) -> int:
        """Read a whole number; it must be there."""
        number = self.number(field, remedy, least=Decimal(least))
        if number != int(number) or number > most:
            raise self.wrong(field, f"must be a whole number from {least} to {most}")
        return int(number)

    def has(self, field: str) -> bool:
        """Whether the field is there."""
        return self._raw.get(field) is not None

    def mapping(self, field: str, known: tuple[str, ...] | None = None) -> "Fields | None":
        """Read a mapping; None where it is not there. *known*: its fields; None: any."""
        value = self._raw.get(field)
        if value is None:
            return None
        if not isinstance(value, Section):
            raise self.wrong(field, "must be a mapping (`key: value` lines)")
        return Fields(value, f"{self._where}: {field}", tuple(value) if known is None else known)

    def texts(self, field: str) -> dict[str, str]:
        """Read a mapping of texts with any keys; empty where it is not there."""
        if (fields := self.mapping(field)) is None:
            return {}
        return {key: fields.text(key) for key in fields._raw}  # noqa: SLF001 - of this class

    def entries(self, field: str, known: tuple[str, ...]) -> list["Fields"]:
        """Read a list of mappings; empty where it is not there."""
        value = self._raw.get(field)
        if value is None:
            return []
        if not isinstance(value, Items):
            raise self.wrong(field, "must be a list: a list is needed here, with one entry under each `-`")
        entries = []
        for number, entry in enumerate(value, 1):
            where = f"{self._where}: {field}: entry {number}"
            if not isinstance(entry, Section):
                where = f"{where} (line {value.lines[number - 1]})"
                raise PriceBookError(f"{where} must be a mapping (`key: value` lines), not {entry!r:.100}")
            name = entry.get("match")
            entries.append(Fields(entry, f"{where} ({name})" if isinstance(name, str) else where, known))
        return entries

    def _at(self, field: str | None) -> str:
        """Where a field is; where it is not there, its mapping."""
        return f" (line {self._raw.lines.get(field, self._raw.lines[None])})"

    def _missing(self, field: str, remedy: str) -> PriceBookError:
        return PriceBookError(f"{self._where}: {field} is missing{self._at(field)}. Write {remedy}")

    def wrong(self, field: str, why: str) -> PriceBookError:
        """The error for a field whose value is wrong; *why* goes on from the value."""
        return PriceBookError(f"{self._where}: {field}: {self._raw.get(field)!r:.100} {why}{self._at(field)}.")
