"""The board's figures from the ledger: cost per million tokens by model, fleet and month, with and without idle.

Idle, overhead and unobserved time stand on an engine, not on a model. With idle, each engine's day is handed to the
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
"""What the board's summary is made by."""


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
    """A price of a device, and when it was first applied."""

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
    """Requests with one value of a label."""

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
    """Requests: tokens, device time, energy and cost."""
    idle: Line
    """Its share of idle, overhead and unobserved: the same kinds of figures, no tokens."""

    def cost_nano(self, *, with_idle: bool) -> int | None:
        """Nano-units; None where a part of it is not known."""
        parts = (self.direct, self.idle) if with_idle else (self.direct,)
        if any(part.cost_unknown_ns for part in parts):
            return None
        known = [part.cost_nano for part in parts if part.cost_nano is not None]
        return sum(known) if known else None

    def tokens(self, basis: str) -> int:
        """Tokens of a basis."""
        inputs, outputs = self.direct.input_tokens, self.direct.output_tokens
        return {"input": inputs, "output": outputs, "total": inputs + outputs}[basis]

    def per_million(self, basis: str, *, with_idle: bool) -> Fraction | None:
        """Currency units per million tokens; None where the cost is not known in full, or there are no tokens."""
        cost, tokens = self.cost_nano(with_idle=with_idle), self.tokens(basis)
        return None if cost is None or not tokens else Fraction(cost * 1_000_000, tokens * NANO_PER_UNIT)

    def joules_per_token(self, basis: str, *, with_idle: bool) -> Fraction | None:
        """J per token; None where the energy is not known in full."""
        parts = (self.direct, self.idle) if with_idle else (self.direct,)
        known = [part.energy_uj for part in parts if part.energy_uj is not None]
        if any(part.energy_unknown_ns for part in parts) or not known or not self.tokens(basis):
            return None
        return Fraction(sum(known), self.tokens(basis) * UJ_PER_J)

    def plus(self, other: "Cell") -> "Cell":
        """Both together, under this cell's name."""
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


def cells(summary: Summary, engines: Mapping[str, EngineInfo]) -> list[Cell]:
    """Cells by model, fleet, day and currency from a summary by `BY`. Their sum is all that the ledger holds."""
    served: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in summary.lines:
        served[line.keys[0], line.keys[3]].append(line)
    waiting: dict[tuple[str, str, str], Line] = {}
    for line in summary.rest:
        key = (line.keys[0], line.keys[3], line.currency)
        waiting[key] = waiting[key].plus(line) if key in waiting else line
    found: dict[tuple[str, str, str, str], Cell] = {}
    for line in summary.lines:
        _, model, fleet, day = line.keys
        _add(found, Cell(model, fleet, day, line.currency, line, _NOTHING))
    for (engine_id, day, currency), line in waiting.items():
        lines = [one for one in served[engine_id, day] if one.currency == currency] or served[engine_id, day]
        lines = [one for one in lines if one.gpu_ns]
        fleet = line.keys[2]
        if not lines:
            model = engines[engine_id].model if engine_id in engines else ""
            _add(found, Cell(model, fleet, day, currency, Line((), REQUESTS), line))
            continue
        for one, share in zip(lines, _shares(line, [one.gpu_ns for one in lines]), strict=True):
            _add(found, Cell(one.keys[1], fleet, day, currency, Line((), REQUESTS), share))
    return sorted(found.values(), key=lambda cell: (cell.period, cell.model, cell.fleet, cell.currency))


def _shares(line: Line, weights: Sequence[int]) -> list[Line]:
    """A line split by *weights*, every amount to its last unit."""
    shares: list[dict[str, int | None]] = [{} for _ in weights]
    for name in _AMOUNTS:
        whole = getattr(line, name)
        parts: Sequence[int | None] = [None] * len(weights) if whole is None else largest_remainder(whole, weights)
        for share, part in zip(shares, parts, strict=True):
            share[name] = part
    return [line._replace(**share) for share in shares]  # type: ignore[arg-type] # amounts, by name


def _add(found: dict[tuple[str, str, str, str], Cell], cell: Cell) -> None:
    key = (cell.model, cell.fleet, cell.period, cell.currency)
    found[key] = found[key].plus(cell) if key in found else cell


def group(of: Iterable[Cell], keep: Sequence[str]) -> list[Cell]:
    """Cells summed over all of model, fleet and period that are not in *keep*; ``month`` keeps the month of a day."""
    found: dict[tuple[str, str, str, str], Cell] = {}
    for cell in of:
        period = cell.period if "day" in keep else cell.period[:7] if "month" in keep else ""
        named = cell._replace(
            model=cell.model if "model" in keep else "",
            fleet=cell.fleet if "fleet" in keep else "",
            period=period,
        )
        _add(found, named)
    return sorted(found.values(), key=lambda cell: (cell.period, cell.model, cell.fleet, cell.currency))


def annotations(engines: Iterable[EngineInfo], prices: Iterable[PriceSince]) -> list[Annotation]:
    """Price changes, new engine versions or settings, and new models, each when it was first seen after the first."""
    found: list[Annotation] = []
    known: dict[tuple[str, str], str] = {}
    for price in sorted(prices, key=lambda one: one.since_ns):
        shown = f"{float(price.per_gpu_hour):.4g} {price.currency}"
        key = (price.device_name, "price")
        if key in known and known[key] != shown:
            text = f"{price.device_name}: {known[key]} -> {shown} per GPU-hour"
            found.append(Annotation(price.since_ns, "price", text))
        known[key] = shown
    models: dict[str, set[str]] = defaultdict(set)
    first: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for engine in sorted(engines, key=lambda one: one.started_wall_ns):
        software = f"{engine.engine} {engine.version}"
        flags = f"{software} {sorted(engine.settings.items())}"
        before = known.get((engine.model, "software"))
        if before is not None and before != flags and (engine.model, flags) not in seen:
            same = before.startswith(f"{software} ")
            text = f"{engine.model}: {software}{', other settings' if same else ''}"
            found.append(Annotation(engine.started_wall_ns, "software", text))
        seen.add((engine.model, flags))
        known[engine.model, "software"] = flags
        began = first.setdefault(engine.device_name, engine.started_wall_ns)
        late = engine.started_wall_ns - began > NS_PER_HOUR
        if late and engine.model not in models[engine.device_name]:
            found.append(Annotation(engine.started_wall_ns, "model", f"{engine.device_name}: {engine.model} is new"))
        models[engine.device_name].add(engine.model)
    return sorted(found)


def revenue(cell: Cell, price: ListPrice | None) -> Fraction | None:
    """Currency units that a cell's tokens bring at list price, cached ones at theirs; None without a price."""
    if price is None:
        return None
    line = cell.direct
    return price.exact(line.input_tokens, line.cached_tokens, line.output_tokens) / NANO_PER_UNIT
