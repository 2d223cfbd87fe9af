"""``--tier``, ``--book``: under whose price of a GPU-hour a throughput becomes a cost."""

import time
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click

from costtrace.core.errors import CosttraceError
from costtrace.pricing.price_book import holds
from costtrace.pricing.price_book_file import load_price_book
from costtrace_board.figures import BASES, Tier, TierPrice
from costtrace_board.published import TIERS

Function = Callable[..., Any]


def tier_options(function: Function) -> Function:
    """``--tier``, ``--book``, ``--basis``."""
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
    """The tier that was named; None where none was. Raises: CosttraceError."""
    if name is None:
        return None
    called, _, price = name.partition("=")
    if price:
        return Tier(called, "USD", (TierPrice("*", _price(name, price), "as given with --tier"),))
    if book is not None:
        return _of_book(called, book)
    if called not in TIERS:
        raise CosttraceError(
            f"there is no published tier {called!r}: take {', '.join(TIERS)}, give a price ({called}=2.10, USD per "
            "GPU-hour), or name your price book with --book"
        )
    return TIERS[called]


def _of_book(name: str, path: Path) -> Tier:
    book = load_price_book(path)
    now_ns = time.time_ns()
    entries = [entry for entry in book.devices if entry.tier in {"", name} and holds(entry, now_ns)]
    if not entries:
        tiers = sorted({entry.tier for entry in book.devices})
        raise CosttraceError(f"price book {path} has no tier {name!r} that holds today. It has: {', '.join(tiers)}.")
    prices = tuple(TierPrice(e.match, e.per_gpu_hour, f"price book {book.name}: {e.name}") for e in entries)
    return Tier(f"{name} of {book.name}", book.currency, prices)


def _price(name: str, price: str) -> Decimal:
    try:
        found = Decimal(price)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or found <= 0:
        raise CosttraceError(f"--tier {name}: {price!r} is no price; write it as mine=2.10 (USD per GPU-hour)")
    return found
