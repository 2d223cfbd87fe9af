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

    Requests are compared within strata of alike size, cache hit, batch and device, weighed with the tokens of both
    sides. The 95 % interval is a jackknife over hours. Device time has no price in it; cost also moves with prices.
    What else changed on that day, no arithmetic can tell apart.
    """
    if (at is None) == (old is None and new is None) or (old is None) != (new is None):
        raise CosttraceError("say either --at MOMENT, or --before VERSION and --after VERSION")
    where = zone(tz)
    with open_ledger(home) as store:
        which = period(store, since, until, where)
        only = Filter(model=model)
        if at is None:
            found = list(blocks(store, which, only))
            sides = [_of_version(found, version) for version in (old or "", new or "")]
            names = (old or "", new or "")
        else:
            cut_ns = parse(at, which.until_ns, where)
            sides = [
                list(blocks(store, one, only))
                for one in (Period(which.since_ns, cut_ns), Period(cut_ns, which.until_ns))
            ]
            shown = show_time(cut_ns, where)[:16]
            names = (f"before {shown}", f"from {shown} on")
        result = compare(sides[0], sides[1], basis, *names)
        versions = [sorted({block.version for block in side}) for side in sides]
    out(render([_table(result), _facts(result, versions)], form))


def _of_version(found: Iterable[Block], version: str) -> list[Block]:
    everything = list(found)
    kept = [block for block in everything if block.version == version]
    if not kept:
        known = ", ".join(sorted({block.version for block in everything}))
        raise CosttraceError(f"no request in this period was served by {version!r}; there are: {known or 'none'}")
    return kept


def _table(found: Improvement) -> Table:
    estimates = [(f"device-seconds per million {found.basis} tokens", found.gpu_time)]
    if found.cost is not None:
        estimates.append((f"cost per million {found.basis} tokens, without idle", found.cost))
    rows = [_row(name, one, found.basis) for name, one in estimates]
    columns: tuple[Column, ...] = (
        text("what", "what"),
        Column(found.before_name, lambda row: f"{row['before']:.4f}"),
        Column(found.after_name, lambda row: f"{row['after']:.4f}"),
        Column("after / before", lambda row: f"{row['ratio']:.3f}"),
        Column("95 % interval", lambda row: f"{row['low']:.3f} to {row['high']:.3f}"),
        Column(
            "times cheaper",
            lambda row: f"{row['times_cheaper']:.2f} ({row['times_low']:.2f} to {row['times_high']:.2f})",
        ),
        text("verdict", "verdict"),
    )
    return row_table("improvement", "Before and after, mix-adjusted", columns, rows)


def _times(row: Row) -> str:
    return f"{row['times_cheaper']:.2f} ({row['times_low']:.2f} to {row['times_high']:.2f})"


def _row(name: str, one: Estimate, basis: str) -> Row:
    verdict = "cheaper" if one.high < 1 else "dearer" if one.low > 1 else "no difference that these data can show"
    return {
        "what": name,
        "token_basis": basis,
        "before": _decimal(one.before),
        "after": _decimal(one.after),
        "ratio": _decimal(one.ratio),
        "low": _decimal(one.low),
        "high": _decimal(one.high),
        "times_cheaper": _decimal(1 / one.ratio),
        "times_low": _decimal(1 / one.high),
        "times_high": _decimal(1 / one.low),
        "verdict": verdict,
    }


def _decimal(value: float) -> Decimal:
    return Decimal(f"{value:.6f}")


def _facts(found: Improvement, versions: Sequence[Sequence[str]]) -> Table:
    rows: list[Row] = [
        {"what": "engine versions", "before": ", ".join(versions[0]), "after": ", ".join(versions[1])},
        {"what": "hours with requests", "before": str(found.hours[0]), "after": str(found.hours[1])},
        {"what": "requests in common strata", "before": f"{found.requests[0]:,}", "after": f"{found.requests[1]:,}"},
    ]
    notes = (
        f"{found.strata} strata are on both sides: {100 * found.covered:.1f} % of all {found.basis} tokens.",
        f"Without adjusting for mix and batch the ratio of device time would be {found.raw_ratio:.3f}.",
    )
    columns = (text("what", "what"), text("before", "before"), text("after", "after"))
    return row_table("basis", "What this stands on", columns, rows, notes)
