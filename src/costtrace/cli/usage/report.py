"""``costtrace report``: usage and cost over a period."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from costtrace.cli.options import (
    examples,
    format_option,
    name_period,
    open_store,
    out,
    period,
    period_options,
    store_option,
    zone,
)
from costtrace.config.load import load
from costtrace.core.errors import CosttraceError, PriceBookError
from costtrace.core.units import show_seconds
from costtrace.ledger.answers import Period
from costtrace.ledger.dimensions import DIMENSIONS, FREE, LABEL_PREFIX, is_label
from costtrace.ledger.queries import ended, used
from costtrace.ledger.reader import Filter, SqliteStore, Store
from costtrace.pricing.list_prices import cuts
from costtrace.pricing.price_book_file import load_price_book
from costtrace.reports.evidence.energy_query import pending_ns
from costtrace.reports.output.render import clean, render
from costtrace.reports.output.tables import AnyTable
from costtrace.reports.usage.folding import OTHER, Keys, folding, largest
from costtrace.reports.usage.margin import margin_table, price
from costtrace.reports.usage.organisation_file import LEVELS, Tenant, load_tenants
from costtrace.reports.usage.summary import summarize
from costtrace.reports.usage.summary_tables import summary_tables


@click.command(
    short_help="What each tenant and model used and cost.",
    epilog=examples(
        "costtrace report --since today",
        "costtrace report --by tenant,day --since 7d --tz Europe/Berlin",
        "costtrace report --by model,hour --tenant acme --since 2026-11-01 --until 2026-12-01",
        "costtrace report --by tenant,workload --since 7d      by a label of the requests",
        "costtrace report --since yesterday --until today --format csv > yesterday.csv",
    ),
)
@click.option(
    "--by",
    default="tenant,model",
    show_default=True,
    help=f"One line for each of these, with commas between: {', '.join((*DIMENSIONS, *LEVELS))}, {LABEL_PREFIX}NAME.",
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help=f"Users and values of a label that are shown by name; the others are together in {OTHER}.",
)
@click.option("--tenant", help="Only this tenant's requests.")
@click.option("--model", help="Only this model.")
@click.option("--engine", help="Only this engine.")
@click.option(
    "--price-book",
    type=click.Path(path_type=Path),
    help="List prices of tokens: shows cost, price and margin.  [default: the setting `prices`]",
)
@period_options
@format_option
@store_option
def report(
    *,
    by: str,
    most: int,
    tenant: str | None,
    model: str | None,
    engine: str | None,
    since: str | None,
    until: str | None,
    tz: str,
    form: str,
    home: Path,
    price_book: Path | None,
) -> None:
    """Say what each tenant and model used and cost: requests, tokens, GPU time, energy, money.

    Idle, overhead and unobserved time have lines of their own, so that the total is all that the devices delivered.
    Cost per million tokens is shown on each token basis (total, input, output), and says whether idle is included.
    """
    names = _names(by)
    where = zone(tz)
    with open_store(home) as store:
        which = period(store, since, until, where)
        only = Filter(tenant, model, engine)
        margins = _margins(store, which, only, price_book, name_period(which, where))
        asked = tuple("tenant" if name in LEVELS else name for name in names)
        fold, place = _fold(store, which, only, names, most), _places(names)
        summary = summarize(
            names,
            (row._replace(keys=place(fold(row.keys))) for row in used(store, which, asked, only)),
            (row._replace(keys=place(fold(row.keys))) for row in ended(store, which, asked, only)),
            where,
        )
        waits_ns = pending_ns(store, which) if isinstance(store, SqliteStore) else 0
    if form == "table" and waits_ns:
        out(
            f"PENDING: {show_seconds(waits_ns)} of device time is on no row yet: the energy of devices on other nodes "
            "has not arrived (`costtrace energy`)\n\n"
        )
    if form == "table" and not summary.lines and not summary.rest:
        out(f"nothing was used {name_period(which, where)}\n")
        return
    out(render([*summary_tables(summary, name_period(which, where)), *margins], form))


def _margins(store: Store, which: Period, only: Filter, price_book: Path | None, when: str) -> list[AnyTable]:
    """Cost, price and margin of tenants and models, where there is a book with list prices."""
    path = price_book or load().prices
    if path is None:
        return []
    try:
        book = load_price_book(path)
    except PriceBookError as error:
        if price_book is not None:
            raise
        click.echo(f"costtrace: no list prices are shown: {clean(str(error))}", err=True)
        return []
    if not book.models:
        if price_book is not None:
            raise CosttraceError(f"{path} has no list prices: add entries under `models`")
        return []
    by = ("tenant", "model")
    pieces = [
        (partial(book.list_price, wall_ns=since_ns), ended(store, Period(since_ns, until_ns), by, only))
        for since_ns, until_ns in cuts(book.models, *which)
    ]
    sold = price(pieces, used(store, which, by, only), book.currency)
    return [margin_table(sold, book.currency, book.name, when)]


def _fold(store: Store, which: Period, only: Filter, names: Sequence[str], most: int) -> Callable[[Keys], Keys]:
    """A function that folds users and labels beyond the *most* largest of each."""
    free = [name for name in names if name in FREE or is_label(name)]
    return folding(names, {name: largest(used(store, which, (name,), only), most) for name in free})


def _places(names: tuple[str, ...]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """A function that turns tenants into their organisation, team, ... where that is asked for."""
    levels = {place: name for place, name in enumerate(names) if name in LEVELS}
    if not levels:
        return lambda keys: keys
    path = load().tenants
    if path is None:
        raise CosttraceError(f"--by {', '.join(levels.values())} needs a tenants file: set COSTTRACE_TENANTS")
    known = load_tenants(path)

    def placed(keys: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            str(getattr(known.get(key, Tenant(key)), levels[place])) if place in levels else key
            for place, key in enumerate(keys)
        )

    return placed


def _names(by: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    for name in names:
        if name not in DIMENSIONS and name not in LEVELS and not is_label(name):
            known = ", ".join((*DIMENSIONS, *LEVELS, f"{LABEL_PREFIX}NAME"))
            raise CosttraceError(f"there is no dimension {name!r}: --by takes {known}, with commas between")
    return names
