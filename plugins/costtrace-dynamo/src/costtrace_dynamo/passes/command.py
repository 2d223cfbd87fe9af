"""``costtrace dynamo``: what NVIDIA Dynamo's workers say of themselves, as a check of the bill or instead of one."""

from decimal import Decimal
from pathlib import Path

import click

from costtrace.cli.options import examples, format_option, home_option, out, period, period_options, zone
from costtrace.core.numbers import exact
from costtrace.ledger.reader import open_ledger
from costtrace.reports.output.render import render
from costtrace_dynamo.passes.busy_query import attributed_times
from costtrace_dynamo.passes.forward_passes import add_up, allocate
from costtrace_dynamo.passes.pass_tables import PER_MILLION, check_table, compare, estimate_tables
from costtrace_dynamo.passes.trace_files import read_passes, read_served

EXIT_RESIDUAL = 1
"""Exit status of a check that found a larger residual than is allowed."""


@click.group(short_help="Dynamo's forward-pass metrics: as a check of the bill, or an estimate where there is none.")
def dynamo() -> None:
    """Read what NVIDIA Dynamo's workers publish of each forward pass.

    Set DYN_FPM_TRACE=1, DYN_FPM_MODE=full and DYN_FPM_OUTPUT_PATH on the workers: each writes files of that name.
    """


_passes = click.option(
    "--passes",
    "files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="File of a worker's passes.",
)


@dynamo.command(
    short_help="Compare the attributed busy time of each worker with its forward passes.",
    epilog=examples(
        "costtrace dynamo check $(printf -- '--passes %s ' /var/log/dynamo/fpm.*.jsonl.gz)",
        "costtrace dynamo check --passes fpm.1.000000.jsonl.gz --at-most 5",
    ),
)
@_passes
@click.option(
    "--at-most",
    type=click.FloatRange(0),
    metavar="PERCENT",
    help="End with 1 where a worker's residual is larger, or one of both does not know it.",
)
@period_options
@format_option
@home_option
def check(
    *,
    files: tuple[Path, ...],
    at_most: float | None,
    since: str | None,
    until: str | None,
    tz: str,
    form: str,
    home: Path,
) -> int:
    """Show, for each worker, what was attributed, what its forward passes took, and the residual.

    Passes count in the period in which they were observed, attributed time in windows that begin in it.
    """
    trace = read_passes(files)
    with open_ledger(home) as store:
        asked = period(store, since, until, zone(tz))
        attributed = attributed_times(store, asked)
    passes = trace.records
    if since is not None or until is not None:
        passes = [each for each in passes if asked.since_ns <= each.ended_ns < asked.until_ns]
    checks = compare(attributed, add_up(passes))
    out(render([check_table(checks)], form))
    _report_damaged(trace.damaged)
    if at_most is None:
        return 0
    limit_ppm = round(at_most * PER_MILLION / 100)
    too_large = [check for check in checks if check.residual_ppm is None or abs(check.residual_ppm) > limit_ppm]
    return EXIT_RESIDUAL if too_large else 0


@dynamo.command(
    short_help="Estimate what each request used of workers that costtrace has no hooks in.",
    epilog=examples(
        "costtrace dynamo estimate --passes fpm.1.000000.jsonl.gz --requests requests.jsonl --per-hour 2.50",
    ),
)
@_passes
@click.option(
    "--requests",
    "records",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="File of the frontend's request records (DYN_REQUEST_TRACE=1, sink `file`).",
)
@click.option("--per-hour", metavar="AMOUNT", help="Price of a worker's hour.  [default: costs are unknown]")
@click.option("--currency", default="USD", show_default=True, help="Currency of the price.")
@format_option
def estimate(
    *, files: tuple[Path, ...], records: tuple[Path, ...], per_hour: str | None, currency: str, form: str
) -> None:
    """Split each worker's forward passes over the requests that the frontend's records place in them.

    All that is shown is labelled as estimated, and adds up to the passes. Nothing is booked.
    """
    passes, served = read_passes(files), read_served(records)
    allocation = allocate(passes.records, served.records)
    out(render(estimate_tables(allocation, _price(per_hour), currency), form))
    _report_damaged(passes.damaged + served.damaged)


def _price(text: str | None) -> Decimal | None:
    if text is None:
        return None
    price = exact(text)
    if price is None or price < 0:
        raise click.BadParameter(f"{text!r} is no price", param_hint="--per-hour")
    return price


def _report_damaged(lines: int) -> None:
    if lines:
        click.echo(f"{lines:,} lines could not be read and are left out", err=True)
