"""Base units, exact conversions, and figures for people.

One base unit for each quantity, an integer, with the unit in the name:

    time    nanoseconds      ``*_ns``
    energy  microjoules      ``*_uj``
    power   milliwatts       ``*_mw``
    money   nano-units of a currency (1 USD = 10**9)   ``*_nano``

Floats appear only where a figure leaves costtrace (an OTLP attribute, a printed table).
"""

from decimal import Decimal

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
NS_PER_HOUR = 3_600 * NS_PER_S
UJ_PER_J = 1_000_000
UJ_PER_KWH = 3_600_000 * UJ_PER_J
NANO_PER_UNIT = 1_000_000_000
TOKENS_PER_MILLION = 1_000_000


def seconds(ns: int) -> float:
    """Seconds of a duration in nanoseconds."""
    return ns / NS_PER_S


def joules(uj: int) -> float:
    """Joules of an energy in microjoules."""
    return uj / UJ_PER_J


def amount(nano: int) -> Decimal:
    """An amount in nano-units as currency units, exact."""
    return Decimal(nano).scaleb(-9)


def per_million_tokens(nano: int, tokens: int) -> Decimal | None:
    """Currency units per million tokens; None where there are no tokens to divide by."""
    if tokens == 0:
        return None
    return Decimal(nano).scaleb(-9) * TOKENS_PER_MILLION / Decimal(tokens)


def show_seconds(ns: int) -> str:
    """A duration for people: ``950 us``, ``12.3 ms``, ``4.56 s``, ``2.50 h``."""
    size = abs(ns)
    if size < NS_PER_MS:
        return f"{ns / 1_000:.0f} us"
    if size < NS_PER_S:
        return f"{ns / NS_PER_MS:.1f} ms"
    if size < NS_PER_HOUR:
        return f"{ns / NS_PER_S:.2f} s"
    return f"{ns / NS_PER_HOUR:.2f} h"


def show_joules(uj: int | None, *, simulated: bool = False, unknown_ns: int = 0) -> str:
    """An energy for people; ``unknown`` where it was not measured (None is not 0), ``+ ?`` where a part was not."""
    if uj is None:
        return "unknown"
    label = (" SIMULATED" if simulated else "") + (" + ?" if unknown_ns else "")
    if abs(uj) < 1_000 * UJ_PER_J:
        return f"{uj / UJ_PER_J:.3f} J{label}"
    if abs(uj) < UJ_PER_KWH // 10:
        return f"{uj / UJ_PER_J / 1_000:.2f} kJ{label}"
    return f"{uj / UJ_PER_KWH:.3f} kWh{label}"


def show_amount(nano: int | None, currency: str | None) -> str:
    """Money for people: two decimal places from 1 on, two to nine below; ``unknown`` where no price applies."""
    if nano is None or currency is None:
        return "unknown"
    value = amount(nano)
    shown = f"{value:.2f}" if abs(value) >= 1 else f"{value:.9f}".rstrip("0").ljust(4, "0").rstrip(".")
    return f"{shown} {currency}"
