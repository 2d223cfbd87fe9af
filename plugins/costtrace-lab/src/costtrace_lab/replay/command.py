"""The command ``costtrace replay``."""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import click

from costtrace.attribution.engine import Policy
from costtrace.cli.options import examples, format_option, out
from costtrace.core.errors import CosttraceError
from costtrace.core.rows import METHODS
from costtrace.core.units import NS_PER_HOUR, NS_PER_S
from costtrace.pricing.price_book_file import load_price_book
from costtrace.reports.output.render import render
from costtrace_lab.replay import plot as picture
from costtrace_lab.replay.attribute import bill, journals_below
from costtrace_lab.replay.simulate import ENGINE_ID, Simulation, run
from costtrace_lab.replay.tables import comparison
from costtrace_lab.simulator.scheduler import SchedulerConfig
from costtrace_lab.simulator.servegen import ServeGenOptions

KNOWN = ("auto", *METHODS)
DEFAULTS = SchedulerConfig()
Function = Callable[..., Any]


def simulation_options(function: Function) -> Function:
    """A decorator that adds the options which only a simulated trace needs."""
    for option in (
        click.option("--keep", type=click.Path(path_type=Path), help="A trace: keep its journal below this directory."),
        click.option("--drafts", type=int, default=0, show_default=True, help="A trace: drafts for each decode."),
        click.option("--kv-tokens", type=int, default=DEFAULTS.kv_tokens, show_default=True, help="A trace: KV cache."),
        click.option(
            "--token-budget",
            type=int,
            default=DEFAULTS.token_budget,
            show_default=True,
            help="A trace: tokens that a step computes at most.",
        ),
        click.option(
            "--max-sequences",
            type=int,
            default=DEFAULTS.max_sequences,
            show_default=True,
            help="A trace: sequences that run at a time at most.",
        ),
        click.option(
            "--time-unit",
            type=click.Choice(("ms", "s")),
            help="JSON lines: the unit of their times.  [default: by form]",
        ),
        click.option(
            "--block-tokens",
            type=click.IntRange(1),
            help="JSON lines: tokens of a block.  [default: 512 or 16, by fit]",
        ),
        click.option(
            "--rate", type=click.FloatRange(0), default=0.0, help="ServeGen: requests per second of each client."
        ),
        click.option(
            "--seconds",
            type=click.FloatRange(0, min_open=True),
            default=600.0,
            show_default=True,
            help="ServeGen: how long they ask.",
        ),
        click.option("--speed", type=float, default=1.0, show_default=True, help="A trace: how many times as fast."),
        click.option(
            "--requests", type=click.IntRange(min=1), help="A trace: only its first requests.  [default: all]"
        ),
        click.option("--model", default="qwen3-8b", show_default=True, help="A trace: model, or its config.json."),
        click.option("--device", default="", help="A trace: device (NVIDIA H200), or which of the tables' devices."),
        click.option(
            "--tables",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="A trace: directory of measured kernel tables, as aiconfigurator has them.  [default: analytic model]",
        ),
    ):
        function = option(function)
    return function


@click.command(
    short_help="Attribute a journal, or a workload in the simulator, by several methods.",
    epilog=examples(
        "costtrace replay ~/.local/state/costtrace --methods auto,tokens,equal",
        "costtrace replay journal/vllm-8b-0001 --prices prices.yaml --format csv",
        "costtrace replay azure_conv.csv --tables h200/vllm/0.22.0 --requests 5000 --plot out.svg",
        "costtrace replay servegen/ --seconds 300 --rate 2 --device 'NVIDIA L40S'",
    ),
)
@click.argument("source", metavar="JOURNAL|TRACE", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--methods",
    default="auto,tokens,equal",
    show_default=True,
    help=f"Of {', '.join(KNOWN)}; the others are compared with the first.",
)
@click.option("--head-fee", type=click.Choice(("request", "sequence", "tenant")), default="request", show_default=True)
@click.option(
    "--prefix-sharing",
    type=click.Choice(("payer-of-miss", "tree")),
    default="payer-of-miss",
    show_default=True,
    help="Who pays for what others find in the prefix cache; `tree` needs a journal that says who found whose.",
)
@click.option("--prices", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Price book.")
@click.option("--window-s", type=click.IntRange(min=1), default=60, show_default=True, help="Length of a window.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw it: out.svg, out.png or out.pdf.")
@simulation_options
@format_option
def replay(
    *,
    source: Path,
    methods: str,
    head_fee: str,
    prefix_sharing: str,
    prices: Path | None,
    window_s: int,
    plot: Path | None,
    form: str,
    keep: Path | None,
    **simulation: Any,
) -> None:
    """Attribute recorded journals, or run a workload trace through the serving simulator, and compare methods.

    JOURNAL is a journal, or a home with several; it is only read. TRACE is an Azure LLM trace, Mooncake's or Qwen's
    (Bailian), a CSV with at_s,prompt_tokens,output_tokens[,tenant], or a directory of ServeGen clients. What is
    simulated says so.
    """
    chosen = _methods(methods)
    if plot is not None:
        picture.check(plot)
    book = load_price_book(prices) if prices is not None else None
    with tempfile.TemporaryDirectory(prefix="costtrace-replay-") as scratch:
        journals = journals_below(source)
        title = f"{source.name}: device time by tenant and method"
        if not journals:
            home = keep or Path(scratch)
            if (home / "journal" / ENGINE_ID).exists():
                raise CosttraceError(f"{home} has a simulated journal already: give --keep an empty directory")
            with _Progress("simulating", "requests") as progress:
                journal, times = run(_simulation(source, **simulation), home, progress)
            journals, title = [journal], f"{source.name} ({times}): device time by tenant and method"
        bills = []
        for method in chosen:
            with _Progress(f"attributing by {method}", "events") as progress:
                policy = Policy(method=method, head_fee=head_fee, prefix_sharing=prefix_sharing)
                bills.append(bill(journals, policy, window_s * NS_PER_S, book, progress))
    if plot is not None:
        picture.draw(plot, bills, title)
    out(render(comparison(bills, title), form))


def _methods(words: str) -> list[str]:
    chosen = list(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    unknown = [word for word in chosen if word not in KNOWN]
    if unknown or not chosen:
        raise CosttraceError(f"there is no method {', '.join(unknown) or '(none given)'}: known are {', '.join(KNOWN)}")
    return chosen


def _simulation(
    source: Path,
    *,
    rate: float,
    seconds: float,
    max_sequences: int,
    token_budget: int,
    kv_tokens: int,
    drafts: int,
    **rest: Any,
) -> Simulation:
    """The simulation that the options describe.

    It starts at the current hour, so that today's prices apply and windows fall the same each time.
    """
    scheduler = SchedulerConfig(
        max_sequences=max_sequences, token_budget=token_budget, kv_tokens=kv_tokens, drafts=drafts
    )
    servegen_options = ServeGenOptions(seconds=seconds, rate=rate)
    wall_ns = time.time_ns() // NS_PER_HOUR * NS_PER_HOUR
    return Simulation(trace=source, servegen_options=servegen_options, scheduler=scheduler, wall_ns=wall_ns, **rest)


class _Progress:
    """Shows the progress of long work on stderr, where that is a terminal."""

    def __init__(self, activity: str, unit: str) -> None:
        self._activity, self._unit = activity, unit
        self._shown = sys.stderr.isatty()
        self._last_shown_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int) -> None:
        if self._shown and time.monotonic() - self._last_shown_s > 0.2:
            self._last_shown_s = time.monotonic()
            sys.stderr.write(f"\r\x1b[K{self._activity}: {done:,} {self._unit}")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._last_shown_s:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
