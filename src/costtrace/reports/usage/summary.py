"""What each tenant and model used and cost in a period: sums of postings and usage records, as tables.

Energy and money are summed where they are known; the device time for which they are not is beside them
(`energy_unknown_ns`, `cost_unknown_ns`), because unknown is not 0.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta, tzinfo
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.rows import KINDS
from costtrace.core.units import per_million_tokens
from costtrace.core.wall_time import moment
from costtrace.ledger.answers import Ended, Used

TIME = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m"}
REQUESTS = "request"
ALL_REQUESTS = "all requests"
EVERYTHING = "everything"


class Line(NamedTuple):
    """One line of a summary, exact."""

    keys: tuple[str, ...]
    kind: str
    reason: str = ""
    currency: str = ""
    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    gpu_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    wasted_ns: int = 0
    energy_uj: int | None = None
    energy_unknown_ns: int = 0
    device_cost_nano: int | None = None
    energy_cost_nano: int | None = None
    cost_nano: int | None = None
    cost_unknown_ns: int = 0
    simulated: int = 0
    """How many of its postings are of a simulated device or sensor."""

    def plus(self, other: "Line") -> "Line":
        """The sum of both, under this line's keys and kind."""
        amounts = {name: known_sum(getattr(self, name), getattr(other, name)) for name in _SUMMED}
        return Line._make({**self._asdict(), **amounts}.values())

    def per_million(self, basis: str) -> Decimal | None:
        """Currency units per million tokens; None where the cost is not known in full, or there are no tokens."""
        tokens = {
            "input": self.input_tokens,
            "output": self.output_tokens,
            "total": self.input_tokens + self.output_tokens,
        }[basis]
        if self.cost_nano is None or self.cost_unknown_ns:
            return None
        exact = per_million_tokens(self.cost_nano, tokens)
        return None if exact is None else round(exact, 9)


_SUMMED = Line._fields[Line._fields.index("requests") :]


def known_sum(one: int | None, other: int | None) -> int | None:
    """Sum of what is known; None only where nothing is."""
    return one if other is None else other if one is None else one + other


def whole_sum(values: Iterable[int | None]) -> int | None:
    """The sum; None where one of them is unknown."""
    amounts = list(values)
    return None if None in amounts else sum(amount for amount in amounts if amount is not None)


class Summary(NamedTuple):
    """Lines of requests by their keys, of everything else, and their totals by currency."""

    by: tuple[str, ...]
    lines: list[Line]
    rest: list[Line]
    totals: list[Line]
    """All requests, then everything; once per currency."""


def summarize(by: Sequence[str], used: Iterable[Used], ended: Iterable[Ended], zone: tzinfo) -> Summary:
    """Sum *used* and *ended* by their keys."""
    name = _namer(by, zone)
    lines: dict[tuple[str, ...], Line] = {}
    for row in used:
        line = _used_line(name(row.keys), row)
        key = (*line.keys, line.kind, line.reason, line.currency)
        lines[key] = lines[key].plus(line) if key in lines else line
    tokens: dict[tuple[str, ...], Line] = {}
    for row_ended in ended:
        line = _ended_line(name(row_ended.keys), row_ended)
        key = (*line.keys, line.currency)
        tokens[key] = tokens[key].plus(line) if key in tokens else line
    tidy = _tidy([*lines.values(), *tokens.values()])
    requests = [line for line in tidy if line.kind == REQUESTS]
    rest = [line for line in tidy if line.kind != REQUESTS]
    rest.sort(key=lambda line: (KINDS.index(line.kind) if line.kind in KINDS else 9, line.reason, line.keys))
    requests.sort(key=_order(by))
    return Summary(tuple(by), requests, rest, _totals(("",) * len(by), requests, rest))


def _namer(by: Sequence[str], zone: tzinfo) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """A function that turns the quarter hours of a store into hours, days or months of *zone*."""
    formats = [TIME.get(name) for name in by]
    known: dict[tuple[str, str], str] = {}

    def name(keys: tuple[str, ...]) -> tuple[str, ...]:
        names = []
        for key, form in zip(keys, formats, strict=True):
            if form is None:
                names.append(key)
                continue
            if (key, form) not in known:
                at = moment(int(key), zone)
                # A clock change repeats an hour: the offset tells the two apart.
                offset = f"{at:%z}" if form is TIME["hour"] and at.utcoffset() != timedelta(0) else ""
                known[key, form] = at.strftime(form) + offset
            names.append(known[key, form])
        return tuple(names)

    return name


def _used_line(keys: tuple[str, ...], row: Used) -> Line:
    known_cost = row.device_nano is not None and row.energy_nano is not None
    return Line(
        keys,
        row.kind,
        row.reason,
        row.currency,
        gpu_ns=row.gpu_ns,
        prefill_ns=row.prefill_ns,
        decode_ns=row.decode_ns,
        wasted_ns=row.wasted_ns,
        energy_uj=row.energy_uj,
        energy_unknown_ns=row.energy_unknown_ns,
        device_cost_nano=row.device_nano,
        energy_cost_nano=row.energy_nano,
        cost_nano=known_sum(row.device_nano, row.energy_nano) if known_cost else None,
        cost_unknown_ns=0 if known_cost else row.gpu_ns,
        simulated=row.simulated,
    )


def _ended_line(keys: tuple[str, ...], row: Ended) -> Line:
    return Line(
        keys,
        REQUESTS,
        currency=row.currency,
        requests=row.requests,
        input_tokens=row.input_tokens,
        cached_tokens=row.cached_tokens,
        output_tokens=row.output_tokens,
    )


def _tidy(lines: Iterable[Line]) -> list[Line]:
    """One line a name and currency. Unpriced lines join the only currency of their name, where there is just one."""
    by_name: dict[tuple[str, ...], dict[str, Line]] = {}
    for line in lines:
        same = by_name.setdefault((*line.keys, line.kind, line.reason), {})
        same[line.currency] = same[line.currency].plus(line) if line.currency in same else line
    for same in by_name.values():
        if "" in same and len(same) == 2:
            unpriced = same.pop("")
            currency, priced = same.popitem()
            same[currency] = priced.plus(unpriced)
    return [line for same in by_name.values() for line in same.values()]


def _order(by: Sequence[str]) -> Callable[[Line], tuple[object, ...]]:
    """By time where that is a dimension, then the highest cost first."""
    times = [place for place, name in enumerate(by) if name in TIME]
    return lambda line: (
        *(line.keys[place] for place in times),
        -(line.cost_nano or 0),
        -line.gpu_ns,
        line.keys,
        line.currency,
    )


def _totals(blank: tuple[str, ...], lines: list[Line], rest: list[Line]) -> list[Line]:
    """All requests, then everything; for each currency where there are several."""
    currencies = sorted({line.currency for line in (*lines, *rest)} - {""})
    several = len(currencies) > 1
    if several and any(not line.currency for line in (*lines, *rest)):
        currencies.append("")
    totals: list[Line] = []
    for currency in currencies or [""]:
        total = Line(blank, ALL_REQUESTS, currency=currency)
        for line in lines:
            if not several or line.currency == currency:
                total = total.plus(line)
        everything = total._replace(kind=EVERYTHING)
        for line in rest:
            if not several or line.currency == currency:
                everything = everything.plus(line)
        totals += [total, everything]
    return totals
