"""``costtrace focus``: the period as a FOCUS 1.4 file."""

import sys
from pathlib import Path

import click

from costtrace.cli.options import examples, open_store, out, store_option, zone
from costtrace.core.errors import CosttraceError
from costtrace.core.units import show_seconds
from costtrace.reports.output.files import write_file
from costtrace.reports.output.render import as_csv
from costtrace.reports.output.row_tables import row_table
from costtrace_statements.commands.billing_options import (
    EXIT_OFF,
    bill_options,
    billing_period,
    make_policy,
    policy_options,
    read_bills,
    settle_period,
    warn_if_empty,
)
from costtrace_statements.focus import VIEWS, Names, export, fields
from costtrace_statements.output.parquet import as_parquet


@click.command(
    short_help="Export a period as FOCUS 1.4 (allocation or service view).",
    epilog=examples(
        "costtrace focus --period 2026-11 > allocation.csv",
        "costtrace focus --period 2026-11 --view service --policy weighted --format parquet --out service.parquet",
        "costtrace focus --period 2026-11 --bill provider.csv --bill-where ServiceCategory=Compute",
    ),
)
@click.option("--period", "words", required=True, help="2026-11, 2026-11-23, 2026-Q4 or 2026.")
@click.option(
    "--view",
    type=click.Choice(VIEWS),
    default=VIEWS[0],
    show_default=True,
    help="allocation: GPU-hours, split to tenants and to nobody. service: tokens, as tenants get them.",
)
@click.option("--format", "form", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True)
@click.option("--out", "path", type=click.Path(path_type=Path, dir_okay=False), help="[default: standard output]")
@policy_options
@bill_options
@click.option("--provider", default=Names().provider, show_default=True, help="Who provides the service.")
@click.option("--account", default=Names().account, show_default=True, help="The billing account.")
@click.option("--tz", default="UTC", show_default=True, help="Time zone of the period.")
@store_option
def focus(
    *,
    words: str,
    view: str,
    form: str,
    path: Path | None,
    policy: str,
    share: str,
    quotas: Path | None,
    bill: tuple[Path, ...],
    bill_column: str,
    bill_where: tuple[str, ...],
    provider: str,
    account: str,
    tz: str,
    home: Path,
) -> int:
    """Write a period in FOCUS 1.4 form, dataset Cost and Usage. Both views hold the same money for each tenant.

    FOCUS has no unknown cost: what is not known is left out, and reported on standard error. Exits with 1 if the lines
    are not the ledger's total.
    """
    if form == "parquet" and path is None:
        raise CosttraceError("Parquet needs a file: --out FILE")
    where = zone(tz)
    period = billing_period(words, where)
    with open_store(home) as store:
        bills = read_bills(bill, period, bill_column, bill_where)
        settlement = settle_period(store, period, where, make_policy(policy, share, quotas), bills)
        warn_if_empty(store, settlement, words)
    exported = export(settlement, view, Names(provider, account))
    if form == "csv":
        content = as_csv(row_table("focus", "", [], exported.rows, fields=fields())).encode()
    else:
        content = as_parquet(exported.rows, fields())
    if path is None:
        out(content.decode())
    else:
        write_file(path.parent, path.name, content)
        out(f"{len(exported.rows)} rows in {path}\n")
    if exported.unknown_ns:
        sys.stderr.write(
            f"costtrace: the cost of {show_seconds(exported.unknown_ns)} of device time is not known in full; only "
            "what is known of it is in the file\n"
        )
    return EXIT_OFF if any(tie.off for tie in settlement.ties) else 0
