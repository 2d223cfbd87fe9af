"""``costtrace board``: cost per million tokens for the board, as one page, JSON or CSV."""

import os
import time
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import click

from costtrace.cli.options import examples, home_option, name_period, out, period, period_options, zone
from costtrace.core.errors import CosttraceError
from costtrace.core.wall_time import show_time
from costtrace.ledger.answers import Period
from costtrace.ledger.queries import ended, used
from costtrace.ledger.reader import Filter, Store, open_ledger
from costtrace.pricing.list_prices import ListPrice, cuts
from costtrace.pricing.price_book import PriceBook
from costtrace.pricing.price_book_file import load_price_book
from costtrace.reports.output.render import render
from costtrace.reports.usage.summary import summarize
from costtrace_board import board as figures
from costtrace_board import query as board_query
from costtrace_board.assemble import Benchmark, Production, assumptions, benchmark_of, climb, list_price_of_output
from costtrace_board.board_tables import Board, board_tables
from costtrace_board.commands.benchmarks import read_file
from costtrace_board.commands.tiers import find_tier
from costtrace_board.figures import BASES
from costtrace_board.ladder import Ladder
from costtrace_board.load_tests import Served
from costtrace_board.page import page

NO_BENCHMARK = (
    "No benchmark was named. Give one as --benchmark FILE with --tier, or as --peak 0.02 with --basis total, to see "
    "step by step what lies between it and production."
)
GIVEN = ("purchase_price", "price_per_million", "years", "price_decline")


class Ask(NamedTuple):
    """What the ladder was asked to start from."""

    file: Path | None
    tier: str | None
    book: Path | None
    peak: str | None
    peak_price: str | None
    peak_name: str
    mix: str | None
    service: str | None
    interactivity: str | None
    basis: str
    model: str | None


@click.command(
    short_help="Cost per million tokens for the board: page, JSON or CSV.",
    epilog=examples(
        "costtrace board --since 2026-11-01 --until 2026-12-01 --out board.html",
        "costtrace board --list-price gpt-oss-120b=0.15/0.60 --out board.html",
        "costtrace board --peak 0.02 --peak-price 1.95 --benchmark-mix 1024:1024 --basis total --out board.html",
        "costtrace board --format json",
    ),
)
@click.option("--out", "target", type=click.Path(path_type=Path), help="File of the page.  [default: standard output]")
@click.option("--format", "form", type=click.Choice(["html", "json", "csv"]), default="html", show_default=True)
@click.option(
    "--list-price",
    "list_prices",
    multiple=True,
    metavar="MODEL=INPUT/OUTPUT",
    help="What a million input and output tokens of a model are sold for. Can be given again.",
)
@click.option(
    "--revenue",
    "given_revenues",
    multiple=True,
    metavar="MODEL=AMOUNT",
    help="Or what a model brought in all of the period. Can be given again.",
)
@click.option("--price-book", type=click.Path(path_type=Path), help="Or take list prices from this price book.")
@click.option("--label", default="workload", show_default=True, help="Label by which the cost of a request is shown.")
@click.option("--gpus-per-rack", type=click.IntRange(1), default=72, show_default=True)
@click.option("--benchmark", type=click.Path(path_type=Path), help="Start the ladder from the best run of this file.")
@click.option("--tier", help="The benchmark's price tier, as for `costtrace benchmarks import`.")
@click.option("--book", type=click.Path(path_type=Path), help="A price book that has this tier.")
@click.option("--peak", help="Or start it from this cost per million tokens (of --basis).")
@click.option("--peak-price", help="The price per GPU-hour that is in --peak.")
@click.option("--peak-name", default="published peak", show_default=True)
@click.option("--benchmark-mix", metavar="INPUT:OUTPUT", help="Its requests' tokens.  [default: as the file says]")
@click.option("--interactivity", help="Tokens/s that a user has to see: the service level.")
@click.option("--service", help="The benchmark's cost per million tokens at that interactivity, where --peak is given.")
@click.option("--basis", type=click.Choice(BASES), default="output", show_default=True, help="Of the ladder.")
@click.option("--model", help="The ladder's model.  [default: the one that cost most]")
@click.option("--purchase-price", help="For the return: what the hardware was bought for.")
@click.option("--price-per-million", help="For the return: price of a million output tokens.")
@click.option("--years", help="For the return: years of use.")
@click.option("--price-decline", help="For the return: yearly decline of the token price, 0 to 1.")
@period_options
@home_option
def board(
    *,
    target: Path | None,
    form: str,
    list_prices: tuple[str, ...],
    given_revenues: tuple[str, ...],
    price_book: Path | None,
    label: str,
    gpus_per_rack: int,
    since: str | None,
    until: str | None,
    tz: str,
    home: Path,
    **rest: str | Path | None,
) -> None:
    """Show cost per million tokens by model, fleet and month, how far production is from a benchmark, and why.

    The page is one file: it works offline, follows light and dark, prints on A4 and asks nobody for anything. All
    figures are those of `costtrace report`; every cost names its token basis and whether idle is in it.
    """
    where = zone(tz)
    prices = {price.match: price for price in map(_list_price, list_prices)}
    revenues = _revenues(given_revenues)
    given = {name: _decimal(f"--{name.replace('_', '-')}", value) for name in GIVEN if (value := rest.pop(name))}
    ask = _ask(rest)
    with open_ledger(home) as store:
        which = period(store, since, until, where)
        summary = summarize(figures.BY, used(store, which, figures.BY), ended(store, which, figures.BY), where)
        engines = board_query.engines(store)
        mine = {line.keys[0] for line in (*summary.lines, *summary.rest)}
        active = {key: engine for key, engine in engines.items() if key in mine}
        days = figures.cells(summary, engines)
        _served(revenues, days)
        if price_book is not None:
            prices = {**_prices_of(load_price_book(price_book), {cell.model for cell in days}, which), **prices}
        gpus = len({device for engine in active.values() for device in engine.devices})
        made = Board(
            period=name_period(which, where),
            made=show_time(time.time_ns(), where),
            simulated=any(engine.simulated for engine in active.values()),
            zone=where,
            summary=summary,
            days=days,
            annotations=figures.annotations(active.values(), board_query.prices(store, which)),
            label=label,
            transactions=board_query.transactions(store, which, label),
            prices=prices,
            price_source=_price_source(price_book, revenues),
            revenues=revenues,
            gpus=gpus,
            gpus_per_rack=gpus_per_rack,
            ladder=None,
            ladder_why_not=NO_BENCHMARK,
            assumptions=assumptions(None, 0, (None, ""), {})[0],
            assumption_sources={},
        )
        output_price = list_price_of_output(figures.group(days, ("model",)), prices, revenues)
        first, sources = assumptions(made.whole, gpus, output_price, given)
        made = made._replace(assumptions=first, assumption_sources=sources)
        if ask.file is not None or ask.peak is not None:
            made = made._replace(ladder=_ladder(ask, made, store, which))
    text = (
        page(made, _part("costtrace.reports.output", "page.css"), _part("costtrace_board", "board.js"))
        if form == "html"
        else render(board_tables(made), form)
    )
    _write(text, target)


def _ask(rest: dict[str, str | Path | None]) -> Ask:
    def words(name: str) -> str | None:
        value = rest[name]
        return None if value is None else str(value)

    def path(name: str) -> Path | None:
        value = rest[name]
        return value if isinstance(value, Path) else None

    return Ask(
        path("benchmark"),
        words("tier"),
        path("book"),
        words("peak"),
        words("peak_price"),
        words("peak_name") or "",
        words("benchmark_mix"),
        words("service"),
        words("interactivity"),
        words("basis") or "output",
        words("model"),
    )


def _ladder(ask: Ask, made: Board, store: Store, which: Period) -> Ladder:
    mine = [cell for cell in made.days if cell.currency == made.currency and cell.direct.gpu_ns]
    by_model = figures.group(mine, ("model",))
    if not by_model:
        raise CosttraceError("there are no requests in this period: production has no cost to climb to")
    model = ask.model or max(by_model, key=lambda cell: cell.cost_nano(with_idle=True) or 0).model
    cells = [cell for cell in figures.group(made.days, ("model",)) if cell.model == model]
    found = next((cell for cell in cells if cell.currency == made.currency), None)
    if found is None:
        raise CosttraceError(f"--model {model}: there are no requests of it in this period")
    start = _benchmark(ask)
    only, by = Filter(model=model), ("hour",)
    hours = summarize(by, used(store, which, by, only), ended(store, which, by, only), made.zone)
    waits = made.summary._replace(rest=[line for line in made.summary.rest if line.kind == "idle"])
    idle = figures.group(figures.cells(waits, board_query.engines(store)), ("model",))
    idle_ns = sum(cell.idle.gpu_ns for cell in idle if (cell.model, cell.currency) == (model, made.currency))
    production = Production(
        f"production ({model})",
        found,
        [(line.gpu_ns, _tokens(line.input_tokens, line.output_tokens, ask.basis)) for line in hours.lines],
        idle_ns,
        found.idle.gpu_ns - idle_ns,
    )
    return climb(start, production)


def _tokens(inputs: int, outputs: int, basis: str) -> int:
    return {"input": inputs, "output": outputs, "total": inputs + outputs}[basis]


def _benchmark(ask: Ask) -> Benchmark:
    """Raises: CosttraceError, FigureRefused."""
    mix = None if ask.mix is None else _mix(ask.mix)
    interactivity = None if ask.interactivity is None else _decimal("--interactivity", ask.interactivity)
    if ask.file is not None:
        tier = find_tier(ask.tier, ask.book)
        if tier is None:
            raise CosttraceError("--benchmark needs --tier: a throughput becomes a cost only with a price per GPU-hour")
        start = benchmark_of(read_file(ask.file, Served()), tier, ask.basis, ask.model or "", interactivity)
        return start if mix is None else start._replace(mix=mix)
    peak = Fraction(_decimal("--peak", ask.peak or ""))
    service = None if ask.service is None else Fraction(_decimal("--service", ask.service))
    return Benchmark(
        ask.peak_name,
        ask.basis,
        "USD",
        peak,
        None if ask.peak_price is None else Fraction(_decimal("--peak-price", ask.peak_price)),
        mix,
        service,
        "" if service is None else f"as given: {ask.service} at {ask.interactivity or 'the wanted'} tokens/s/user",
    )


def _mix(text: str) -> tuple[Fraction, Fraction]:
    given, _, asked = text.partition(":")
    return Fraction(_decimal("--benchmark-mix", given)), Fraction(_decimal("--benchmark-mix", asked))


def _list_price(text: str) -> ListPrice:
    model, _, pair = text.rpartition("=")
    given, _, asked = pair.partition("/")
    if not model or not asked:
        raise CosttraceError(f"--list-price {text}: write it as MODEL=INPUT/OUTPUT, as in gpt-oss-120b=0.15/0.60")
    return ListPrice(model, _decimal("--list-price", given), _decimal("--list-price", asked), from_ns=0)


def _served(revenues: dict[str, Decimal], days: Iterable[figures.Cell]) -> None:
    """Raises: CosttraceError, where a model with revenue was not served: its name is wrong, or its period."""
    models = {cell.model for cell in days if cell.tokens("total")}
    for model in revenues:
        if model not in models:
            known = ", ".join(sorted(models)) or "none"
            raise CosttraceError(f"--revenue: {model!r} served no tokens in this period. There are: {known}")


def _revenues(words: tuple[str, ...]) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for word in words:
        model, _, amount = word.rpartition("=")
        if not model or model in found:
            raise CosttraceError(f"--revenue {word}: write it as MODEL=AMOUNT, once for each model, as in m=1250.50")
        found[model] = _decimal("--revenue", amount)
    return found


def _price_source(book: Path | None, revenues: dict[str, Decimal]) -> str:
    if revenues:
        return "as given with --revenue, else at list prices"
    return "at the list prices of the price book" if book else "at the list prices given"


def _prices_of(book: PriceBook, models: Iterable[str], which: Period) -> dict[str, ListPrice]:
    """A book's list price of each model. Raises: CosttraceError, where one changes within the period."""
    found: dict[str, ListPrice] = {}
    for model in models:
        held = {book.list_price(model, since_ns) for since_ns, _ in cuts(book.models, *which)}
        if len(held) > 1:
            raise CosttraceError(
                f"the list price of {model!r} changes within the period: take --since and --until within one price, or "
                "give a price for all of it with --list-price"
            )
        if (price := held.pop()) is not None:
            found[model] = price
    return found


def _decimal(name: str, text: str | Path) -> Decimal:
    try:
        found = Decimal(str(text))
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or found < 0:
        raise CosttraceError(f"{name}: {str(text)!r} is not a number from 0 up")
    return found


def _part(package: str, name: str) -> str:
    return (files(package) / name).read_text(encoding="utf-8")


def _write(text: str, target: Path | None) -> None:
    """To the file, which only its owner may read, or to standard output. Raises: CosttraceError."""
    if target is None:
        out(text)
        return
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CosttraceError(f"cannot write {target}: {error.strerror}") from error
    out(f"wrote {target}\n")
