"""Results of load generators and of InferenceX as figures; which tool wrote a file is recognised by its shape.

What each counts: InferenceX ``tput_per_gpu`` is *total* tokens over all GPUs. Its output (input) figure of a
disaggregated run is over decode (prefill) GPUs only; here it becomes tokens/s of the whole system, so that a cost per
output token includes the prefill GPUs. ``vllm bench serve``, AIPerf and GuideLLM do not record the GPUs: the caller
says how many there were, and of which kind.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.errors import CosttraceError
from costtrace_board import mlperf
from costtrace_board.figures import Figure, FigureRefused, Imported, Provenance, Refusal
from costtrace_board.record_fields import Record, inner, number, positive, text, whole


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


def inferencex(row: Record, file: str, where: str) -> Figure:
    """One ``agg_*.json`` row. Raises: FigureRefused."""
    disagg = text(row, "disagg").casefold() == "true"
    prefill, decode = whole(row, "num_prefill_gpu"), whole(row, "num_decode_gpu")
    if disagg:
        if prefill is None or decode is None:
            raise FigureRefused("a disaggregated run without num_prefill_gpu and num_decode_gpu: its GPUs are unknown")
        gpus, for_input, for_output = prefill + decode, prefill, decode
    else:
        tp, pp, pcp = (whole(row, key) or 1 for key in ("tp", "pp", "pcp_size"))
        gpus = for_input = for_output = decode or tp * pp * pcp
    total = positive(row, "tput_per_gpu") * gpus
    output_rate, input_rate = number(row, "output_tput_per_gpu"), number(row, "input_tput_per_gpu")
    notes = (f"disaggregated: {for_input} prefill and {for_output} decode GPUs, all of them in every cost",)
    power = number(row, "avg_total_gpu_power_w") if text(row, "power_valid").casefold() == "true" else None
    return Figure(
        Provenance("inferencex", file, where, "InferenceX result row", text(row, "date")),
        model=text(row, "infmax_model_prefix") or text(row, "model"),
        hardware=text(row, "hw").upper(),
        gpus=gpus,
        total=total,
        input=None if input_rate is None else input_rate * for_input,
        output=None if output_rate is None else output_rate * for_output,
        interactivity=_interactivity(row),
        concurrency=whole(row, "conc"),
        scenario=f"{text(row, 'isl')}/{text(row, 'osl')}",
        software=text(row, "framework"),
        precision=text(row, "precision"),
        watts=power,
        notes=notes if disagg else (),
    )


def _interactivity(row: Record) -> Decimal | None:
    """Tokens/s/user: as stated, else the reciprocal of the median time per output token (s)."""
    stated = number(row, "median_intvty")
    tpot = number(row, "median_tpot")
    return stated if stated is not None else 1 / tpot if tpot else None


def vllm_bench(row: Record, file: str, where: str, server: ServerHardware) -> Figure:
    """One result of ``vllm bench serve --save-result``. Raises: FigureRefused."""
    hardware, gpus = server.checked("vllm bench serve")
    if (failed := number(row, "failed")) and failed > 0:
        raise FigureRefused(f"{failed} requests failed: the throughput is not that of the load that was meant")
    tpot = number(row, "median_tpot_ms")
    output_rate, total_rate = positive(row, "output_throughput"), number(row, "total_token_throughput")
    return Figure(
        Provenance("vllm-bench", file, where, "vllm bench serve", text(row, "date")),
        model=text(row, "model_id"),
        hardware=hardware,
        gpus=gpus,
        total=total_rate,
        input=None if total_rate is None else total_rate - output_rate,
        output=output_rate,
        interactivity=None if not tpot else 1_000 / tpot,
        concurrency=whole(row, "max_concurrency"),
        software=text(row, "backend"),
    )


def aiperf(row: Record, file: str, where: str, server: ServerHardware) -> Figure:
    """One ``profile_export_aiperf.json``. Raises: FigureRefused."""
    hardware, gpus = server.checked("AIPerf")
    if (errors := number(inner(row, "error_request_count"), "avg")) and errors > 0:
        raise FigureRefused(f"{errors} requests failed: the throughput is not that of the load that was meant")
    if row.get("was_cancelled") is True:
        raise FigureRefused("the run was cancelled: its throughput is that of a part")
    output_rate = positive(inner(row, "output_token_throughput"), "avg")
    total_rate = number(inner(row, "total_token_throughput"), "avg")
    model, concurrency = _aiperf_config(inner(row, "input_config"))
    return Figure(
        Provenance("aiperf", file, where, "AIPerf", text(row, "start_time")),
        model=model,
        hardware=hardware,
        gpus=gpus,
        total=total_rate,
        input=None if total_rate is None else total_rate - output_rate,
        output=output_rate,
        interactivity=number(inner(row, "output_token_throughput_per_user"), "avg"),
        concurrency=concurrency,
        software=text(row, "aiperf_version"),
    )


def aiperf_latencies(row: Record) -> dict[str, object]:
    """AIPerf's latencies (ms) under the names of vllm bench serve: ``median_tpot_ms``, ..."""
    kinds = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2el": "request_latency"}
    parts = {"mean": "avg", "median": "p50", "std": "std", "p99": "p99"}
    latencies_ms: dict[str, object] = {}
    for short, name in kinds.items():
        for statistic, key in parts.items():
            if (value := number(inner(row, name), key)) is not None:
                latencies_ms[f"{statistic}_{short}_ms"] = value
    return latencies_ms


def _aiperf_config(config: Record) -> tuple[str, int | None]:
    """Model and concurrency, as AIPerf 0.13 writes them (``models``, ``phases``) or as older versions do."""
    names = inner(config, "endpoint").get("model_names")
    if isinstance(names, list):
        return " ".join(map(str, names)), whole(inner(config, "loadgen"), "concurrency")
    items, phases = inner(config, "models").get("items"), config.get("phases")
    models = [text(item, "name") for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    runs = [phase for phase in phases if isinstance(phase, Mapping)] if isinstance(phases, list) else []
    return " ".join(models), whole(runs[-1], "concurrency") if runs else None


def guidellm(row: Record, file: str, where: str, server: ServerHardware) -> Figure:
    """One of the ``benchmarks`` of a GuideLLM report. Raises: FigureRefused."""
    hardware, gpus = server.checked("GuideLLM")
    metrics = inner(row, "metrics")

    def mean(name: str) -> Decimal | None:
        return number(inner(metrics, name, "successful"), "mean")

    output_rate, total_rate, input_rate = (mean(f"{kind}tokens_per_second") for kind in ("output_", "", "prompt_"))
    if output_rate is None or output_rate <= 0:
        raise FigureRefused("no output_tokens_per_second of successful requests")
    inter_token_ms = mean("inter_token_latency_ms")
    return Figure(
        Provenance("guidellm", file, where, "GuideLLM", ""),
        model=text(inner(row, "config", "backend"), "model"),
        hardware=hardware,
        gpus=gpus,
        total=total_rate,
        input=input_rate,
        output=output_rate,
        interactivity=None if not inter_token_ms else 1_000 / inter_token_ms,
    )


def read(data: object, file: str, server: ServerHardware) -> Imported:
    """Figures of a JSON file whose writer is recognised by its shape. Raises: CosttraceError, where none fits."""
    if mlperf.fits(data):
        return mlperf.read(data, file)
    if isinstance(data, Mapping) and isinstance(data.get("benchmarks"), list):
        benchmarks = data["benchmarks"]
        return _each(benchmarks, file, lambda row, where: guidellm(row, file, where, server))
    rows = data if isinstance(data, list) else [data]
    first = rows[0] if rows and isinstance(rows[0], Mapping) else {}
    if "tput_per_gpu" in first:
        return _each(rows, file, lambda row, where: inferencex(row, file, where))
    if "output_throughput" in first and "total_input_tokens" in first:
        return _each(rows, file, lambda row, where: vllm_bench(row, file, where, server))
    if isinstance(first.get("output_token_throughput"), Mapping):
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
