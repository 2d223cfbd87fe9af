"""``costtrace close``, ``rerate``, ``periods``: what finance does with the ledger."""

import time
from pathlib import Path

import click

from costtrace.cli.options import examples, format_option, home_option, out, period, zone
from costtrace.config.load import load
from costtrace.core.units import show_amount, show_seconds
from costtrace.core.wall_time import show_time
from costtrace.ledger.periods.close import close_period, closed_until, parse_period
from costtrace.ledger.periods.rerate import Rerated
from costtrace.ledger.periods.rerate import rerate as adjust
from costtrace.ledger.reader import SqliteStore, open_ledger
from costtrace.ledger.store import open_existing
from costtrace.ledger.verify.sealed_rows import seals
from costtrace.ledger.verify.seals import SealLine
from costtrace.pricing.price_book_file import load_price_book
from costtrace.reports.output.render import render
from costtrace.reports.output.tables import Column, Row, Table, text


@click.command(
    short_help="Close a period: from then on only adjustments.",
    epilog=examples(
        "costtrace close 2026-11                        November 2026, by UTC",
        "costtrace close 2026-11 --tz Europe/Berlin",
        "costtrace close 2026-11-23                     one day",
    ),
)
@click.argument("name", metavar="PERIOD")
@click.option("--tz", default="UTC", show_default=True, help="Time zone that the period is of.")
@click.option("--open-engines", is_flag=True, help="Close although engines may bring rows later.")
@home_option
def close(name: str, tz: str, home: Path, *, open_engines: bool) -> None:
    """Close PERIOD (a month, a day or a year): seal its rows into the hash chain.

    The ledger must be in balance, and the agent must have booked every engine to the end of the period. Afterwards the
    period's bill does not change: rows that come late and re-ratings are booked in the period that is open then.
    Keep the hash that is printed outside of this machine: `costtrace verify` shows it again if nothing was changed.
    """
    ledger = open_existing(home)
    try:
        seal = close_period(ledger, name, parse_period(name, zone(tz)), time.time_ns(), open_engines=open_engines)
    finally:
        ledger.close()
    out(f"{name} is closed: {show_time(seal.since_ns)} to {show_time(seal.until_ns)}\nhash {seal.hash}\n")


@click.command(
    short_help="New prices for old usage, as adjustments.",
    epilog=examples('costtrace rerate --price-book new.yaml --since 2026-11-15 --reason "contract 4711 corrected"'),
)
@click.option("--price-book", required=True, type=click.Path(path_type=Path), help="The price book to rate by.")
@click.option("--since", required=True, help="Begin: 2026-11-15, 2026-11-15T14:30, 2h, 7d, today, yesterday.")
@click.option("--until", help="End, not included: as --since.  [default: now]")
@click.option("--tz", default="UTC", show_default=True, help="Time zone of dates.")
@click.option("--reason", required=True, help="Why; it is kept in the ledger and shown on every statement.")
@home_option
def rerate(*, price_book: Path, since: str, until: str | None, tz: str, reason: str, home: Path) -> None:
    """Charge the usage of a period at the prices of another price book.

    Postings are not changed. Each one whose price differs gets an adjustment, which reverses the old charge and makes
    the new one. Adjustments of a closed period are booked in the open one. The agent rates new usage with its own
    book: set COSTTRACE_PRICES and restart the agent first.
    """
    if not reason.strip() or not reason.isprintable() or len(reason) > 500:
        raise click.UsageError("--reason must be a printable text of at most 500 characters")
    settings = load()
    book = load_price_book(price_book, settings.currency, settings.node_pool, settings.region)
    ledger = open_existing(home)
    try:
        which = period(SqliteStore(ledger), since, until, zone(tz))
        rerated = adjust(ledger, book, which, reason.strip(), time.time_ns())
    finally:
        ledger.close()
    out(_summary(rerated))


def _summary(rerated: Rerated) -> str:
    if not rerated.adjustments:
        return f"{rerated.postings:,} postings looked at: none has another price, nothing was adjusted\n"
    lines = [f"re-rating {rerated.run_id}: {rerated.adjustments:,} of {rerated.postings:,} postings adjusted"]
    for currency in sorted(rerated.before.keys() | rerated.after.keys()):
        before, after = rerated.before.get(currency, 0), rerated.after.get(currency, 0)
        shown = [show_amount(nano, currency) for nano in (before, after, after - before)]
        lines.append("  {} before, {} after, {} difference".format(*shown))
    for ns, when in ((rerated.before_unknown_ns, "was"), (rerated.after_unknown_ns, "is still")):
        if ns:
            lines.append(f"  the cost of {show_seconds(ns)} of device time {when} unknown")
    lines += [f"  {name} is closed: its adjustments are booked in the open period" for name in rerated.periods]
    return "\n".join(lines) + "\n"


@click.command(short_help="Which periods are closed.")
@format_option
@home_option
def periods(form: str, home: Path) -> None:
    """Show the chain of closed periods: when each was closed or compacted, and its hash."""
    with open_ledger(home) as store:
        chain = seals(store)
    title = f"Closed until {show_time(closed_until(chain))}" if chain else "No period is closed"
    out(render([Table("periods", title, _COLUMNS, chain, _exact)], form))


_COLUMNS: tuple[Column[SealLine], ...] = (
    text("period", lambda seal: seal.period),
    text("what", lambda seal: seal.kind),
    text("from", lambda seal: show_time(seal.since_ns)),
    text("until", lambda seal: show_time(seal.until_ns)),
    text("done", lambda seal: show_time(seal.at_ns)),
    text("hash", lambda seal: seal.hash),
)


def _exact(seal: SealLine) -> Row:
    return {
        "period": seal.period,
        "kind": seal.kind,
        "since": show_time(seal.since_ns),
        "until": show_time(seal.until_ns),
        "at": show_time(seal.at_ns),
        "hash": seal.hash,
    }
