"""`costtrace prices`: check a price book, and see what it says of a device on a day."""

from datetime import UTC, datetime
from pathlib import Path

import click

from costtrace.config import load
from costtrace.errors import CosttraceError
from costtrace.price_book import DevicePrice, ElectricityPrice, PriceBook, holds, show_time
from costtrace.prices import KINDS, load_price_book
from costtrace.reports.render import render
from costtrace.reports.tables import Column, Row, Table, text
from costtrace.units import NS_PER_S


@click.group()
def prices() -> None:
    """Check and show price books."""


@prices.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Read FILE as the agent would, and say what is in it or what is wrong with it."""
    book = _load(file)
    click.echo(
        f"{file}: sound. Price book {book.name} in {book.currency}: {len(book.devices)} device prices, "
        f"{len(book.electricity)} electricity prices" + (f", tier {book.tier}." if book.tier else ".")
    )
    if book.label:
        click.echo(f"It is labelled `{book.label}`: so are all amounts that are made with it.")
    now_ns = _wall_ns(datetime.now(UTC))
    metered = [entry for entry in book.devices if holds(entry, now_ns) and not entry.includes_energy]
    if metered and book.electricity_price(now_ns) is None:
        click.echo(
            f"Note: no electricity price holds today, and {len(metered)} device prices do not include energy: the cost "
            "of those devices is unknown. Add an entry under `electricity`."
        )


@prices.command()
@click.option("--book", type=click.Path(path_type=Path), help="The price book. Default: the setting `prices`.")
@click.option(
    "--at",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="The day (UTC) that is asked about. Default: now.",
)
@click.option("--device", metavar="NAME", help="Only what applies to the device of this name.")
@click.option("--kind", type=click.Choice(KINDS), default="gpu", show_default=True, help="What --device is.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
def show(book: Path | None, at: datetime | None, device: str | None, kind: str, form: str) -> None:
    """Show the prices that hold on a day."""
    found = _load(book or _configured())
    wall_ns = _wall_ns(at.replace(tzinfo=UTC) if at else datetime.now(UTC))
    if device is None:
        devices = [entry for entry in found.devices if holds(entry, wall_ns)]
    else:
        entry = found.device_price(device, kind, wall_ns)
        devices = [] if entry is None else [entry]
    electricity = [entry for entry in found.electricity if holds(entry, wall_ns)]
    when = f"price book {found.name} on {show_time(wall_ns)[:10]}, {found.currency}"
    rows = [*(_device_row(found, entry) for entry in devices), *(_electricity_row(entry) for entry in electricity)]
    click.echo(render([Table("prices", when, _COLUMNS, rows)], form), nl=False)
    if device is not None and (missing := found.missing(device, kind, wall_ns)):
        raise click.ClickException(missing)


_COLUMNS = (
    text("what", "what"),
    text("match", "match"),
    text("tier", "tier"),
    Column("per GPU-hour", lambda row: _number(row, "per_gpu_hour")),
    Column("per kWh", lambda row: _number(row, "per_kwh")),
    Column("PUE", lambda row: _number(row, "pue")),
    Column("energy", lambda row: {True: "included", False: "billed on top", None: ""}[_flag(row)], right=False),
    text("from", "from"),
    text("until", "until"),
    text("source", "source"),
)


def _device_row(book: PriceBook, entry: DevicePrice) -> Row:
    return {
        "what": entry.kind if entry.tier in {"", book.tier} else f"{entry.kind} (not used)",
        "match": entry.match,
        "tier": entry.tier,
        "per_gpu_hour": entry.per_gpu_hour,
        "per_kwh": None,
        "pue": None,
        "includes_energy": entry.includes_energy,
        "from": show_time(entry.from_ns),
        "until": "" if entry.until_ns is None else show_time(entry.until_ns),
        "source": entry.source,
        "currency": book.currency,
        "price_book": book.name,
    }


def _electricity_row(entry: ElectricityPrice) -> Row:
    return {
        "what": "electricity",
        "match": entry.when.name if entry.when else "",
        "tier": "",
        "per_gpu_hour": None,
        "per_kwh": entry.per_kwh,
        "pue": entry.pue,
        "includes_energy": None,
        "from": show_time(entry.from_ns),
        "until": "" if entry.until_ns is None else show_time(entry.until_ns),
        "source": entry.source,
        "currency": "",
        "price_book": "",
    }


def _load(file: Path) -> PriceBook:
    try:
        return load_price_book(file)
    except CosttraceError as error:
        raise click.ClickException(str(error)) from error


def _configured() -> Path:
    try:
        path = load().prices
    except CosttraceError as error:
        raise click.ClickException(str(error)) from error
    if path is None:
        raise click.UsageError("no price book is set. Name one with --book, or with COSTTRACE_PRICES.")
    return path


def _wall_ns(moment: datetime) -> int:
    return int(moment.timestamp()) * NS_PER_S


def _number(row: Row, key: str) -> str:
    value = row[key]
    return "" if value is None else f"{value:f}"


def _flag(row: Row) -> bool | None:
    value = row["includes_energy"]
    return value if isinstance(value, bool) else None
