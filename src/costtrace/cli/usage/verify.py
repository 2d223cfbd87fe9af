"""``costtrace verify``: the trial balance."""

import sys
import time
from collections import Counter
from itertools import chain as chain_from
from itertools import islice
from pathlib import Path

import click

from costtrace.cli.options import examples, format_option, open_store, out, store_option
from costtrace.core.events import SENSORS
from costtrace.ledger.reader import SqliteStore
from costtrace.ledger.store import DAMAGED
from costtrace.ledger.verify import Discrepancy
from costtrace.ledger.verify.audit import Audit
from costtrace.ledger.verify.sealed_rows import current_seals, seals
from costtrace.ledger.verify.seals import head_missing
from costtrace.reports.evidence.balance import balance_tables, discrepancy_table
from costtrace.reports.output.render import clean, render

EXIT_OFF = 1


@click.command(
    short_help="Prove that the rows add up.",
    epilog=examples(
        "costtrace verify                     the trial balance",
        "costtrace verify --format json       for a monitoring job",
        "costtrace verify && costtrace report --since yesterday --until today",
    ),
)
@store_option
@format_option
@click.option("--limit", default=20, show_default=True, help="Rows to name at most; all are counted.")
@click.option("--head", metavar="HASH", help="A hash that `costtrace close` printed: it must still be in the chain.")
def verify(home: Path, form: str, limit: int, head: str | None) -> int:
    """Prove that the rows add up: to the meter, to the requests, to the money. All with ==, on every row.

    Ends with 0 and "in balance", or with 1 and the rows that are off. It reads the ledger as it is at this moment and
    may run beside the agent.
    """
    began = time.monotonic()
    with open_store(home) as store:
        if isinstance(store, SqliteStore) and (first := _before_rows(store)):
            return _report_alone(first, form)
        audit = Audit(store)
        chain = seals(store)
        discrepancies = chain_from(head_missing(chain, head), audit.discrepancies())
        named = list(islice(discrepancies, limit))
        by_check = Counter(item.check for item in named)
        by_check.update(item.check for item in discrepancies)
        tables = balance_tables(audit, damaged=by_check["plausible"] > 0)
        counts = audit.counts()
    if form == "table":
        out(render([table for table in tables if table.lines], form))
        _report(named, by_check)
        out(
            f"{counts.postings:,} postings, {counts.meter_rows:,} meter rows, {counts.usage_records:,} usage records "
            f"of {counts.engines:,} engines checked in {time.monotonic() - began:.1f} s\n"
        )
        if chain:
            out(f"{len(current_seals(chain)):,} closed periods, the newest hash is {chain[-1].hash}\n")
    elif form == "json":
        out(render([discrepancy_table(named), *tables], form))
    else:
        out(render([discrepancy_table(named)], form))
    sys.stdout.flush()
    return EXIT_OFF if by_check else 0


def _before_rows(ledger: SqliteStore) -> list[Discrepancy]:
    """What makes a trial balance worth nothing: pages that cannot be read, or journals of which there is no row."""
    if damage := ledger.damage():
        return [Discrepancy("file", str(ledger.path), "pages", "whole", text, DAMAGED) for text in damage]
    journals = ledger.path.parent / "journal"
    if next(ledger.rows("SELECT 1 FROM engine LIMIT 1"), None) is not None or not journals.is_dir():
        return []
    waiting = sum(path.is_dir() and not path.name.startswith(f"{SENSORS}-") for path in journals.iterdir())
    meaning = (
        f"nothing has been booked, and {waiting} journals are there: no agent has read them, or none can. See "
        "`costtrace doctor`"
    )
    return [Discrepancy("journals", str(journals), "engines", str(waiting), "0", meaning)] if waiting else []


def _report_alone(named: list[Discrepancy], form: str) -> int:
    if form == "table":
        _report(named, Counter(item.check for item in named))
    else:
        out(render([discrepancy_table(named)], form))
    return EXIT_OFF


def _report(named: list[Discrepancy], by_check: Counter[str]) -> None:
    total = by_check.total()
    if not total:
        out("\nin balance\n")
        return
    out("\n")
    for item in named:
        out(f"{clean(item.row)}\n  {item.field}: expected {clean(item.expected)}, found {clean(item.found)}\n")
        out(f"  {item.meaning}\n")
    if total > len(named):
        out(f"... and {total - len(named):,} more (--limit {total} names them all)\n")
    checks = ", ".join(f"{count:,} in '{name}'" for name, count in by_check.items())
    out(f"\nNOT in balance: {total:,} discrepancies ({checks})\n")
