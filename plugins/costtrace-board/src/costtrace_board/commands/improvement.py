"""``costtrace improvement``: cost per token before and after a release, mix-adjusted, with a confidence interval."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

import click

from costtrace.cli.options import examples, format_option, home_option, out, period, period_options, zone
from costtrace.cli.time_words import parse
from costtrace.core.errors import CosttraceError
from costtrace.core.wall_time import show_time
from costtrace.ledger.answers import Period
from costtrace.ledger.reader import Filter, open_ledger
from costtrace.reports.output.render import render
from costtrace.reports.output.row_tables import Column, Table, row_table, text
from costtrace.reports.output.tables import Row
from costtrace_board.figures import BASES
from costtrace_board.improvement import Block, Estimate, Improvement, compare
from costtrace_board.query import blocks


@click.command(
    short_help="Cost per token before and after a release, with a confidence interval.",
    epilog=examples(
        "costtrace improvement --at 2026-11-15 --model gpt-oss-120b",
        "costtrace improvement --before 'vllm 0.28.0' --after 'vllm 0.32.0'",
    ),
)
@click.option("--at", help="Compare what ended before this moment with what ended after it; as --since.")
@click.option("--before", "old", help="Or compare engine versions, as the ledger names them: 'vllm 0.28.0'.")
@click.option("--after", "new", help="The newer version.")
@click.option("--model", help="Only this model.")
@click.option(
    "--basis", type=click.Choice(BASES), default="output", show_default=True, help="Which tokens are counted."
)
@period_options
@format_option
@home_option
def improvement(
    *,
    at: str | None,
    old: str | None,
    new: str | None,
    model: str | None,
    basis: str,
    since: str | None,
    until: str | None,
    tz: str,
    form: str,
    home: Path,
) -> None:
    """Compare device time and cost per token before and after a release, like with like.

    Requests are compared within strata of alike size, cache hit, batch and device, weighted by the tokens of both
    sides. The 95 % interval is a jackknife over hours. Device time has no price in it; cost also moves with prices.
    If something else changed on that day, no arithmetic can separate the two.
    """
    if (at is None) == (old is None and new is None) or (old is None) != (new is None):
        raise CosttraceError("say either --at MOMENT, or --before VERSION and --after VERSION")
    time_zone = zone(tz)
    with open_ledger(home) as store:
        span = period(store, since, until, time_zone)
        only = Filter(model=model)
        if at is None:
            all_blocks = list(blocks(store, span, only))
            sides = [_of_version(all_blocks, version) for version in (old or "", new or "")]
            names = (old or "", new or "")
        else:
            cut_ns = parse(at, span.until_ns, time_zone)
            sides = [
                list(blocks(store, half, only))
                for half in (Period(span.since_ns, cut_ns), Period(cut_ns, span.until_ns))
            ]
            cut_text = show_time(cut_ns, time_zone)[:16]
            names = (f"before {cut_text}", f"from {cut_text} on")
        result = compare(sides[0], sides[1], basis, *names)
        versions = [sorted({block.version for block in side}) for side in sides]
    out(render([_estimates_table(result), _data_table(result, versions)], form))


def _of_version(blocks: Iterable[Block], version: str) -> list[Block]:
    everything = list(blocks)
    kept = [block for block in everything if block.version == version]
    if not kept:
        known = ", ".join(sorted({block.version for block in everything}))
        raise CosttraceError(f"no request in this period was served by {version!r}; there are: {known or 'none'}")
    return kept


def _estimates_table(comparison: Improvement) -> Table:
    estimates = [(f"device-seconds per million {comparison.basis} tokens", comparison.gpu_time)]
    if comparison.cost is not None:
        estimates.append((f"cost per million {comparison.basis} tokens, without idle", comparison.cost))
    rows = [_row(name, estimate, comparison.basis) for name, estimate in estimates]
    columns: tuple[Column, ...] = (
        text("what", "what"),
        Column(comparison.before_name, lambda row: f"{row['before']:.4f}"),
        Column(comparison.after_name, lambda row: f"{row['after']:.4f}"),
        Column("after / before", lambda row: f"{row['ratio']:.3f}"),
        Column("95 % interval", lambda row: f"{row['low']:.3f} to {row['high']:.3f}"),
        Column(
            "times cheaper",
            lambda row: f"{row['times_cheaper']:.2f} ({row['times_low']:.2f} to {row['times_high']:.2f})",
        ),
        text("verdict", "verdict"),
    )
    return row_table("improvement", "Before and after, mix-adjusted", columns, rows)


def _row(name: str, estimate: Estimate, basis: str) -> Row:
    # Programs read these three values.
    if estimate.high < 1:
        verdict = "cheaper"
    else:
        verdict = "dearer" if estimate.low > 1 else "no difference that these data can show"
    return {
        "what": name,
        "token_basis": basis,
        "before": _decimal(estimate.before),
        "after": _decimal(estimate.after),
        "ratio": _decimal(estimate.ratio),
        "low": _decimal(estimate.low),
        "high": _decimal(estimate.high),
        "times_cheaper": _decimal(1 / estimate.ratio),
        "times_low": _decimal(1 / estimate.high),
        "times_high": _decimal(1 / estimate.low),
        "verdict": verdict,
    }


def _decimal(value: float) -> Decimal:
    return Decimal(f"{value:.6f}")


def _data_table(result: Improvement, versions: Sequence[Sequence[str]]) -> Table:
    rows: list[Row] = [
        {"what": "engine versions", "before": ", ".join(versions[0]), "after": ", ".join(versions[1])},
        {"what": "hours with requests", "before": str(result.hours[0]), "after": str(result.hours[1])},
        {
            "what": "requests in common strata",
            "before": f"{result.requests[0]:,}",
            "after": f"{result.requests[1]:,}",
        },
    ]
    notes = (
        f"{result.strata} strata are on both sides: {100 * result.covered:.1f} % of all {result.basis} tokens.",
        f"Without adjusting for mix and batch the ratio of device time would be {result.raw_ratio:.3f}.",
    )
    columns: tuple[Column, ...] = (text("what", "what"), text("before", "before"), text("after", "after"))
    return row_table("basis", "Data behind the comparison", columns, rows, notes)
