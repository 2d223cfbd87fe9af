"""``costtrace carbon``: grams of CO2e, by the grid's intensity. An estimate, and labelled as one."""

from decimal import Decimal
from pathlib import Path

import click

from costtrace.cli.options import examples, format_option, home_option, name_period, out, period, period_options, zone
from costtrace.config.load import load
from costtrace.core.errors import CosttraceError
from costtrace.core.numbers import exact
from costtrace.ledger.dimensions import DIMENSIONS, TIME_DIMENSIONS
from costtrace.ledger.queries import used
from costtrace.ledger.reader import Filter, open_ledger
from costtrace.pricing.carbon_file import load_intensity
from costtrace.reports.evidence.carbon import carbon_table
from costtrace.reports.output.render import render

_BY = tuple(name for name in DIMENSIONS if name not in TIME_DIMENSIONS)


@click.command(
    short_help="Estimate the CO2e of the energy that was used.",
    epilog=examples(
        "costtrace carbon --intensity 380 --since 7d",
        "costtrace carbon --intensity grid-2026.csv --pue 1.2 --by tenant --since 2026-11-01 --until 2026-12-01",
    ),
)
@click.option(
    "--intensity",
    metavar="G/KWH|FILE",
    help="Of the grid: a number of g/kWh, or a CSV file with the columns time,g_per_kwh (each holds until the next).  "
    "[default: the setting `carbon_intensity`]",
)
@click.option(
    "--pue", help="Energy that the facility draws for each joule of a device.  [default: the setting `carbon_pue`]"
)
@click.option("--by", default="tenant,model", show_default=True, help=f"One line for each of these: {', '.join(_BY)}.")
@click.option("--tenant", help="Only this tenant's requests.")
@click.option("--model", help="Only this model.")
@period_options
@format_option
@home_option
def carbon(
    *,
    intensity: str | None,
    pue: str | None,
    by: str,
    tenant: str | None,
    model: str | None,
    since: str | None,
    until: str | None,
    tz: str,
    form: str,
    home: Path,
) -> None:
    """Estimate the CO2e of the energy that tenants and models used, in grams.

    Energy is taken by the quarter hour in which it was drawn. Where it was not measured its carbon is unknown, not 0.
    """
    names = tuple(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    if unknown := [name for name in names if name not in _BY]:
        raise CosttraceError(f"there is no dimension {unknown[0]!r} here: --by takes {', '.join(_BY)}")
    settings = load()
    words = intensity or settings.carbon_intensity
    if not words:
        raise CosttraceError("give the grid's intensity: --intensity 380 (g/kWh), or set COSTTRACE_CARBON_INTENSITY")
    grid = load_intensity(words, settings.carbon_pue if pue is None else _pue(pue))
    where = zone(tz)
    with open_ledger(home) as store:
        which = period(store, since, until, where)
        rows = used(store, which, (*names, "hour"), Filter(tenant, model, None))
        table = carbon_table(names, rows, grid, f"Energy and its carbon, {name_period(which, where)}")
    out(render([table], form))


def _pue(text: str) -> Decimal:
    value = exact(text)
    if value is None or not 1 <= value <= 5:
        raise CosttraceError(f"--pue {text}: must be a number from 1 to 5, as in --pue 1.25")
    return value
