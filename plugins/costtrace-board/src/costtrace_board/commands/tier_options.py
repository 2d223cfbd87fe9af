"""The options ``--tier``, ``--book`` and ``--basis``: at which price of a GPU-hour a throughput becomes a cost."""

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from costtrace.core.errors import CosttraceError
from costtrace.core.numbers import exact
from costtrace.pricing.price_book import holds
from costtrace.pricing.price_book_file import load_price_book
from costtrace_board.figures import BASES, Tier, TierPrice
from costtrace_board.published import TIERS

Function = Callable[..., Any]


def tier_options(function: Function) -> Function:
    """A decorator that adds ``--tier``, ``--book`` and ``--basis`` to a command."""
    for option in (
        click.option(
            "--basis",
            type=click.Choice(BASES),
            default="output",
            show_default=True,
            help="Which tokens are counted. A figure that does not state them is refused.",
        ),
        click.option(
            "--book",
            type=click.Path(path_type=Path),
            help="Your price book: --tier is then one of its tiers (a book without tiers: any name).",
        ),
        click.option(
            "--tier",
            help=f"A published tier ({', '.join(TIERS)}), or a name with your price per GPU-hour: mine=2.10.",
        ),
    ):
        function = option(function)
    return function


def find_tier(name: str | None, book: Path | None) -> Tier | None:
    """The tier that ``--tier`` names; None without the option. Raises: CosttraceError."""
    if name is None:
        return None
    label, _, price = name.partition("=")
    if price:
        return Tier(label, "USD", (TierPrice("*", _price(name, price), "as given with --tier"),))
    if book is not None:
        return _tier_of_book(label, book)
    if label not in TIERS:
        raise CosttraceError(
            f"there is no published tier {label!r}: take {', '.join(TIERS)}, give a price ({label}=2.10, USD per "
            "GPU-hour), or name your price book with --book"
        )
    return TIERS[label]


def _tier_of_book(name: str, path: Path) -> Tier:
    book = load_price_book(path)
    now_ns = time.time_ns()
    entries = [entry for entry in book.devices if entry.tier in {"", name} and holds(entry, now_ns)]
    if not entries:
        tiers = sorted({entry.tier for entry in book.devices})
        raise CosttraceError(f"price book {path} has no tier {name!r} that holds today. It has: {', '.join(tiers)}.")
    prices = tuple(
        TierPrice(entry.match, entry.per_gpu_hour, f"price book {book.name}: {entry.name}") for entry in entries
    )
    return Tier(f"{name} of {book.name}", book.currency, prices)


def _price(name: str, price: str) -> Decimal:
    number = exact(price)
    if number is None or number <= 0:
        raise CosttraceError(f"--tier {name}: {price!r} is no price; write it as mine=2.10 (USD per GPU-hour)")
    return number
