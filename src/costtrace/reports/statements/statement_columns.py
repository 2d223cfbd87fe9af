"""The columns of statements: how money, energy, carbon and time are shown. Pure."""

from decimal import Decimal
from typing import NamedTuple

from costtrace.core.units import per_million_tokens, show_joules, show_seconds
from costtrace.reports.output.tables import Column, Row, Value, count, text


class Carbon(NamedTuple):
    """Carbon intensity of the electricity, as declared: costtrace does not measure it."""

    grams_per_kwh: Decimal | None = None
    source: str = ""


def shown_cents(value: Value, currency: Value) -> str:
    """Whole cents as people read them."""
    if not isinstance(value, int):
        return "unknown"
    sign = "-" if value < 0 else ""
    return f"{sign}{abs(value) // 100:,}.{abs(value) % 100:02d} {currency}".rstrip()


def shown_carbon(value: Value) -> str:
    """Grams or kilograms of CO2 equivalent."""
    if not isinstance(value, int):
        return "unknown"
    grams = Decimal(value) / 1_000_000
    return f"{grams / 1_000:,.2f} kg" if grams >= 1_000 else f"{grams:,.3f} g"


def time_column(heading: str, key: str) -> Column:
    """A duration; nothing for 0."""
    return Column(heading, lambda row: show_seconds(value) if isinstance(value := row.get(key), int) and value else "")


def energy_column() -> Column:
    """What is known, and ``+ ?`` where that is not all."""

    def show(row: Row) -> str:
        value = row["energy_uj"]
        if value is None and not row["gpu_ns"]:
            return ""
        shown = show_joules(value if isinstance(value, int) else None)
        return f"{shown} + ?" if value is not None and row["energy_unknown_gpu_ns"] else shown

    return Column("energy", show)


def cost_column() -> Column:
    """Whole cents, and ``+ ?`` where that is not all."""

    def show(row: Row) -> str:
        value = row["cost_cents"]
        if value is None and not row["gpu_ns"]:
            return ""
        shown = shown_cents(value, row["currency"])
        return f"{shown} + ?" if value is not None and row.get("cost_unknown_gpu_ns") else shown

    return Column("cost", show)


def _carbon(carbon: Carbon) -> list[Column]:
    if carbon.grams_per_kwh is None:
        return []

    def show(row: Row) -> str:
        shown = shown_carbon(row["carbon_ug"])
        return f"{shown} + ?" if row["carbon_ug"] is not None and row["energy_unknown_gpu_ns"] else shown

    return [Column("CO2e", show)]


def _tokens() -> list[Column]:
    return [
        count("requests", "requests"),
        count("input tok", "input_tokens"),
        count("cached", "cached_tokens"),
        count("output tok", "output_tokens"),
    ]


def charge_columns(carbon: Carbon) -> list[Column]:
    """Of charges and tenants."""
    return [
        text("", "what"),
        *_tokens(),
        time_column("GPU time", "gpu_ns"),
        energy_column(),
        *_carbon(carbon),
        cost_column(),
    ]


def model_columns(carbon: Carbon) -> list[Column]:
    """Of usage by model."""
    return [*_usage_columns([text("model", "model")], carbon), Column("per million total tokens", _per_million)]


def day_columns(carbon: Carbon) -> list[Column]:
    """Of usage by day and model."""
    return _usage_columns([text("day", "day"), text("model", "model")], carbon)


def _usage_columns(names: list[Column], carbon: Carbon) -> list[Column]:
    return [
        *names,
        *_tokens(),
        time_column("GPU time", "gpu_ns"),
        time_column("wasted", "wasted_ns"),
        energy_column(),
        *_carbon(carbon),
        cost_column(),
    ]


def share_columns() -> list[Column]:
    """Of shares of idle and overhead."""
    ratio = [Column("share", lambda row: str(row["ratio"])), text("measured in", "basis")]
    return [text("", "what"), *ratio, time_column("GPU time", "gpu_ns"), energy_column(), cost_column()]


def _per_million(row: Row) -> str:
    nano, tokens = row["cost_nano"], row["input_tokens"]
    output = row["output_tokens"]
    if not isinstance(nano, int) or not isinstance(tokens, int) or not isinstance(output, int):
        return "unknown"
    exact = None if row["cost_unknown_gpu_ns"] else per_million_tokens(nano, tokens + output)
    return "unknown" if exact is None else f"{exact:,.4f} {row['currency']}"
