"""MLPerf Inference summaries (the v5.1 list and the v6 index) as figures.

MLPerf's ``Tokens/s`` of LLM benchmarks are *output* tokens of the whole system. In v5.1 files ``a#`` counts the
accelerators of one node: the system has ``a#`` x ``Nodes``. A cost derived from a row is not an
MLPerf metric, and is marked so.
"""

import re
from collections.abc import Iterator, Mapping

from costtrace.core.errors import CosttraceError
from costtrace_board.figures import Figure, FigureRefused, Imported, Provenance, Refusal
from costtrace_board.record_fields import Record, measured, positive, text, whole

LLM = re.compile(r"deepseek|gpt-oss|llama|mixtral|gpt-?j|qwen", re.IGNORECASE)
TERMS = (
    "MLPerf name and results: MLCommons; quote round, submitter, system, division and availability. The cost per "
    "token is derived by costtrace and is not an MLPerf metric."
)
_STATED = re.compile(r"\((?:(\d{1,6}) ?x ?)?(\d{1,6}) ?x ?[A-Z]", re.ASCII)
"""Finds the GPUs that a system's name states: ``(72x GB200``, ``(2x8x MI300X``."""

V6_NAMES = {
    "Submitter": "Organization",
    "Category": "Division",
    "Suite": "SystemType",
    "System": "SystemName",
    "Performance_Result": "Result",
    "Performance_Units": "Units",
    "Nodes": "number_of_nodes",
    "a#": "accelerators_per_node",
    "Accelerator": "accelerator_model_name",
    "Software": "framework",
}
"""The names that v6 has for the fields of v5.1."""


def read(data: object, file: str) -> Imported:
    """Every datacenter LLM row of a summary, as a figure or as a refusal. Raises: CosttraceError, for another file."""
    figures: list[Figure] = []
    refusals: list[Refusal] = []
    skipped = 0
    for index, row in enumerate(_rows(data, file)):
        if text(row, "Suite") != "datacenter" or not LLM.search(text(row, "Model")):
            skipped += 1
            continue
        where = f"{index}: {text(row, 'Submitter')} {text(row, 'System')} {text(row, 'Model')} {text(row, 'Scenario')}"
        try:
            figures.append(_figure(row, file, where))
        except FigureRefused as refused:
            refusals.append(Refusal(where, str(refused)))
    return Imported(tuple(figures), tuple(refusals), skipped)


def fits(data: object) -> bool:
    """Whether *data* looks like a summary of MLPerf Inference."""
    rows = list(data.values())[:1] if isinstance(data, Mapping) else data[:1] if isinstance(data, list) else []
    first = rows[0] if rows and isinstance(rows[0], Mapping) else {}
    return "Scenario" in first and ("Performance_Result" in first or "accelerators_per_node" in first)


def _rows(data: object, file: str) -> Iterator[Record]:
    rows = data.values() if isinstance(data, Mapping) else data if isinstance(data, list) else ()
    for row in rows:
        if not isinstance(row, Mapping):
            raise CosttraceError(f"{file} is no MLPerf summary: {row!r} is not a row")
        yield {**row, **{name: row[v6] for name, v6 in V6_NAMES.items() if v6 in row}}


def _figure(row: Record, file: str, where: str) -> Figure:
    units = text(row, "Performance_Units")
    if units.casefold() != "tokens/s":
        raise FigureRefused(
            f"its result is in {units}, not in tokens/s: without the tokens of a query it has no cost per token"
        )
    power = measured(row, "Power_Result") if text(row, "Power_Units") == "Watts" else None
    release = text(row, "version")
    return Figure(
        Provenance(
            "mlperf",
            file,
            where,
            f"MLPerf Inference {release}, {text(row, 'Submitter')}, {text(row, 'System').strip()}, "
            f"{text(row, 'Category')}, {text(row, 'Availability')}",
            release,
            TERMS,
        ),
        model=text(row, "Model"),
        hardware=text(row, "Accelerator"),
        gpus=_accelerators(row),
        output=positive(row, "Performance_Result"),
        scenario=text(row, "Scenario"),
        software=text(row, "Software"),
        precision=text(row, "weight_data_types"),
        watts=power,
    )


def _accelerators(row: Record) -> int:
    """Accelerators of the whole system. Raises: FigureRefused, where the row contradicts itself."""
    per_node, nodes = whole(row, "a#"), whole(row, "Nodes")
    kind = text(row, "Accelerator")
    if per_node is None or not kind:
        raise FigureRefused("no accelerator: it ran on processors, and a price per GPU-hour says nothing of them")
    if nodes is None:
        raise FigureRefused("the number of nodes is missing: accelerators are counted per node")
    if "," in kind:
        raise FigureRefused(f"different accelerators in one system ({kind}): no single price per GPU-hour applies")
    total = per_node * nodes
    stated = whole(row, "total_accelerators")
    if stated is not None and stated != total:
        raise FigureRefused(
            f"{stated} accelerators in total, but {nodes} nodes with {per_node} each are {total}: a per-node count "
            "may have been taken for a total"
        )
    name = _STATED.search(text(row, "System"))
    if name and int(name[1] or 1) * int(name[2]) != total:
        raise FigureRefused(
            f"the system's name says {name[0].strip('(')}, but {nodes} nodes with {per_node} accelerators each are "
            f"{total}: a per-node count may have been taken for a total"
        )
    return total
