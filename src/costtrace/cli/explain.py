"""``costtrace explain``: why one request cost what it did."""

import sys
from pathlib import Path

import click

from costtrace.cli.common import examples, home_option, out, period, zone
from costtrace.errors import CosttraceError
from costtrace.ledger.query import Store, find_requests, fits, habits, open_ledger
from costtrace.ledger.renewed import renew
from costtrace.reports import explain as report
from costtrace.reports.render import render
from costtrace.reports.rows import Fit, Request
from costtrace.reports.why import usual

PEERS = 500_000
"""So many of the newest requests make the medians."""
PARTS = 20


@click.command(
    short_help="Why one request cost what it did.",
    epilog=examples(
        "costtrace explain chatcmpl-8f31c0",
        "costtrace explain chatcmpl-8f31c0 --since 7d      compare it with the requests of the last week only",
        "costtrace explain 4bf92f3577b34da6a3ce929d0e0e4736 --format json",
    ),
)
@click.argument("request")
@click.option("--since", help="Compare with requests that ended from then on: 2026-11-23, 2h, 7d.  [default: all]")
@click.option("--until", help="... and before then.  [default: now]")
@click.option("--tz", default="UTC", show_default=True, help="Time zone of dates.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@home_option
def explain(*, request: str, since: str | None, until: str | None, tz: str, form: str, home: Path) -> None:
    """Say in words and bars why REQUEST (its request id, record id, request key or trace id) cost what it did.

    Queue, prefill, decode, mean batch, what the prefix cache saved, head fees and wasted work stand against the median
    request of the same tenant and model. A request that several engines worked on is explained part by part.
    """
    with open_ledger(home) as store:
        found = renew(store, find_requests(store, request, PARTS))
        if not found:
            raise CosttraceError(f"no request {request!r} is in the ledger; it appears there when it has ended")
        which = period(store, since, until, zone(tz))
        peers = usual(habits(store, which, PEERS), [(part.tenant, part.model) for part in found])
        explained = [report.explain(part, peers, _fit(store, part)) for part in found]
    if form == "json":
        out(render([report.table(explained)], "json"))
        return
    bar = "#" if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8" else "\u2588"
    out("\n".join(report.as_text(explanation, bar) for explanation in explained))


def _fit(store: Store, part: Request) -> Fit | None:
    return next(iter(fits(store, part.engine_id, 1)), None)
