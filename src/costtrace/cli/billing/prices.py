"""`costtrace prices`: check a price book, and see what it says of a device on a day."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import click

from costtrace.config.load import load
from costtrace.core.errors import CosttraceError
from costtrace.core.units import NS_PER_S
from costtrace.pricing.diff import Change, diff
from costtrace.pricing.list_prices import ListPrice
from costtrace.pricing.price_book import DevicePrice, ElectricityPrice, PriceBook, holds, show_time
from costtrace.pricing.price_book_file import KINDS, load_price_book
from costtrace.reports.output.render import clean, render
from costtrace.reports.output.tables import Column, Row, Table, text


@click.group()
def prices() -> None:
    """Check and show price books."""


@prices.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--previous", type=click.Path(path_type=Path), help="The edition before: fail if FILE changes the past.")
def check(file: Path, previous: Path | None) -> None:
    """Read FILE as the agent would, and say what is in it or what is wrong with it."""
    book = _load(file)
    if previous is not None:
        _must_not_rewrite(diff(_load(previous), book, _wall_ns(datetime.now(UTC))), previous)
    click.echo(
        f"{file}: sound. Price book {book.name} in {book.currency}: {len(book.devices)} device prices, "
        f"{len(book.electricity)} electricity prices, {len(book.models)} list prices"
        + (f", tier {book.tier}." if book.tier else ".")
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


@prices.command(name="diff")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def diff_(old: Path, new: Path) -> None:
    """Show what NEW changes against OLD. Ends with 1 if it changes what held before now.

    A price changes by one more entry. Where the past itself has to change, `costtrace rerate` adjusts it.
    """
    changes = diff(_load(old), _load(new), _wall_ns(datetime.now(UTC)))
    for change in changes:
        mark = "  <- changes the past" if change.history else ""
        click.echo(f"{change.what}: {clean(change.entry)}: {clean(change.details)}{mark}")
    if not changes:
        click.echo("no price differs")
    _must_not_rewrite(changes, old)


def _must_not_rewrite(changes: list[Change], previous: Path) -> None:
    past = [change for change in changes if change.history]
    if past:
        raise click.ClickException(
            f"{len(past)} entries change what held before now by {previous}, the first is {past[0].entry!r} "
            f"({past[0].what}). A price book only grows: add entries `from` today on. To change the past, use "
            "`costtrace rerate`."
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
@click.option("--pool", default="", help="The node pool that is asked about.")
@click.option("--region", default="", help="The region that is asked about.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
def show(
    *, book: Path | None, at: datetime | None, device: str | None, kind: str, pool: str, region: str, form: str
) -> None:
    """Show the prices that hold on a day."""
    price_book = _load(book or _configured(), pool, region)
    wall_ns = _wall_ns(at.replace(tzinfo=UTC) if at else datetime.now(UTC))
    if device is None:
        devices = [entry for entry in price_book.devices if holds(entry, wall_ns)]
    else:
        entry = price_book.device_price(device, kind, wall_ns)
        devices = [] if entry is None else [entry]
    electricity = [entry for entry in price_book.electricity if holds(entry, wall_ns)]
    when = f"price book {price_book.name} on {show_time(wall_ns)}, {price_book.currency}"
    models = [] if device is not None else [entry for entry in price_book.models if holds(entry, wall_ns)]
    entries: list[DevicePrice | ElectricityPrice | ListPrice] = [*devices, *electricity, *models]
    lines = [_line(price_book, entry) for entry in entries]
    if not lines and form == "table":
        click.echo(f"{when}: no price holds")
    else:
        table = Table("prices", when, _filled(lines), lines, _exact, _rates(price_book, lines, wall_ns))
        click.echo(render([table], form), nl=False)
    if device is not None and (missing := price_book.missing(device, kind, wall_ns)):
        raise click.ClickException(missing)


class PriceLine(NamedTuple):
    """One entry of a price book, as it holds on a day. None: not a price of this kind of entry, or not given."""

    what: str
    match: str = ""
    tier: str = ""
    pool: str = ""
    region: str = ""
    terms: str = ""
    currency: str = ""
    price_book: str = ""
    per_gpu_hour: Decimal | None = None
    per_kwh: Decimal | None = None
    pue: Decimal | None = None
    includes_energy: bool | None = None
    per_million_input: Decimal | None = None
    per_million_cached: Decimal | None = None
    per_million_output: Decimal | None = None
    from_: str = ""
    until: str = ""
    source: str = ""


def _exact(line: PriceLine) -> Row:
    return {name.removesuffix("_"): value for name, value in line._asdict().items()}


def _filled(lines: list[PriceLine]) -> list[Column[PriceLine]]:
    """The columns that have something in any line."""
    return [column for column in _COLUMNS if any(column.show(line) for line in lines)]


def _rates(book: PriceBook, lines: list[PriceLine], wall_ns: int) -> list[str]:
    """What other currencies are worth at that time: charges are in the book's."""
    used = {line.currency for line in lines} - {book.currency}
    return [
        f"1 {entry.currency} is {entry.rate:f} {book.currency} from {show_time(entry.from_ns)} on"
        + (f" ({entry.source})." if entry.source else ".")
        for entry in book.exchange
        if entry.currency in used and holds(entry, wall_ns)
    ]


def _number(heading: str, value: Callable[[PriceLine], Decimal | None]) -> Column[PriceLine]:
    def show(line: PriceLine) -> str:
        number = value(line)
        return "" if number is None else f"{number:f}"

    return Column(heading, show)


_COLUMNS: tuple[Column[PriceLine], ...] = (
    text("what", lambda line: line.what),
    text("match", lambda line: line.match),
    text("tier", lambda line: line.tier),
    text("pool", lambda line: line.pool),
    text("region", lambda line: line.region),
    text("made of", lambda line: line.terms),
    text("currency", lambda line: line.currency),
    _number("per GPU-hour", lambda line: line.per_gpu_hour),
    _number("per kWh", lambda line: line.per_kwh),
    _number("per million in", lambda line: line.per_million_input),
    _number("cached", lambda line: line.per_million_cached),
    _number("out", lambda line: line.per_million_output),
    _number("PUE", lambda line: line.pue),
    text("energy", lambda line: {True: "included", False: "billed on top", None: ""}[line.includes_energy]),
    text("from", lambda line: line.from_),
    text("until", lambda line: line.until),
    text("source", lambda line: line.source),
)


def _line(book: PriceBook, entry: DevicePrice | ElectricityPrice | ListPrice) -> PriceLine:
    line = PriceLine(
        "model",
        currency=book.currency,
        price_book=book.name,
        from_=show_time(entry.from_ns),
        until="" if entry.until_ns is None else show_time(entry.until_ns),
        source=entry.source,
    )
    if isinstance(entry, DevicePrice):
        return line._replace(
            what=entry.kind if entry in book.applicable else f"{entry.kind} (not used)",
            match=entry.match,
            tier=entry.tier,
            pool=entry.pool,
            region=entry.region,
            terms="" if entry.terms is None else type(entry.terms).__name__.lower(),
            per_gpu_hour=entry.per_gpu_hour,
            includes_energy=entry.includes_energy,
            currency=entry.currency or book.currency,
        )
    if isinstance(entry, ElectricityPrice):
        return line._replace(
            what="electricity",
            match=entry.when.name if entry.when else "",
            per_kwh=entry.per_kwh,
            pue=entry.pue,
            currency=entry.currency or book.currency,
        )
    return line._replace(
        match=entry.match,
        per_million_input=entry.per_million_input,
        per_million_cached=entry.per_million_cached,
        per_million_output=entry.per_million_output,
    )


def _load(file: Path, pool: str = "", region: str = "") -> PriceBook:
    try:
        return load_price_book(file, "", pool, region)
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
