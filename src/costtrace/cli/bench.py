"""``costtrace bench``: a load generator against a live endpoint, its requests joined to the ledger by their ids."""

import json
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import click

from costtrace.cli.benchmarks import read_file
from costtrace.cli.common import examples, format_option, home_option, out
from costtrace.cli.tiers import find_tier
from costtrace.errors import CosttraceError
from costtrace.ledger.board_query import billed
from costtrace.ledger.query import open_ledger
from costtrace.reports.render import render
from costtrace.tokenomics.figures import BASES, Priced, price_all
from costtrace.tokenomics.load_tests import Served, vllm_bench
from costtrace.tokenomics.page import points_page
from costtrace.tokenomics.pareto import Billed, Point, charts, inferencex_row, table
from costtrace.tokenomics.reading import load_json
from costtrace.units import NS_PER_S

POLL_S = 0.5
MAX_RUN_S = 3_600


class Load(NamedTuple):
    """What is asked of the load generator."""

    vllm: str
    url: str
    model: str
    tokenizer: str
    input_len: int
    output_len: int
    requests: int
    """For each user; at least."""
    seed: int


@click.command(
    short_help="Load-test a live endpoint and price its requests from the ledger.",
    epilog=examples(
        "costtrace bench --url http://127.0.0.1:8000 --model Qwen/Qwen3-8B --concurrency 1,4,16,64 --out bench",
        "costtrace bench --model m --concurrency 1,8 --out bench --compare agg_b200.json --tier neocloud",
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
@click.option("--vllm", default="vllm", show_default=True, help="The vllm command whose `bench serve` is run.")
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
    vllm: str,
    folder: Path,
    basis: str,
    compare: tuple[Path, ...],
    tier: str | None,
    wait: int,
    form: str,
    home: Path,
) -> None:
    """Run `vllm bench serve` over a sweep of concurrency and say what its requests cost, by the ledger.

    The cost of each point is measured, not assumed from throughput: every request is found in the ledger by its id.
    The folder gets the generator's own results, rows in InferenceX's form (agg_*.json) and a page with both charts.
    """
    users = _numbers(concurrency)
    others = _others(compare, tier, basis)
    command = shutil.which(vllm)
    if command is None:
        raise CosttraceError(f"there is no command {vllm!r}: name the one of vLLM's environment with --vllm")
    load = Load(command, url, model, tokenizer or model, input_len, output_len, requests, seed)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CosttraceError(f"cannot make the folder {folder}: {error.strerror}") from error
    points = []
    for count in users:
        point, run = _one(load, count, folder, home, wait)
        points.append(point)
        row = inferencex_row(point, run, input_len, output_len)
        _keep(folder / f"agg_costtrace_c{count}.json", json.dumps(row, indent=2) + "\n")
        if form == "table":
            click.echo(f"concurrency {count}: {point.billed.requests} requests joined to the ledger", err=True)
    shown = table(points, basis)
    currency = points[0].billed.currency
    style = (files("costtrace.tokenomics") / "board.css").read_text(encoding="utf-8")
    title = f"Operating points of {model} on {points[0].billed.gpus} x {points[0].billed.device_name}"
    _keep(folder / "pareto.html", points_page(title, charts(points, others, basis, currency), shown, style))
    out(render([shown], form))


def _one(load: Load, users: int, folder: Path, home: Path, wait: int) -> tuple[Point, Mapping[str, object]]:
    """One run and what it cost. Raises: CosttraceError."""
    prefix = f"ctbench-{secrets.token_hex(4)}-c{users}-"
    since_ns = time.time_ns() - NS_PER_S
    name = f"vllm_bench_c{users}.json"
    _generate(load, users, prefix, folder, name)
    run = load_json((folder / name).read_text(encoding="utf-8"), name)
    if not isinstance(run, dict):
        raise CosttraceError(f"{folder / name} is no result of vllm bench serve")
    found = _billed(home, prefix, since_ns, int(str(run.get("completed", 0))), wait)
    figure = vllm_bench(run, name, str(users), Served(found.device_name, found.gpus))
    return Point(figure, found), run


def _generate(load: Load, users: int, prefix: str, folder: Path, name: str) -> None:
    words = [
        *(load.vllm, "bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions"),
        *("--base-url", load.url, "--model", load.model, "--tokenizer", load.tokenizer, "--dataset-name", "random"),
        *("--random-input-len", str(load.input_len), "--random-output-len", str(load.output_len)),
        *("--num-prompts", str(load.requests * users), "--max-concurrency", str(users), "--ignore-eos"),
        *("--request-id-prefix", prefix, "--seed", str(load.seed), "--disable-tqdm"),
        *("--save-result", "--result-dir", str(folder), "--result-filename", name),
    ]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=MAX_RUN_S)  # noqa: S603 - a list, no shell
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CosttraceError(f"vllm bench serve did not finish: {error}") from error
    if done.returncode != 0 or not (folder / name).exists():
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise CosttraceError(f"vllm bench serve failed with status {done.returncode}:\n{tail}")


def _billed(home: Path, prefix: str, since_ns: int, wanted: int, wait: int) -> Billed:
    """Wait until all requests have closed in the ledger. Raises: CosttraceError."""
    deadline = time.monotonic() + wait
    found: Billed | None = None
    while True:
        with open_ledger(home) as store:
            found = billed(store, prefix, since_ns)
        if found is not None and found.requests >= wanted > 0:
            return found
        if time.monotonic() > deadline:
            seen = 0 if found is None else found.requests
            raise CosttraceError(
                f"{seen} of {wanted} requests are in the ledger under {home} after {wait} s: is it this server's, and "
                "is its agent running? `costtrace doctor` says; --wait gives it longer."
            )
        time.sleep(POLL_S)


def _others(paths: tuple[Path, ...], tier: str | None, basis: str) -> list[Priced]:
    if not paths:
        return []
    named = find_tier(tier, None)
    found: list[Priced] = []
    for path in paths:
        priced, refusals = price_all(read_file(path, Served()), named, basis)
        for refusal in refusals:
            click.echo(f"left out: {refusal.row}: {refusal.reason}", err=True)
        found += priced
    return found


def _numbers(text: str) -> list[int]:
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise CosttraceError(f"--concurrency {text}: write numbers from 1 up, with commas between, as in 1,4,16")
    return found


def _keep(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
