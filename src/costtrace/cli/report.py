"""``costtrace report``: usage and cost over a period."""

from pathlib import Path

import click

from costtrace.cli.common import (
    examples,
    format_option,
    name_period,
    open_books,
    out,
    period,
    period_options,
    store_option,
    zone,
)
from costtrace.errors import CosttraceError
from costtrace.ledger.query import DIMENSIONS, Filter, ended, used
from costtrace.reports.render import render
from costtrace.reports.summary import summarize
from costtrace.reports.summary_tables import summary_tables


@click.command(
    short_help="What each tenant and model used and cost.",
    epilog=examples(
        "costtrace report --since today",
        "costtrace report --by tenant,day --since 7d --tz Europe/Berlin",
        "costtrace report --by model,hour --tenant acme --since 2026-11-01 --until 2026-12-01",
        "costtrace report --since yesterday --until today --format csv > yesterday.csv",
    ),
)
@click.option(
    "--by",
    default="tenant,model",
    show_default=True,
    help=f"One line for each of these, with commas between: {', '.join(DIMENSIONS)}.",
)
@click.option("--tenant", help="Only this tenant's requests.")
@click.option("--model", help="Only this model.")
@click.option("--engine", help="Only this engine.")
@period_options
@format_option
@store_option
def report(
    *,
    by: str,
    tenant: str | None,
    model: str | None,
    engine: str | None,
    since: str | None,
    until: str | None,
    tz: str,
    form: str,
    home: Path,
) -> None:
    """Say what each tenant and model used and cost: requests, tokens, GPU time, energy, money.

    Idle, overhead and unobserved time stand on lines of their own, so that the total is all that the devices gave. Cost
    per million tokens is shown on each token basis (total, input, output), and says whether idle is in it.
    """
    names = _names(by)
    where = zone(tz)
    with open_books(home) as store:
        which = period(store, since, until, where)
        only = Filter(tenant, model, engine)
        summary = summarize(names, used(store, which, names, only), ended(store, which, names, only), where)
    if form == "table" and not summary.lines and not summary.rest:
        out(f"nothing was used {name_period(which, where)}\n")
        return
    out(render(summary_tables(summary, name_period(which, where)), form))


def _names(by: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    for name in names:
        if name not in DIMENSIONS:
            raise CosttraceError(
                f"there is no dimension {name!r}: --by takes {', '.join(DIMENSIONS)}, with commas between"
            )
    return names
