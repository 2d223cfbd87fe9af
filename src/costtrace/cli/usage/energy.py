"""``costtrace energy``: how each device's joules were obtained, and what of them is unknown or pending."""

from pathlib import Path

import click

from costtrace.cli.options import examples, format_option, home_option, name_period, out, period, period_options, zone
from costtrace.ledger.reader import open_ledger
from costtrace.reports.evidence.energy import energy_table
from costtrace.reports.evidence.energy_query import metered
from costtrace.reports.output.render import render


@click.command(
    short_help="How each device's energy was read: source, scope, gain, what is pending.",
    epilog=examples("costtrace energy --since today", "costtrace energy --format json"),
)
@period_options
@format_option
@home_option
def energy(*, since: str | None, until: str | None, tz: str, form: str, home: Path) -> None:
    """Say where the joules of each device are from, and which of them are estimated, unknown or pending.

    A line is an engine's device as it was read in one way: by which source, of what scope (the GPU, a whole module, a
    part of a board by rule), with which declared gain, by which node. docs/method/rules.md, section 7, explains them.
    """
    where = zone(tz)
    with open_ledger(home) as store:
        which = period(store, since, until, where)
        lines = list(metered(store, which))
    if not lines and form == "table":
        out(f"no device was metered {name_period(which, where)}\n")
        return
    out(render([energy_table(lines, name_period(which, where))], form))
