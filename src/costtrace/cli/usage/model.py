"""``costtrace model``: by what proportions each engine's steps are shared, and how well that fits what was measured."""

from pathlib import Path

import click

from costtrace.cli.options import examples, format_option, home_option, out, zone
from costtrace.ledger.queries import fits
from costtrace.ledger.reader import open_ledger
from costtrace.reports.evidence.model import tables
from costtrace.reports.output.render import render


@click.command(
    short_help="How each engine's steps are shared, and how well the model fits.",
    epilog=examples("costtrace model", "costtrace model --engine vllm-8b-0001 --format json"),
)
@click.option("--engine", help="Only this engine.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many, newest first."
)
@click.option("--tz", default="UTC", show_default=True, help="Time zone of times.")
@format_option
@home_option
def model(*, engine: str | None, limit: int, tz: str, form: str, home: Path) -> None:
    """Show the step model of each engine: method, coefficients, error, coverage.

    The model sets the proportions between the requests of one step; the step's own time is measured.
    docs/method/paper.md, section 1, says what the coefficients mean.
    """
    where = zone(tz)
    with open_ledger(home) as store:
        models = fits(store, engine, limit)
    if not models and form == "table":
        out("no engine has been attributed yet\n")
        return
    out(render(tables(models, where), form))
