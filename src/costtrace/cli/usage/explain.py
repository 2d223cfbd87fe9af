"""``costtrace explain``: why one request cost what it did."""

import sys
from pathlib import Path

import click

from costtrace.cli.options import examples, home_option, out, period, zone
from costtrace.cli.usage.requests import PEERS, unknown_request
from costtrace.ledger.reader import open_ledger
from costtrace.reports.output.render import render
from costtrace.reports.requests import explain as report
from costtrace.reports.requests.explain_query import explained


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

    Queue, prefill, decode, mean batch, what the prefix cache saved, head fees and wasted work are compared with the
    median request of the same tenant and model. A request that several engines worked on is explained part by part.
    """
    with open_ledger(home) as store:
        explanations = explained(store, request, period(store, since, until, zone(tz)), PEERS)
    if not explanations:
        raise unknown_request(request)
    if form == "json":
        out(render([report.table(explanations)], "json"))
        return
    bar = "#" if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8" else "\u2588"
    out("\n".join(report.as_text(explanation, bar) for explanation in explanations))
