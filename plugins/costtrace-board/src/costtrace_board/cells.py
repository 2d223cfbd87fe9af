"""The board's figures from the ledger: cost per million tokens by model, fleet and month, with and without idle.

Idle, overhead and unobserved time belong to an engine, not to a model. With idle, each engine's day is split among the
models that it served on that day, by their device time, to the nano-unit: so the cells add up to what `report` calls
everything. A day without a request goes to the model that the engine was serving. A fleet is a kind of device.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder
from costtrace.core.units import NANO_PER_UNIT, NS_PER_HOUR, UJ_PER_J
from costtrace.pricing.list_prices import ListPrice
from costtrace.reports.usage.summary import REQUESTS, Line, Summary

BY = ("engine", "model", "device", "day")
"""The keys of the summary that the board is made from."""


class EngineInfo(NamedTuple):
    """An engine as the ledger knows it."""

    engine_id: str
    engine: str
    version: str
    model: str
    device_name: str
    devices: tuple[str, ...]
    settings: Mapping[str, str]
    simulated: bool
    started_wall_ns: int
    role: str = ""


class PriceSince(NamedTuple):
    """A device's price, and the first window that it was applied to."""

    device_name: str
    currency: str
    price_book: str
    nano_per_ns_numerator: int
    nano_per_ns_denominator: int
    since_ns: int

    @property
    def per_gpu_hour(self) -> Fraction:
        """Currency units per GPU-hour."""
        exact = Fraction(self.nano_per_ns_numerator, self.nano_per_ns_denominator)
        return exact * NS_PER_HOUR / NANO_PER_UNIT


class Transaction(NamedTuple):
    """Requests with one value of a label, summed."""

    value: str
    currency: str
    requests: int
    cost_nano: int | None
    gpu_ns: int
    input_tokens: int
    output_tokens: int


class Cell(NamedTuple):
    """A model on a fleet in a month (or on a day): its requests, and the idle time that falls to it."""

    model: str
    fleet: str
    period: str
    currency: str
    direct: Line
    """Its requests: tokens, device time, energy and cost."""
    idle: Line
    """Its share of idle, overhead and unobserved time: the same amounts, no tokens."""

    def cost_nano(self, *, with_idle: bool) -> int | None:
        """Nano-units of the currency; None where a part of the cost is unknown."""
        parts = (self.direct, self.idle) if with_idle else (self.direct,)
        if any(part.cost_unknown_ns for part in parts):
            return None
        known = [part.cost_nano for part in parts if part.cost_nano is not None]
        return sum(known) if known else None

    def tokens(self, basis: str) -> int:
        """Tokens counted by *basis*: input, output or total."""
        inputs, outputs = self.direct.input_tokens, self.direct.output_tokens
        return {"input": inputs, "output": outputs, "total": inputs + outputs}[basis]

    def per_million(self, basis: str, *, with_idle: bool) -> Fraction | None:
        """Currency units per million tokens; None where a part of the cost is unknown, or without tokens."""
        cost, tokens = self.cost_nano(with_idle=with_idle), self.tokens(basis)
        return None if cost is None or not tokens else Fraction(cost * 1_000_000, tokens * NANO_PER_UNIT)

    def joules_per_token(self, basis: str, *, with_idle: bool) -> Fraction | None:
        """J per token; None where a part of the energy is unknown, or without tokens."""
        parts = (self.direct, self.idle) if with_idle else (self.direct,)
        known = [part.energy_uj for part in parts if part.energy_uj is not None]
        if any(part.energy_unknown_ns for part in parts) or not known or not self.tokens(basis):
            return None
        return Fraction(sum(known), self.tokens(basis) * UJ_PER_J)

    def plus(self, other: "Cell") -> "Cell":
        """The sum of two cells, under this cell's name."""
        return self._replace(direct=self.direct.plus(other.direct), idle=self.idle.plus(other.idle))


class Annotation(NamedTuple):
    """Something that happened on a day and may have moved the curve."""

    day_ns: int
    kind: str
    """``price``, ``software`` or ``model``."""
    text: str


_AMOUNTS = (
    "gpu_ns",
    "energy_uj",
    "energy_unknown_ns",
    "device_cost_nano",
    "energy_cost_nano",
    "cost_nano",
    "cost_unknown_ns",
)
_NOTHING = Line((), "idle")


def cells_of(summary: Summary, engines: Mapping[str, EngineInfo]) -> list[Cell]:
    """Cells by model, fleet, day and currency, from a summary by `BY`. They add up to all that the summary holds."""
    served: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in summary.lines:
        served[line.keys[0], line.keys[3]].append(line)
    rest: dict[tuple[str, str, str], Line] = {}
    for line in summary.rest:
        key = (line.keys[0], line.keys[3], line.currency)
        rest[key] = rest[key].plus(line) if key in rest else line
    cells: dict[tuple[str, str, str, str], Cell] = {}
    for line in summary.lines:
        _, model, fleet, day = line.keys
        _add(cells, Cell(model, fleet, day, line.currency, line, _NOTHING))
    for (engine_id, day, currency), line in rest.items():
        lines = [other for other in served[engine_id, day] if other.currency == currency] or served[engine_id, day]
        lines = [other for other in lines if other.gpu_ns]
        fleet = line.keys[2]
        if not lines:
            model = engines[engine_id].model if engine_id in engines else ""
            _add(cells, Cell(model, fleet, day, currency, Line((), REQUESTS), line))
            continue
        for other, share in zip(lines, _shares(line, [other.gpu_ns for other in lines]), strict=True):
            _add(cells, Cell(other.keys[1], fleet, day, currency, Line((), REQUESTS), share))
    return sorted(cells.values(), key=lambda cell: (cell.period, cell.model, cell.fleet, cell.currency))


def _shares(line: Line, weights: Sequence[int]) -> list[Line]:
    """A line split by *weights*: the parts of every amount add up to it exactly."""
    shares: list[dict[str, int | None]] = [{} for _ in weights]
    for name in _AMOUNTS:
        total = getattr(line, name)
        parts: Sequence[int | None] = [None] * len(weights) if total is None else largest_remainder(total, weights)
        for share, part in zip(shares, parts, strict=True):
            share[name] = part
    return [line._replace(**share) for share in shares]  # type: ignore[arg-type] # amounts, by name


def _add(cells: dict[tuple[str, str, str, str], Cell], cell: Cell) -> None:
    key = (cell.model, cell.fleet, cell.period, cell.currency)
    cells[key] = cells[key].plus(cell) if key in cells else cell


def group(cells: Iterable[Cell], keep: Sequence[str]) -> list[Cell]:
    """Cells summed over all of model, fleet and period that are not in *keep*; ``month`` keeps the month of a day."""
    groups: dict[tuple[str, str, str, str], Cell] = {}
    for cell in cells:
        period = cell.period if "day" in keep else cell.period[:7] if "month" in keep else ""
        renamed = cell._replace(
            model=cell.model if "model" in keep else "",
            fleet=cell.fleet if "fleet" in keep else "",
            period=period,
        )
        _add(groups, renamed)
    return sorted(groups.values(), key=lambda cell: (cell.period, cell.model, cell.fleet, cell.currency))


def annotations(engines: Iterable[EngineInfo], prices: Iterable[PriceSince]) -> list[Annotation]:
    """Changes of price, engine version, settings and models, when each was first seen; not the initial state."""
    changes: list[Annotation] = []
    latest: dict[tuple[str, str], str] = {}
    for price in sorted(prices, key=lambda entry: entry.since_ns):
        shown = f"{float(price.per_gpu_hour):.4g} {price.currency}"
        key = (price.device_name, "price")
        if key in latest and latest[key] != shown:
            text = f"{price.device_name}: {latest[key]} -> {shown} per GPU-hour"
            changes.append(Annotation(price.since_ns, "price", text))
        latest[key] = shown
    models: dict[str, set[str]] = defaultdict(set)
    first_started: dict[str, int] = {}
    seen_software: set[tuple[str, str]] = set()
    for engine in sorted(engines, key=lambda entry: entry.started_wall_ns):
        software = f"{engine.engine} {engine.version}"
        flags = f"{software} {sorted(engine.settings.items())}"
        previous = latest.get((engine.model, "software"))
        if previous is not None and previous != flags and (engine.model, flags) not in seen_software:
            same = previous.startswith(f"{software} ")
            text = f"{engine.model}: {software}{', other settings' if same else ''}"
            changes.append(Annotation(engine.started_wall_ns, "software", text))
        seen_software.add((engine.model, flags))
        latest[engine.model, "software"] = flags
        first_ns = first_started.setdefault(engine.device_name, engine.started_wall_ns)
        added_later = engine.started_wall_ns - first_ns > NS_PER_HOUR
        if added_later and engine.model not in models[engine.device_name]:
            changes.append(Annotation(engine.started_wall_ns, "model", f"{engine.device_name}: {engine.model} is new"))
        models[engine.device_name].add(engine.model)
    return sorted(changes)


def revenue(cell: Cell, price: ListPrice | None) -> Fraction | None:
    """Currency units that a cell's tokens earn at list price, cached tokens at their own; None without a price."""
    if price is None:
        return None
    line = cell.direct
    return price.exact(line.input_tokens, line.cached_tokens, line.output_tokens) / NANO_PER_UNIT
