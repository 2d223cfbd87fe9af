"""How two editions of a price book differ, and whether the new one changes history. Pure.

A book only grows at its end: an entry that holds already may get an end in the future, and nothing else may change.
Charges keep the prices of the edition that they were made by; `costtrace rerate` changes history on purpose.
"""

from collections.abc import Sequence
from typing import NamedTuple

from costtrace.pricing.list_prices import ListPrice
from costtrace.pricing.price_book import DevicePrice, ElectricityPrice, ExchangeRate, PriceBook, show_time

Entry = DevicePrice | ElectricityPrice | ListPrice | ExchangeRate
_TIMES = {"from_ns", "until_ns"}


class Change(NamedTuple):
    """One entry that differs."""

    what: str
    """``added``, ``removed`` or ``changed``."""
    entry: str
    details: str
    history: bool
    """By this edition, the time before now would have cost something else."""


def diff(old: PriceBook, new: PriceBook, now_ns: int) -> list[Change]:
    """All differences; those that change history first."""
    changes: list[Change] = []
    for field in ("currency", "tier"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            changes.append(Change("changed", field, f"{before or 'none'} -> {after or 'none'}", history=True))
    pairs: list[tuple[Sequence[Entry], Sequence[Entry]]] = [
        (old.devices, new.devices),
        (old.electricity, new.electricity),
        (old.models, new.models),
        (old.exchange, new.exchange),
    ]
    for before_entries, after_entries in pairs:
        changes += _compare(before_entries, after_entries, now_ns)
    return sorted(changes, key=lambda change: not change.history)


def _compare(old: Sequence[Entry], new: Sequence[Entry], now_ns: int) -> list[Change]:
    before, after = {_key(entry): entry for entry in old}, {_key(entry): entry for entry in new}
    changes = []
    for key in [*before, *(key for key in after if key not in before)]:
        one, other = before.get(key), after.get(key)
        if one is None and other is not None:
            changes.append(Change("added", other.name, _summary(other), history=other.from_ns < now_ns))
        elif one is not None and other is None:
            changes.append(Change("removed", one.name, _summary(one), history=one.from_ns < now_ns))
        elif one is not None and other is not None and one != other:
            fields = [name for name in one._fields if getattr(one, name) != getattr(other, name)]
            details = ", ".join(_difference(one, other, name) for name in fields)
            changes.append(Change("changed", one.name, details, history=_changes_history(one, other, fields, now_ns)))
    return changes


def _changes_history(one: Entry, other: Entry, fields: list[str], now_ns: int) -> bool:
    if one.from_ns >= now_ns:
        return False
    if set(fields) - {"until_ns", "source"}:
        return True
    if "until_ns" not in fields:
        return False
    ends = [entry.until_ns for entry in (one, other) if entry.until_ns is not None]
    return min(ends) < now_ns


def _key(entry: Entry) -> tuple[object, ...]:
    scope = tuple(getattr(entry, name, "") for name in ("match", "kind", "tier", "pool", "region"))
    when = getattr(entry, "when", None)
    currency = entry.currency if isinstance(entry, ExchangeRate) else ""
    return (type(entry).__name__, *scope, when.name if when else "", currency, entry.from_ns)


def _show(entry: Entry, name: str) -> str:
    value = getattr(entry, name)
    if name in _TIMES:
        return f"{name.removesuffix('_ns')} {'open' if value is None else show_time(value)}"
    if name == "terms":
        return f"terms {'none' if value is None else type(value).__name__.lower()}"
    return f"{name} {'none' if value in {None, ''} else value}"


def _difference(one: Entry, other: Entry, name: str) -> str:
    before, after = getattr(one, name), getattr(other, name)
    if name != "terms" or type(before) is not type(after):
        return f"{_show(one, name)} -> {_show(other, name).partition(' ')[2]}"
    pairs = zip(before._fields, before, after, strict=True)
    return ", ".join(f"{field} {was} -> {now}" for field, was, now in pairs if was != now)


def _summary(entry: Entry) -> str:
    skipped = {"match", "kind", "tier", "pool", "region", "when", "terms", "source", "from_ns"}
    return ", ".join(
        _show(entry, name) for name in entry._fields if name not in skipped and getattr(entry, name) not in {None, ""}
    )
