"""The lines of statements, and how their money, energy, carbon and time are shown. Pure."""

from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.units import minor_digits, per_million_tokens, show_joules, show_seconds
from costtrace.reports.output.tables import Column, Line, count, per_cent, text
from costtrace_statements.settlement import SettlementLine


class Carbon(NamedTuple):
    """Carbon intensity of the electricity, as declared: costtrace does not measure it."""

    grams_per_kwh: Decimal | None = None
    source: str = ""


def carbon_ug(energy_uj: int | None, grams_per_kwh: Decimal | None) -> int | None:
    """Micrograms of CO2 equivalent of an energy, rounded half up; None where the energy or the intensity is unknown."""
    if energy_uj is None or grams_per_kwh is None:
        return None
    numerator, denominator = grams_per_kwh.as_integer_ratio()
    exact = energy_uj * numerator * 1_000_000
    whole = denominator * 3_600_000_000_000
    return (2 * exact + whole) // (2 * whole)


class StatementLine(NamedTuple):
    """One line of a statement: settlement lines of one currency, added up."""

    names: tuple[str, ...]
    """What it is of: a charge, a model, or a day and a model."""
    sum: SettlementLine
    has_tokens: bool = True
    """False: a share of idle or overhead has no requests and no tokens."""
    is_total: bool = False


def shown_cents(cents: int | None, currency: str, *, named: bool = True) -> str:
    """Whole cents, or whatever is the smallest unit of the currency, as people read them."""
    if cents is None:
        return "unknown"
    digits = minor_digits(currency)
    return f"{Decimal(cents).scaleb(-digits):,.{digits}f} {currency if named else ''}".rstrip()


def shown_carbon(carbon_ug: int | None) -> str:
    """Grams or kilograms of CO2 equivalent."""
    if carbon_ug is None:
        return "unknown"
    grams = Decimal(carbon_ug) / 1_000_000
    return f"{grams / 1_000:,.2f} kg" if grams >= 1_000 else f"{grams:,.3f} g"


def time_column(heading: str, ns: Callable[[Line], int]) -> Column[Line]:
    """A duration; nothing for 0."""
    return Column(heading, lambda line: show_seconds(ns(line)) if ns(line) else "")


def charge_columns(carbon: Carbon) -> list[Column[StatementLine]]:
    """Of charges and tenants."""
    return [_name("", 0), *_tokens(), _gpu_time(), _energy(), *_carbon(carbon), _cost()]


def model_columns(carbon: Carbon) -> list[Column[StatementLine]]:
    """Of usage by model."""
    return [*_usage_columns([_name("model", 0)], carbon), Column("per million total tokens", _per_million)]


def day_columns(carbon: Carbon) -> list[Column[StatementLine]]:
    """Of usage by day and model."""
    return _usage_columns([_name("day", 0), _name("model", 1)], carbon)


def share_columns() -> list[Column[StatementLine]]:
    """Of shares of idle and overhead."""
    return [
        _name("", 0),
        Column("share", lambda line: per_cent(line.sum.weight, line.sum.weights)),
        text("measured in", lambda line: line.sum.basis),
        _gpu_time(),
        _energy(),
        _cost(),
    ]


def reconciliation_columns() -> list[Column[StatementLine]]:
    """Of the reconciliation to the fleet."""
    return [_name("", 0), _gpu_time(), _cost()]


def _usage_columns(names: list[Column[StatementLine]], carbon: Carbon) -> list[Column[StatementLine]]:
    wasted: Column[StatementLine] = time_column("wasted", lambda line: line.sum.wasted_ns)
    return [*names, *_tokens(), _gpu_time(), wasted, _energy(), *_carbon(carbon), _cost()]


def _name(heading: str, place: int) -> Column[StatementLine]:
    return text(heading, lambda line: line.names[place])


def _tokens() -> list[Column[StatementLine]]:
    return [
        count("requests", lambda line: line.sum.requests if line.has_tokens else None),
        count("input tok", lambda line: line.sum.input_tokens if line.has_tokens else None),
        count("cached", lambda line: line.sum.cached_tokens if line.has_tokens else None),
        count("output tok", lambda line: line.sum.output_tokens if line.has_tokens else None),
    ]


def _gpu_time() -> Column[StatementLine]:
    return time_column("GPU time", lambda line: line.sum.pot.gpu_ns)


def _energy() -> Column[StatementLine]:
    """What is known, and ``+ ?`` where that is not all."""

    def show(line: StatementLine) -> str:
        pot = line.sum.pot
        if pot.energy_uj is None and not pot.gpu_ns:
            return ""
        shown = show_joules(pot.energy_uj, simulated=bool(line.sum.simulated))
        return f"{shown} + ?" if pot.energy_uj is not None and pot.energy_unknown_ns else shown

    return Column("energy", show)


def _carbon(carbon: Carbon) -> list[Column[StatementLine]]:
    if carbon.grams_per_kwh is None:
        return []

    def show(line: StatementLine) -> str:
        pot = line.sum.pot
        grams_ug = carbon_ug(pot.energy_uj, carbon.grams_per_kwh)
        shown = shown_carbon(grams_ug)
        return f"{shown} + ?" if grams_ug is not None and pot.energy_unknown_ns else shown

    return [Column("CO2e", show)]


def _cost() -> Column[StatementLine]:
    """What is to be booked, and ``+ ?`` where that is not all."""

    def show(line: StatementLine) -> str:
        cents, pot = line.sum.cost_cents, line.sum.pot
        if cents is None and not pot.gpu_ns:
            return ""
        shown = shown_cents(cents, line.sum.currency)
        return f"{shown} + ?" if cents is not None and pot.cost_unknown_ns else shown

    return Column("cost", show)


def _per_million(line: StatementLine) -> str:
    pot, tokens = line.sum.pot, line.sum.input_tokens + line.sum.output_tokens
    if pot.cost_nano is None or pot.cost_unknown_ns:
        return "unknown"
    exact = per_million_tokens(pot.cost_nano, tokens)
    return "unknown" if exact is None else f"{exact:,.4f} {line.sum.currency}"
