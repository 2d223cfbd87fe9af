"""``costtrace benchmarks``: published measurements and claims as cost per million tokens."""

from pathlib import Path

import click

from costtrace.cli.options import examples, format_option, out
from costtrace.core.errors import CosttraceError
from costtrace.reports.output.render import render
from costtrace_board import csv_files, load_tests
from costtrace_board.claims import claims as all_claims
from costtrace_board.commands.tier_options import find_tier, tier_options
from costtrace_board.figures import Imported, Priced, Refusal, price_all
from costtrace_board.record_fields import load_json
from costtrace_board.tables import benchmark_tables, claims_tables, published_tables

MAX_BYTES = 256 * 1024 * 1024


@click.group(short_help="Benchmarks and published claims as cost per million tokens.")
def benchmarks() -> None:
    """Show what others measured and claimed, as cost per million tokens: with source, token basis and price tier."""


@benchmarks.command(
    "import",
    short_help="Results of benchmarks as cost per million tokens under a price tier.",
    epilog=examples(
        "costtrace benchmarks import summary_results.json --tier hyperscaler",
        "costtrace benchmarks import agg_*.json --tier neocloud --basis total",
        "costtrace benchmarks import bench.json --tier mine=2.10 --hardware 'NVIDIA H200' --gpus 8",
    ),
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@tier_options
@click.option("--hardware", default="", help="On what the server ran, where the file does not say it.")
@click.option("--gpus", type=click.IntRange(1), help="GPUs of the whole server on all nodes, likewise.")
@click.option("--model", help="Only figures of this model.")
@format_option
def import_(
    *,
    files: tuple[Path, ...],
    tier: str | None,
    book: Path | None,
    basis: str,
    hardware: str,
    gpus: int | None,
    model: str | None,
    form: str,
) -> None:
    """Read results of benchmarks; the kind of a FILE is recognised by its shape.

    Known are MLPerf Inference summaries, InferenceX agg_*.json, vllm bench serve, AIPerf, GuideLLM, and CSV (of
    costtrace's own form, or written down from Artificial Analysis). Every row becomes a figure or is refused with a
    reason.
    """
    price_tier = find_tier(tier, book)
    priced: list[Priced] = []
    refused: list[Refusal] = []
    for file in files:
        imported = read_file(file, load_tests.ServerHardware(hardware, gpus))
        if model is not None:
            imported = imported._replace(figures=tuple(figure for figure in imported.figures if figure.model == model))
        figures, refusals = price_all(imported, price_tier, basis)
        priced += figures
        refused += refusals
    priced.sort(key=lambda entry: (entry.figure.model, entry.per_million))
    out(render(benchmark_tables(priced, refused), form))
    if not priced and refused:
        raise CosttraceError(f"none of {len(refused)} rows became a figure: the reasons are in the table above")


def read_file(file: Path, server: load_tests.ServerHardware) -> Imported:
    """All figures and refusals of a file. Raises: CosttraceError."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise CosttraceError(f"{file} is larger than {MAX_BYTES} bytes. Is it the right file?")
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CosttraceError(f"cannot read {file}: {error}") from error
    if file.suffix.casefold() == ".csv":
        return csv_files.read(content, file.name)
    return load_tests.read(load_json(content, file.name), file.name, server)


@benchmarks.command(
    short_help="Published claims, computed again from their inputs.",
    epilog=examples("costtrace benchmarks claims", "costtrace benchmarks claims --only two-cents --format json"),
)
@click.option("--only", help=f"One claim: {', '.join(claim.key for claim in all_claims())}.")
@format_option
def claims(*, only: str | None, form: str) -> None:
    """Compute published claims again from their stated inputs, to the published digits; show what they leave out."""
    shown = [claim for claim in all_claims() if only in {None, claim.key}]
    if not shown:
        raise CosttraceError(f"there is no claim {only!r}: take {', '.join(claim.key for claim in all_claims())}")
    out(render(claims_tables(shown), form))


@benchmarks.command(short_help="The bundled table of published reference points and prices.")
@format_option
def published(*, form: str) -> None:
    """Show the bundled reference points and tier prices: dated, sourced, with token basis and conditions."""
    out(render(published_tables(), form))
