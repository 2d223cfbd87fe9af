"""Commands that keep the ledger small, and safe: `compact` and `backup`."""

import time
from pathlib import Path

import click

from costtrace.cli.options import examples, home_option, out
from costtrace.core.units import NS_PER_HOUR
from costtrace.ledger.backup import back_up
from costtrace.ledger.periods.compact import compact_period, compactable
from costtrace.ledger.reader import SqliteStore
from costtrace.ledger.store import LEDGER_NAME, Ledger, open_existing
from costtrace.ledger.verify.sealed_rows import seals


@click.command(
    short_help="Keep closed periods by the hour.",
    epilog=examples("costtrace compact --keep 90d          periods that ended more than 90 days ago"),
)
@click.option("--keep", default="90d", show_default=True, help="How long closed periods stay in full detail, in days.")
@home_option
def compact(keep: str, home: Path) -> None:
    """Turn old closed periods into rows of an hour. Every total stays, and `costtrace verify` checks them.

    Single requests of those periods can no longer be looked up, and their prices can no longer be adjusted: make a
    `costtrace backup` first if you may need them. The agent waits while it runs; nothing is lost.
    """
    days = keep.removesuffix("d")
    if not (days.isascii() and days.isdigit() and int(days) < 36_500):
        raise click.UsageError(f"--keep {keep}: write days, as in 90d")
    now_ns = time.time_ns()
    ledger = open_existing(home)
    try:
        closed = compactable(seals(SqliteStore(ledger)), now_ns - int(days) * 24 * NS_PER_HOUR)
        for seal in closed:
            compacted = compact_period(ledger, seal, now_ns)
            out(f"{seal.period} is compacted\nhash {compacted.hash}\n")
    finally:
        ledger.close()
    if not closed:
        out(f"no closed period in full detail ended more than {days} days ago\n")


@click.command(short_help="Copy the ledger while it is written.")
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE")
@home_option
def backup(target: Path, home: Path) -> None:
    """Copy the ledger to FILE, beside the running agent. The copy is whole, checked, and readable by its owner only.

    To use it, put it as ledger.sqlite into a directory of its own: `costtrace verify --home DIRECTORY`.
    """
    ledger = Ledger(home / LEDGER_NAME, read_only=True)
    try:
        size = back_up(ledger, target)
    finally:
        ledger.close()
    out(f"{target}: {size:,} bytes\n")
