"""``costtrace statement``: what each tenant owes for a period, in forms that finance can book."""

import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import click

from costtrace.cli.options import examples, open_store, out, store_option, zone
from costtrace.core.errors import CosttraceError
from costtrace.core.numbers import exact
from costtrace.reports.output.files import write_file
from costtrace.reports.output.render import as_csv, as_json, as_text
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
from costtrace_statements.output.document import Document
from costtrace_statements.output.file_names import safe_name
from costtrace_statements.output.html import as_html
from costtrace_statements.output.parquet import as_parquet
from costtrace_statements.output.pdf import as_pdf
from costtrace_statements.settlement import Settlement, SettlementLine
from costtrace_statements.statement import Frame, fleet_document, frame, lines_table, tenant_document, tie_table
from costtrace_statements.statement_columns import Carbon

FORMATS = ("html", "pdf", "csv", "parquet", "json", "table")


@click.command(
    short_help="What each tenant owes for a period: HTML, PDF, CSV, Parquet, JSON.",
    epilog=examples(
        "costtrace statement --tenant acme --period 2026-11",
        "costtrace statement --all --period 2026-11 --out statements --format html,pdf,csv,parquet,json",
        "costtrace statement --all --period 2026-11 --policy weighted --out statements",
    ),
)
@click.option("--period", "words", required=True, help="2026-11, 2026-11-23, 2026-Q4 or 2026.")
@click.option("--tenant", help="The statement of this tenant.")
@click.option("--all", "everybody", is_flag=True, help="One statement for each tenant, and one of the fleet.")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the files.  [default: with --tenant and one text format, standard output]",
)
@click.option("--format", "forms", help=f"Any of {', '.join(FORMATS)}.  [default: table, with --out html,csv,json]")
@policy_options
@bill_options
@click.option("--carbon-intensity", metavar="G_PER_KWH", help="Declared grams of CO2e per kWh of electricity.")
@click.option("--carbon-source", default="declared, no source given", help="Where that figure is from.")
@click.option("--tz", default="UTC", show_default=True, help="Time zone of the period and its days.")
@store_option
def statement(
    *,
    words: str,
    tenant: str | None,
    everybody: bool,
    folder: Path | None,
    forms: str | None,
    policy: str,
    share: str,
    quotas: Path | None,
    bill: tuple[Path, ...],
    bill_column: str,
    bill_where: tuple[str, ...],
    carbon_intensity: str | None,
    carbon_source: str,
    tz: str,
    home: Path,
) -> int:
    """Write statements: usage, cost, energy and carbon by model and day, tied out to the fleet's total.

    Money is shown in the currency's smallest unit (cents, whole yen), and it adds up: lines to a statement, statements
    and what no tenant pays to the fleet. Files hold exact nano-units too. Ends with 1 where the lines are not the
    ledger's total.
    """
    if everybody == (tenant is not None):
        raise CosttraceError("say --tenant NAME or --all")
    chosen = _formats(forms, to_files=folder is not None)
    if folder is None and (len(chosen) > 1 or chosen[0] in {"pdf", "parquet"}):
        raise CosttraceError("several formats, PDF and Parquet need a folder: --out DIR")
    carbon = Carbon(_intensity(carbon_intensity), carbon_source)
    where = zone(tz)
    period = billing_period(words, where)
    with open_store(home) as store:
        bills = read_bills(bill, period, bill_column, bill_where)
        settlement = settle_period(store, period, where, make_policy(policy, share, quotas), bills)
        warn_if_empty(store, settlement, words)
    if tenant is not None and tenant not in settlement.tenants():
        known = ", ".join(settlement.tenants()) or "none"
        raise CosttraceError(f"tenant {tenant!r} used nothing and pays nothing in {words}. There are: {known}")
    if folder is None:
        lines = settlement.lines if tenant is None else settlement.of(tenant)
        out(_render(settlement, tenant, lines, chosen[0], carbon, frame(settlement)).decode())
    else:
        names = [tenant] if tenant is not None else [*settlement.by_tenant(), None]
        _write_all(settlement, names, chosen, words, folder, carbon)
    return _tie_out(settlement, shown=folder is not None)


def _write_all(
    settlement: Settlement, names: Sequence[str | None], forms: Sequence[str], words: str, folder: Path, carbon: Carbon
) -> None:
    by_tenant, around = settlement.by_tenant(), frame(settlement)
    for name in names:
        stem = f"fleet-{words}" if name is None else f"statement-{words}-{safe_name(name)}"
        lines = settlement.lines if name is None else by_tenant[name]
        for form in forms:
            suffix = "txt" if form == "table" else form
            write_file(folder, f"{stem}.{suffix}", _render(settlement, name, lines, form, carbon, around))
    out(f"{len(names) * len(forms)} files in {folder}\n")


def _render(
    settlement: Settlement,
    tenant: str | None,
    lines: Sequence[SettlementLine],
    form: str,
    carbon: Carbon,
    around: Frame,
) -> bytes:
    """One document (None: of the fleet) in one form."""
    table = lines_table(settlement, lines, carbon)
    if form == "csv":
        return as_csv(table).encode()
    if form == "parquet":
        return as_parquet(table.rows, table.fields, {"costtrace.policy": settlement.policy.name})
    if form == "json":
        return as_json([table, tie_table(settlement)]).encode()
    if tenant is None:
        document = fleet_document(settlement, carbon)
    else:
        document = tenant_document(settlement, tenant, lines, carbon, around)
    if form == "pdf":
        return as_pdf(document)
    return as_html(document).encode() if form == "html" else _text(document).encode()


def _text(document: Document) -> str:
    facts = "".join(f"  {name}: {value}\n" for name, value in document.facts)
    tables = "\n".join(as_text(table) for table in document.tables if table.lines)
    return f"{document.title}, {document.subtitle}\n\n{facts}\n{tables}"


def _formats(forms: str | None, *, to_files: bool) -> list[str]:
    words = forms or ("html,csv,json" if to_files else "table")
    chosen = list(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    for word in chosen:
        if word not in FORMATS:
            raise CosttraceError(f"there is no format {word!r}: --format takes {', '.join(FORMATS)}")
    return chosen or ["table"]


def _intensity(words: str | None) -> Decimal | None:
    if words is None:
        return None
    grams = exact(words)
    if grams is None or not 0 <= grams <= 10_000:
        raise CosttraceError(f"--carbon-intensity is a number of grams per kWh, not {words!r}")
    return grams


def _tie_out(settlement: Settlement, *, shown: bool) -> int:
    off = [tie for tie in settlement.ties if tie.off]
    if shown:
        out(as_text(tie_table(settlement)) + ("\nties out\n" if not off else "\nDOES NOT tie out\n"))
    elif off:
        sys.stderr.write(f"costtrace: the lines are not the ledger's total: off by {off[0].off} ({off[0].what})\n")
    return EXIT_OFF if off else 0
