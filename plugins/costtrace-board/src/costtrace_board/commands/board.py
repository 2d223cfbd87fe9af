"""``costtrace board``: cost per million tokens for the board, as one page, JSON or CSV."""

import os
import time
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import click

from costtrace.cli.options import examples, home_option, name_period, out, period, period_options, zone
from costtrace.core.errors import CosttraceError
from costtrace.core.numbers import exact
from costtrace.core.wall_time import show_time
from costtrace.ledger.answers import Period
from costtrace.ledger.queries import ended, used
from costtrace.ledger.reader import Filter, Store, open_ledger
from costtrace.pricing.list_prices import ListPrice, cuts
from costtrace.pricing.price_book import PriceBook
from costtrace.pricing.price_book_file import load_price_book
from costtrace.reports.output.render import render
from costtrace.reports.usage.summary import summarize
from costtrace_board import query as board_query
from costtrace_board.assemble import Benchmark, Production, assumptions, benchmark_of, climb, list_price_of_output
from costtrace_board.board_tables import Board, board_tables
from costtrace_board.cells import BY, Cell, annotations, cells_of, group
from costtrace_board.commands.benchmarks import read_file
from costtrace_board.commands.tier_options import find_tier
from costtrace_board.figures import BASES
from costtrace_board.ladder import Ladder
from costtrace_board.load_tests import ServerHardware
from costtrace_board.page import page

NO_BENCHMARK = (
    "No benchmark was named. Give one as --benchmark FILE with --tier, or as --peak 0.02 with --basis total, to see "
    "step by step what lies between it and production."
)
RETURN_OPTIONS = ("purchase_price", "price_per_million", "years", "price_decline")


class LadderOptions(NamedTuple):
    """The options that say what the ladder starts from, as they were given."""

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

    The page is one file: it works offline, follows light and dark, prints on A4 and loads nothing. All
    figures are those of `costtrace report`; every cost names its token basis and whether idle is in it.
    """
    time_zone = zone(tz)
    prices = {price.match: price for price in map(_list_price, list_prices)}
    revenues = _revenues(given_revenues)
    return_inputs = {
        name: _decimal(f"--{name.replace('_', '-')}", value) for name in RETURN_OPTIONS if (value := rest.pop(name))
    }
    ladder_options = _ladder_options(rest)
    with open_ledger(home) as store:
        span = period(store, since, until, time_zone)
        summary = summarize(BY, used(store, span, BY), ended(store, span, BY), time_zone)
        engines = board_query.engines(store)
        engine_ids = {line.keys[0] for line in (*summary.lines, *summary.rest)}
        active = {key: engine for key, engine in engines.items() if key in engine_ids}
        days = cells_of(summary, engines)
        _check_served(revenues, days)
        if price_book is not None:
            prices = {**_prices_of(load_price_book(price_book), {cell.model for cell in days}, span), **prices}
        gpus = len({device for engine in active.values() for device in engine.devices})
        result = Board(
            period=name_period(span, time_zone),
            made=show_time(time.time_ns(), time_zone),
            simulated=any(engine.simulated for engine in active.values()),
            zone=time_zone,
            summary=summary,
            days=days,
            annotations=annotations(active.values(), board_query.prices(store, span)),
            label=label,
            transactions=board_query.transactions(store, span, label),
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
        output_price = list_price_of_output(group(days, ("model",)), prices, revenues)
        first_values, sources = assumptions(result.whole, gpus, output_price, return_inputs)
        result = result._replace(assumptions=first_values, assumption_sources=sources)
        if ladder_options.file is not None or ladder_options.peak is not None:
            result = result._replace(ladder=_ladder(ladder_options, result, store, span))
    text = (
        page(
            result,
            _packaged_text("costtrace_ui", "page.css"),
            _packaged_text("costtrace_board", "board.js"),
        )
        if form == "html"
        else render(board_tables(result), form)
    )
    _write(text, target)


def _ladder_options(rest: dict[str, str | Path | None]) -> LadderOptions:
    def text(name: str) -> str | None:
        value = rest[name]
        return None if value is None else str(value)

    def file(name: str) -> Path | None:
        value = rest[name]
        return value if isinstance(value, Path) else None

    return LadderOptions(
        file("benchmark"),
        text("tier"),
        file("book"),
        text("peak"),
        text("peak_price"),
        text("peak_name") or "",
        text("benchmark_mix"),
        text("service"),
        text("interactivity"),
        text("basis") or "output",
        text("model"),
    )


def _ladder(options: LadderOptions, shown: Board, store: Store, span: Period) -> Ladder:
    priced = [cell for cell in shown.days if cell.currency == shown.currency and cell.direct.gpu_ns]
    by_model = group(priced, ("model",))
    if not by_model:
        raise CosttraceError("there are no requests in this period: production has no cost to climb to")
    model = options.model or max(by_model, key=lambda cell: cell.cost_nano(with_idle=True) or 0).model
    model_cells = [cell for cell in group(shown.days, ("model",)) if cell.model == model]
    cell = next((cell for cell in model_cells if cell.currency == shown.currency), None)
    if cell is None:
        raise CosttraceError(f"--model {model}: there are no requests of it in this period")
    start = _benchmark(options)
    only, by = Filter(model=model), ("hour",)
    hours = summarize(by, used(store, span, by, only), ended(store, span, by, only), shown.zone)
    idle_only = shown.summary._replace(rest=[line for line in shown.summary.rest if line.kind == "idle"])
    idle_cells = group(cells_of(idle_only, board_query.engines(store)), ("model",))
    idle_ns = sum(cell.idle.gpu_ns for cell in idle_cells if (cell.model, cell.currency) == (model, shown.currency))
    production = Production(
        f"production ({model})",
        cell,
        [(line.gpu_ns, _tokens(line.input_tokens, line.output_tokens, options.basis)) for line in hours.lines],
        idle_ns,
        cell.idle.gpu_ns - idle_ns,
    )
    return climb(start, production)


def _tokens(inputs: int, outputs: int, basis: str) -> int:
    return {"input": inputs, "output": outputs, "total": inputs + outputs}[basis]


def _benchmark(options: LadderOptions) -> Benchmark:
    """The ladder's start, from a file or from stated figures. Raises: CosttraceError, FigureRefused."""
    mix = None if options.mix is None else _mix(options.mix)
    interactivity = None if options.interactivity is None else _decimal("--interactivity", options.interactivity)
    if options.file is not None:
        tier = find_tier(options.tier, options.book)
        if tier is None:
            raise CosttraceError("--benchmark needs --tier: a throughput becomes a cost only with a price per GPU-hour")
        read = read_file(options.file, ServerHardware())
        start = benchmark_of(read, tier, options.basis, options.model or "", interactivity)
        return start if mix is None else start._replace(mix=mix)
    peak = Fraction(_decimal("--peak", options.peak or ""))
    service = None if options.service is None else Fraction(_decimal("--service", options.service))
    at = f"{options.interactivity or 'the wanted'} tokens/s/user"
    return Benchmark(
        options.peak_name,
        options.basis,
        "USD",
        peak,
        None if options.peak_price is None else Fraction(_decimal("--peak-price", options.peak_price)),
        mix,
        service,
        "" if service is None else f"as given: {options.service} at {at}",
    )


def _mix(text: str) -> tuple[Fraction, Fraction]:
    inputs, _, outputs = text.partition(":")
    return Fraction(_decimal("--benchmark-mix", inputs)), Fraction(_decimal("--benchmark-mix", outputs))


def _list_price(text: str) -> ListPrice:
    model, _, pair = text.rpartition("=")
    input_price, _, output_price = pair.partition("/")
    if not model or not output_price:
        raise CosttraceError(f"--list-price {text}: write it as MODEL=INPUT/OUTPUT, as in gpt-oss-120b=0.15/0.60")
    return ListPrice(model, _decimal("--list-price", input_price), _decimal("--list-price", output_price), from_ns=0)


def _check_served(revenues: dict[str, Decimal], days: Iterable[Cell]) -> None:
    """Raises: CosttraceError, where a model with revenue has no tokens: its name or the period is wrong."""
    models = {cell.model for cell in days if cell.tokens("total")}
    for model in revenues:
        if model not in models:
            known = ", ".join(sorted(models)) or "none"
            raise CosttraceError(f"--revenue: {model!r} served no tokens in this period. There are: {known}")


def _revenues(options: tuple[str, ...]) -> dict[str, Decimal]:
    revenues: dict[str, Decimal] = {}
    for option in options:
        model, _, amount = option.rpartition("=")
        if not model or model in revenues:
            raise CosttraceError(f"--revenue {option}: write it as MODEL=AMOUNT, once for each model, as in m=1250.50")
        revenues[model] = _decimal("--revenue", amount)
    return revenues


def _price_source(book: Path | None, revenues: dict[str, Decimal]) -> str:
    if revenues:
        return "as given with --revenue, else at list prices"
    return "at the list prices of the price book" if book else "at the list prices given"


def _prices_of(book: PriceBook, models: Iterable[str], span: Period) -> dict[str, ListPrice]:
    """The book's list price of each model that has one. Raises: CosttraceError, where one changes within the period."""
    prices: dict[str, ListPrice] = {}
    for model in models:
        list_prices = {book.list_price(model, since_ns) for since_ns, _ in cuts(book.models, *span)}
        if len(list_prices) > 1:
            raise CosttraceError(
                f"the list price of {model!r} changes within the period: take --since and --until within one price, or "
                "give a price for all of it with --list-price"
            )
        if (price := list_prices.pop()) is not None:
            prices[model] = price
    return prices


def _decimal(name: str, text: str | Path) -> Decimal:
    number = exact(str(text))
    if number is None or number < 0:
        raise CosttraceError(f"{name}: {str(text)!r} is not a number from 0 up")
    return number


def _packaged_text(package: str, name: str) -> str:
    return (files(package) / name).read_text(encoding="utf-8")


def _write(text: str, target: Path | None) -> None:
    """Write to the file, readable by its owner only, or to standard output. Raises: CosttraceError."""
    if target is None:
        out(text)
        return
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        if target.is_file():  # not a pipe or a device; the mode above is for a new file only
            os.fchmod(descriptor, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CosttraceError(f"cannot write {target}: {error.strerror}") from error
    out(f"wrote {target}\n")
