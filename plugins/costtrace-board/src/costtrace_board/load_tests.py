"""Results of load generators as figures; which tool wrote a file is recognised by its shape.

``vllm bench serve``, AIPerf and GuideLLM do not record the GPUs: the caller says how many there were, and of which
kind.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.errors import CosttraceError
from costtrace_board import mlperf
from costtrace_board.figures import Figure, FigureRefused, Imported, Provenance, Refusal
from costtrace_board.inferencex import figure as inferencex
from costtrace_board.inferencex import fits as is_inferencex
from costtrace_board.record_fields import (
    Record,
    all_served,
    flag,
    inner,
    mappings,
    measured,
    number,
    positive,
    text,
    whole,
)


class ServerHardware(NamedTuple):
    """The hardware of a load-tested server, as the caller states it where the file does not."""

    hardware: str = ""
    gpus: int | None = None

    def checked(self, tool: str) -> tuple[str, int]:
        """Hardware and GPUs. Raises: FigureRefused, where one is missing."""
        if not self.hardware or self.gpus is None:
            raise FigureRefused(
                f"{tool} does not record on what the server ran: say it with --hardware 'NVIDIA H200' --gpus 8 (all "
                "GPUs of the server, on all nodes)"
            )
        return self.hardware, self.gpus


def _input_rate(total: Decimal | None, output: Decimal) -> Decimal | None:
    """Input tokens/s. Raises: FigureRefused, where less tokens are counted in total than in the output."""
    if total is not None and total < output:
        raise FigureRefused(f"{output} output tokens/s are more than the total of {total}: output_throughput is wrong")
    return None if total is None else total - output


def _per_user(inter_token_ms: Decimal | None) -> Decimal | None:
    return None if inter_token_ms is None else 1_000 / inter_token_ms


def vllm_bench(row: Record, file: str, where: str, server: ServerHardware) -> Figure:
    """One result of ``vllm bench serve --save-result``. Raises: FigureRefused."""
    hardware, gpus = server.checked("vllm bench serve")
    failed, completed, meant = (number(row, key) for key in ("failed", "completed", "num_prompts"))
    if failed is None and completed is not None and meant is not None:  # before vllm bench counted failures
        failed = meant - completed
    all_served(failed, failed + completed if failed is not None and completed is not None else meant)
    output_rate, total_rate = positive(row, "output_throughput"), number(row, "total_token_throughput")
    return Figure(
        Provenance("vllm-bench", file, where, "vllm bench serve", text(row, "date")),
        model=text(row, "model_id"),
        hardware=hardware,
        gpus=gpus,
        total=total_rate,
        input=_input_rate(total_rate, output_rate),
        output=output_rate,
        interactivity=_per_user(measured(row, "median_tpot_ms")),
        concurrency=whole(row, "max_concurrency"),
        software=text(row, "backend"),
    )


def aiperf(row: Record, file: str, where: str, server: ServerHardware) -> Figure:
    """One ``profile_export_aiperf.json``. Raises: FigureRefused."""
    hardware, gpus = server.checked("AIPerf")
    errors, served = number(inner(row, "error_request_count"), "avg"), number(inner(row, "request_count"), "avg")
    if errors is None:  # older exports
        errors = sum((number(kind, "count") or Decimal(0) for kind in mappings(row.get("error_summary"))), Decimal(0))
    all_served(errors, None if served is None else errors + served)
    if flag(row, "was_cancelled"):
        raise FigureRefused("the run was cancelled: its throughput is that of a part")
    output_rate, total_rate = _aiperf_rate(row, "output_token_throughput"), _aiperf_rate(row, "total_token_throughput")
    if output_rate is None:
        raise FigureRefused("no output_token_throughput above 0")
    model, concurrency = _aiperf_config(inner(row, "input_config"))
    return Figure(
        Provenance("aiperf", file, where, "AIPerf", text(row, "start_time")),
        model=model,
        hardware=hardware,
        gpus=gpus,
        total=total_rate,
        input=_input_rate(total_rate, output_rate),
        output=output_rate,
        interactivity=_aiperf_rate(row, "output_token_throughput_per_user"),
        concurrency=concurrency,
        software=text(row, "aiperf_version"),
    )


def _aiperf_rate(row: Record, name: str) -> Decimal | None:
    """Tokens/s of a metric. Raises: FigureRefused, where it is in another unit."""
    metric = inner(row, name)
    unit = text(metric, "unit")
    if unit and not unit.startswith("tokens/sec"):
        raise FigureRefused(f"{name} is in {unit}, not in tokens/sec")
    return measured(metric, "avg")


def aiperf_latencies(row: Record) -> dict[str, object]:
    """AIPerf's latencies (ms) under the names of vllm bench serve: ``median_tpot_ms``, ..."""
    kinds = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2el": "request_latency"}
    parts = {"mean": "avg", "median": "p50", "std": "std", "p99": "p99"}
    latencies_ms: dict[str, object] = {}
    for short, name in kinds.items():
        for statistic, key in parts.items() if text(inner(row, name), "unit") in {"", "ms"} else ():
            if (value := number(inner(row, name), key)) is not None:
                latencies_ms[f"{statistic}_{short}_ms"] = value
    return latencies_ms


def _aiperf_config(config: Record) -> tuple[str, int | None]:
    """Model and concurrency, as AIPerf 0.13 writes them (``models``, ``phases``) or as older versions do."""
    names = inner(config, "endpoint").get("model_names")
    if isinstance(names, list):
        return " ".join(map(str, names)), whole(inner(config, "loadgen"), "concurrency")
    items, phases = inner(config, "models").get("items"), config.get("phases")
    models, runs = [text(item, "name") for item in mappings(items)], mappings(phases)
    return " ".join(models), whole(runs[-1], "concurrency") if runs else None


def guidellm(row: Record, file: str, where: str, server: ServerHardware) -> Figure:
    """One of the ``benchmarks`` of a GuideLLM report. Raises: FigureRefused."""
    hardware, gpus = server.checked("GuideLLM")
    metrics = inner(row, "metrics")
    failed, served = _guidellm_requests(row)
    all_served(failed, None if failed is None or served is None else failed + served)

    def mean(name: str) -> Decimal | None:
        return number(inner(metrics, name, "successful"), "mean")

    output_rate, total_rate, input_rate = (mean(f"{kind}tokens_per_second") for kind in ("output_", "", "prompt_"))
    if output_rate is None or output_rate <= 0:
        raise FigureRefused("no output_tokens_per_second of successful requests")
    return Figure(
        Provenance("guidellm", file, where, "GuideLLM", ""),
        model=text(inner(row, "config", "backend"), "model"),
        hardware=hardware,
        gpus=gpus,
        total=total_rate,
        input=input_rate,
        output=output_rate,
        interactivity=_per_user(measured(inner(metrics, "inter_token_latency_ms", "successful"), "mean")),
    )


def _guidellm_requests(row: Record) -> tuple[Decimal | None, Decimal | None]:
    """Requests that failed, and that were served; what a time limit cut off is neither."""
    for path in (
        ("metrics", "request_totals"),
        ("request_totals",),
        ("scheduler_metrics", "requests_made"),
        ("run_stats", "requests_made"),
    ):
        totals = inner(row, *path)
        if "errored" in totals:
            return number(totals, "errored"), number(totals, "successful")
    failed, served = (inner(row, "requests").get(key) for key in ("errored", "successful"))
    return _length(failed), _length(served)


def _length(listed: object) -> Decimal | None:
    return Decimal(len(listed)) if isinstance(listed, list) else None


def read(data: object, file: str, server: ServerHardware) -> Imported:
    """Figures of a JSON file whose writer is recognised by its shape. Raises: CosttraceError, where none fits."""
    if mlperf.fits(data):
        return mlperf.read(data, file)
    if isinstance(data, Mapping) and isinstance(data.get("benchmarks"), list):
        benchmarks = data["benchmarks"]
        return _each(benchmarks, file, lambda row, where: guidellm(row, file, where, server))
    rows = data if isinstance(data, list) else [data]
    records = mappings(rows)
    if any(map(is_inferencex, records)):
        return _each(rows, file, lambda row, where: inferencex(row, file, where))
    if any("output_throughput" in row and "total_input_tokens" in row for row in records):
        return _each(rows, file, lambda row, where: vllm_bench(row, file, where, server))
    if any(isinstance(row.get("output_token_throughput"), Mapping) for row in records):
        return _each(rows, file, lambda row, where: aiperf(row, file, where, server))
    raise CosttraceError(
        f"{file} has the shape of no known result: MLPerf Inference summary, InferenceX agg_*.json, vllm bench serve, "
        "AIPerf profile_export_aiperf.json, GuideLLM report. A CSV has to end in .csv."
    )


def _each(rows: list[object], file: str, make: Callable[[Record, str], Figure]) -> Imported:
    figures: list[Figure] = []
    refusals: list[Refusal] = []
    for index, row in enumerate(rows):
        try:
            figures.append(make(row if isinstance(row, Mapping) else {}, str(index)))
        except FigureRefused as refused:
            refusals.append(Refusal(f"{file}: {index}", str(refused)))
    return Imported(tuple(figures), tuple(refusals))
