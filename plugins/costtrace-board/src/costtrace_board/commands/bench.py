"""``costtrace bench``: runs a load generator against a live endpoint and joins its requests to the ledger by id."""

import json
import shutil
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import click

from costtrace.cli.options import examples, format_option, home_option, out
from costtrace.core.errors import CosttraceError
from costtrace.core.units import NS_PER_S
from costtrace.ledger.reader import open_ledger
from costtrace.reports.output.files import write_file
from costtrace.reports.output.render import render
from costtrace_board.commands.benchmarks import read_file
from costtrace_board.commands.tier_options import find_tier
from costtrace_board.figures import BASES, Priced, price_all
from costtrace_board.load_generators import GENERATORS, Load, LoadRun
from costtrace_board.load_tests import ServerHardware
from costtrace_board.page import points_page
from costtrace_board.pareto import OperatingPoint, RunBill, charts, inferencex_row, table
from costtrace_board.query import billed

POLL_S = 0.5
Generate = Callable[[Load, int, Path], LoadRun]


@click.command(
    short_help="Load-test a live endpoint and price its requests from the ledger.",
    epilog=examples(
        "costtrace bench --url http://127.0.0.1:8000 --model Qwen/Qwen3-8B --concurrency 1,4,16,64 --out bench",
        "costtrace bench --model m --concurrency 1,8 --out bench --compare agg_b200.json --tier neocloud",
        "costtrace bench --model m --generator aiperf --aiperf ~/aiperf/bin/aiperf --out bench",
    ),
)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The server.")
@click.option("--model", required=True, help="The name that the server knows the model by.")
@click.option("--tokenizer", help="Name or folder of its tokenizer.  [default: the model]")
@click.option("--concurrency", default="1,4,16", show_default=True, help="Users at once, one run for each number.")
@click.option("--input-len", type=click.IntRange(1), default=1024, show_default=True, help="Tokens of a prompt.")
@click.option("--output-len", type=click.IntRange(1), default=1024, show_default=True, help="Tokens of an answer.")
@click.option("--requests", type=click.IntRange(1), default=10, show_default=True, help="Requests for each user.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--generator", type=click.Choice(tuple(GENERATORS)), default="vllm", show_default=True, help="The load generator."
)
@click.option("--vllm", default="vllm", show_default=True, help="The vllm command whose `bench serve` is run.")
@click.option("--aiperf", default="aiperf", show_default=True, help="The aiperf command whose `profile` is run.")
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path), help="Folder for results and page.")
@click.option("--basis", type=click.Choice(BASES), default="output", show_default=True, help="Tokens that are counted.")
@click.option("--compare", multiple=True, type=click.Path(path_type=Path), help="Others' results for the same chart.")
@click.option("--tier", help="Their price tier, as for `costtrace benchmarks import`.")
@click.option("--wait", type=click.IntRange(1), default=120, show_default=True, help="Seconds to wait for the ledger.")
@format_option
@home_option
def bench(
    *,
    url: str,
    model: str,
    tokenizer: str | None,
    concurrency: str,
    input_len: int,
    output_len: int,
    requests: int,
    seed: int,
    generator: str,
    vllm: str,
    aiperf: str,
    folder: Path,
    basis: str,
    compare: tuple[Path, ...],
    tier: str | None,
    wait: int,
    form: str,
    home: Path,
) -> None:
    """Run `vllm bench serve`, or AIPerf, over a sweep of concurrency and report what its requests cost, by the ledger.

    The cost of each point is measured, not assumed from throughput: every request is found in the ledger by its id.
    The folder gets the generator's own results, rows in InferenceX's form (agg_*.json) and a page with both charts.
    """
    users = _concurrencies(concurrency)
    compared = _compared_figures(compare, tier, basis)
    program = {"vllm": vllm, "aiperf": aiperf}[generator]
    command = shutil.which(program)
    if command is None:
        raise CosttraceError(
            f"there is no command {program!r}: name the one of {generator}'s environment with --{generator}. "
            "(AIPerf: pip install aiperf, in an environment of its own.)"
        )
    load = Load(command, url, model, tokenizer or model, input_len, output_len, requests, seed)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CosttraceError(f"cannot make the folder {folder}: {error.strerror}") from error
    points = []
    for concurrent in users:
        point, run = _run_and_bill(GENERATORS[generator], load, concurrent, folder, home, wait)
        points.append(point)
        row = inferencex_row(point, run.latencies, input_len, output_len)
        write_file(folder, f"agg_costtrace_c{concurrent}.json", f"{json.dumps(row, indent=2)}\n".encode())
        if form == "table":
            click.echo(f"concurrency {concurrent}: {point.billed.requests} requests joined to the ledger", err=True)
    points_table = table(points, basis)
    currency = points[0].billed.currency
    style = (files("costtrace_ui") / "page.css").read_text(encoding="utf-8")
    title = f"Operating points of {model} on {points[0].billed.gpus} x {points[0].billed.device_name}"
    page = points_page(title, charts(points, compared, basis, currency), points_table, style)
    write_file(folder, "pareto.html", page.encode())
    out(render([points_table], form))


def _run_and_bill(
    generate: Generate, load: Load, users: int, folder: Path, home: Path, wait: int
) -> tuple[OperatingPoint, LoadRun]:
    """One run of the generator, and its bill. Raises: CosttraceError."""
    since_ns = time.time_ns() - NS_PER_S
    run = generate(load, users, folder)
    run.figure(ServerHardware("not known yet", 1))  # a run that is no figure is refused before its bill is waited for
    bill = _billed(home, run, since_ns, wait)
    return OperatingPoint(run.figure(ServerHardware(bill.device_name, bill.gpus)), bill), run


def _billed(home: Path, run: LoadRun, since_ns: int, wait: int) -> RunBill:
    """The bill of a run: waits up to *wait* s until all its requests are in the ledger. Raises: CosttraceError."""
    due = run.completed
    deadline = time.monotonic() + wait
    bill: RunBill | None = None
    while True:
        with open_ledger(home) as store:
            bill = billed(store, run.is_own, since_ns)
        if bill is not None and bill.requests >= due > 0:
            return bill
        if time.monotonic() > deadline:
            seen = 0 if bill is None else bill.requests
            raise CosttraceError(
                f"{seen} of {due} requests are in the ledger under {home} after {wait} s: is it this server's, and "
                "is its agent running? `costtrace doctor` says; --wait gives it longer."
            )
        time.sleep(POLL_S)


def _compared_figures(paths: tuple[Path, ...], tier: str | None, basis: str) -> list[Priced]:
    if not paths:
        return []
    price_tier = find_tier(tier, None)
    compared: list[Priced] = []
    for path in paths:
        priced, refusals = price_all(read_file(path, ServerHardware()), price_tier, basis)
        for refusal in refusals:
            click.echo(f"left out: {refusal.row}: {refusal.reason}", err=True)
        compared += priced
    return compared


def _concurrencies(text: str) -> list[int]:
    try:
        numbers = sorted({int(word) for word in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise CosttraceError(f"--concurrency {text}: write numbers from 1 up, with commas between, as in 1,4,16")
    return numbers
