"""CSV files as figures: costtrace's own form, and the form of Artificial Analysis' System Load Test.

Plain: ``model,hardware,gpus_total | gpus_per_node + nodes,tokens_per_s,token_basis`` and, where known,
``interactivity,concurrency,scenario,software,precision,watts,source,date``. A column that is called just ``gpus`` is
accepted for a single node only: with several nodes it could count one of them or all.

Artificial Analysis publishes no file: a user copies the figures from its pages, one row for each phase, with
``system_output_throughput`` (output tokens/s of the system) and ``concurrency``; 1,000 tokens in and out.
"""

import csv
import io

from costtrace.core.errors import CosttraceError
from costtrace_board.figures import BASES, Figure, FigureRefused, Imported, Provenance, Refusal
from costtrace_board.record_fields import Record, measured, positive, text, whole

MAX_ROWS = 100_000


def read(content: str, file: str) -> Imported:
    """Figures of a CSV file. Raises: CosttraceError, where it has neither form or too many rows."""
    reader = csv.DictReader(io.StringIO(content, newline=""))
    try:
        numbered = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise CosttraceError(f"cannot read {file}, line {reader.line_num}: {error}") from error
    rows = [row for _, row in numbered]
    if len(rows) > MAX_ROWS:
        raise CosttraceError(f"{file} has more than {MAX_ROWS} rows. Is it the right file?")
    names = set(rows[0]) if rows else set()
    if "system_output_throughput" in names:
        make = _artificial_analysis
    elif {"model", "hardware", "tokens_per_s"} <= names:
        make = _plain
    else:
        raise CosttraceError(
            f"{file} has none of the known headers: model, hardware, gpus_total, tokens_per_s, token_basis (plain); "
            "model, hardware, gpus_total, concurrency, system_output_throughput (Artificial Analysis)"
        )
    figures: list[Figure] = []
    refusals: list[Refusal] = []
    for line, row in numbered:
        try:
            figures.append(make(_complete(row), file, f"line {line}"))
        except FigureRefused as refused:
            refusals.append(Refusal(f"{file}: line {line}", str(refused)))
    return Imported(tuple(figures), tuple(refusals))


def _complete(row: Record) -> Record:
    if None in row:
        raise FigureRefused("more cells than the header: is there a comma in a number? Write 1234.5")
    return row


def _plain(row: Record, file: str, where: str) -> Figure:
    basis = text(row, "token_basis").casefold()
    if basis not in BASES:
        raise FigureRefused(
            f"token_basis is {basis!r}: say which tokens tokens_per_s counts: {', '.join(BASES)} (total = input + "
            "output). Without it no figure can be compared with it."
        )
    rate = positive(row, "tokens_per_s")
    return Figure(
        Provenance("csv", file, where, text(row, "source"), text(row, "date")),
        model=text(row, "model"),
        hardware=text(row, "hardware"),
        gpus=gpus_of(row),
        total=rate if basis == "total" else None,
        input=rate if basis == "input" else None,
        output=rate if basis == "output" else None,
        interactivity=measured(row, "interactivity"),
        concurrency=whole(row, "concurrency"),
        scenario=text(row, "scenario"),
        software=text(row, "software"),
        precision=text(row, "precision"),
        watts=measured(row, "watts"),
    )


def _artificial_analysis(row: Record, file: str, where: str) -> Figure:
    return Figure(
        Provenance(
            "artificial-analysis",
            file,
            where,
            "Artificial Analysis System Load Test, as the user wrote it down",
            text(row, "date"),
        ),
        model=text(row, "model"),
        hardware=text(row, "hardware"),
        gpus=gpus_of(row),
        output=positive(row, "system_output_throughput"),
        interactivity=measured(row, "median_output_speed"),
        concurrency=whole(row, "concurrency"),
        scenario="1000/1000 closed loop",
        software=text(row, "software"),
    )


def gpus_of(row: Record) -> int:
    """GPUs of the whole system. Raises: FigureRefused, where a per-node count could be mistaken for the total."""
    total, per_node = whole(row, "gpus_total"), whole(row, "gpus_per_node")
    nodes, unqualified = whole(row, "nodes"), whole(row, "gpus")
    if unqualified is not None and total is None and per_node is None:
        if (nodes or 1) > 1:
            raise FigureRefused(
                f"gpus is {unqualified} with {nodes} nodes: a per-node count may have been taken for a total. Say "
                f"gpus_total, or gpus_per_node ({unqualified} a node would be {unqualified * (nodes or 1)} GPUs)."
            )
        return unqualified
    if per_node is not None and nodes is None and total is None:
        raise FigureRefused("gpus_per_node without nodes: the GPUs of the whole system are unknown")
    product = per_node * nodes if per_node is not None and nodes is not None else None
    if total is not None and product is not None and total != product:
        raise FigureRefused(
            f"gpus_total is {total}, but {nodes} nodes with {per_node} GPUs each are {product}: a per-node count may "
            "have been taken for a total"
        )
    gpus = total if total is not None else product
    if gpus is None:
        raise FigureRefused("how many GPUs? Give gpus_total, or gpus_per_node and nodes")
    return gpus
