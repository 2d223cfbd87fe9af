"""``costtrace top``: who spends what, live in a terminal."""

import os
import sys
import time
from importlib import import_module
from pathlib import Path

import click

from costtrace.cli.options import examples, home_option, out, zone
from costtrace.cli.time_words import stretch_ns
from costtrace.core.errors import CosttraceError
from costtrace.ledger.reader import open_ledger
from costtrace.reports.output.render import clean, render
from costtrace_ui.live.query import read_snapshot
from costtrace_ui.live.views import VIEWS, as_table, headlines

REQUESTS = {"table": 20, "json": 200}
"""How many of the most expensive requests `--once` prints."""


@click.command(
    short_help="Who spends what, live in a terminal.",
    epilog=examples(
        "costtrace top",
        "costtrace top --over 1h --every 10",
        "costtrace top --view running             begin with the requests that run",
        "costtrace top --once                     print it once, for a pipe or a log",
        "costtrace top --once --format json       exact integers, as the other commands",
    ),
)
@click.option("--over", default="5m", show_default=True, help="Rates are means over this stretch: 90s, 5m, 2h.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.2),
    default=2.0,
    show_default=True,
    help="Read the ledger every so many seconds.",
)
@click.option("--view", type=click.Choice([view.name for view in VIEWS]), default=VIEWS[0].name, show_default=True)
@click.option("--once", is_flag=True, help="Print all views and end.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="With --once.")
@click.option("--tz", default="UTC", show_default=True, help="Time zone of times.")
@home_option
def top(*, over: str, every: float, view: str, once: bool, form: str, tz: str, home: Path) -> None:
    """Show tenants, models, engines, devices and the most expensive requests, live, as the ledger has them.

    Cost per second, output tokens per second, joules per output token, batch and idle time of the last minutes.
    Keys: 1 to 6 or tab for the views, s and r to sort, / to filter, f to freeze, + and - for the period shown,
    enter for what is behind a row, e to explain its most expensive request, q to quit.

    The ledger is only read. It grows window by window: what the agent has not booked yet is not in the figures, and the
    first line says how old they are. A > before a cost says that more is unpriced, a ? that something is unknown.
    """
    over_ns, time_zone = stretch_ns(over), zone(tz)
    if once:
        with open_ledger(home) as store:
            snapshot = read_snapshot(store, over_ns, REQUESTS[form])
        if form == "table":
            out("\n".join(clean(line) for line in headlines(snapshot, time.time_ns(), time_zone)) + "\n\n")
        out(render([as_table(shown_view, snapshot) for shown_view in VIEWS], form))
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        raise CosttraceError("`costtrace top` needs a terminal; `costtrace top --once` prints the same to a pipe")
    import_module("costtrace_ui.top.screen").run(home, over_ns=over_ns, every_s=every, view=view, zone=time_zone)
