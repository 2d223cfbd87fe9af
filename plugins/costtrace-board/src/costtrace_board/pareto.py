"""Operating points of a server: cost per million tokens against interactivity and against throughput per GPU.

A point joins a load generator's speeds with the ledger's device time, energy and cost of the same requests. So its cost
is measured, not a throughput times an assumed utilisation. Points are written as rows in InferenceX's form, so that
others' runs and one's own fit in one chart.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from html import escape
from typing import NamedTuple

from costtrace_ui import svg

from costtrace.core.units import NANO_PER_UNIT, NS_PER_HOUR, UJ_PER_J
from costtrace.reports.output.row_tables import Column, Table, count, row_table
from costtrace.reports.output.tables import Row
from costtrace_board.charts import Dot, scatter
from costtrace_board.figures import Figure, FigureRefused, Priced, cost_per_million, rounded
from costtrace_board.tables import decimals, exact


class RunBill(NamedTuple):
    """The ledger's sums over the requests of one run."""

    requests: int
    gpu_ns: int
    cost_nano: int | None
    currency: str
    energy_uj: int | None
    input_tokens: int
    output_tokens: int
    batch_milli: int
    """Mean sequences in their steps, x 1,000."""
    device_name: str
    gpus: int
    simulated: bool
    engine: str = ""
    """The engine that served them: ``vllm``, ..."""


class OperatingPoint(NamedTuple):
    """One operating point: a run of a load generator and its bill."""

    figure: Figure
    billed: RunBill

    def per_million(self, basis: str) -> Fraction | None:
        """Currency units per million tokens, measured: the requests' cost over their tokens, without idle.

        None where a cost is unknown, or without tokens.
        """
        tokens = _tokens(self.billed, basis)
        if self.billed.cost_nano is None or not tokens:
            return None
        return Fraction(self.billed.cost_nano * 1_000_000, tokens * NANO_PER_UNIT)

    def assumed(self, basis: str) -> Fraction | None:
        """The cost that throughput alone implies: the same price per GPU-hour, every GPU held for the whole run."""
        if self.billed.cost_nano is None or not self.billed.gpu_ns:
            return None
        price = Fraction(self.billed.cost_nano * NS_PER_HOUR, self.billed.gpu_ns * NANO_PER_UNIT)
        try:
            return cost_per_million(price, self.figure.per_gpu(basis))
        except FigureRefused:
            return None


def _tokens(billed: RunBill, basis: str) -> int:
    inputs, outputs = billed.input_tokens, billed.output_tokens
    return {"input": inputs, "output": outputs, "total": inputs + outputs}[basis]


def front(points: Sequence[tuple[float, float]]) -> set[int]:
    """The Pareto front: indices of the (more is better, less is better) pairs that no other pair dominates."""
    return {
        index
        for index, (good, bad) in enumerate(points)
        if not any((g >= good and b < bad) or (g > good and b <= bad) for g, b in points)
    }


def table(points: Sequence[OperatingPoint], basis: str) -> Table:
    """One row for each point."""
    rows: list[Row] = [_row(point, basis) for point in points]
    currency = points[0].billed.currency if points else ""
    columns: tuple[Column, ...] = (
        count("concurrency", "concurrency"),
        count("requests", "requests"),
        decimals("tok/s/user", "interactivity_tokens_per_s_per_user"),
        decimals(f"{basis} tok/s/GPU", "tokens_per_s_per_gpu"),
        decimals("mean batch", "mean_batch"),
        decimals(f"{currency} per M {basis}, measured", "cost_per_million_tokens"),
        decimals("by throughput alone", "assumed_cost_per_million_tokens"),
        Column("J per output token", _joules),
    )
    notes = (
        "Measured: the ledger's cost of these requests over their tokens, without idle.",
        "By throughput alone: the same price over the run's tokens/s/GPU, every GPU taken for the whole run.",
    )
    return row_table("operating_points", "Operating points", columns, rows, notes)


def _joules(row: Row) -> str:
    value = row["joules_per_output_token"]
    return f"{value:.4g}" if isinstance(value, Decimal) else "unknown"


def _row(point: OperatingPoint, basis: str) -> Row:
    figure, billed = point.figure, point.billed
    joules = None
    if billed.energy_uj is not None and billed.output_tokens:
        joules = Fraction(billed.energy_uj, billed.output_tokens * UJ_PER_J)
    return {
        "model": figure.model,
        "hardware": billed.device_name,
        "gpus": billed.gpus,
        "concurrency": figure.concurrency,
        "requests": billed.requests,
        "token_basis": basis,
        "interactivity_tokens_per_s_per_user": figure.interactivity,
        "tokens_per_s_per_gpu": exact(figure.per_gpu(basis)),
        "mean_batch": rounded(Fraction(billed.batch_milli, 1_000), 3),
        "gpu_ns": billed.gpu_ns,
        "cost_nano": billed.cost_nano,
        "currency": billed.currency,
        "cost_per_million_tokens": exact(point.per_million(basis)),
        "assumed_cost_per_million_tokens": exact(point.assumed(basis)),
        "joules_per_output_token": exact(joules),
        "simulated": billed.simulated,
    }


def inferencex_row(point: OperatingPoint, latencies: Mapping[str, object], isl: int, osl: int) -> dict[str, object]:
    """A point in InferenceX's row form (times in s), with the ledger's figures under ``costtrace``.

    *latencies*: the generator's, in ms; *isl*, *osl*: input and output tokens of a request.
    """
    figure, billed = point.figure, point.billed
    row: dict[str, object] = {
        "hw": "" if " + " in billed.device_name else billed.device_name,  # no single price is that of two kinds
        "conc": figure.concurrency,
        "model": figure.model,
        "infmax_model_prefix": figure.model,
        "framework": billed.engine,
        "precision": "",
        "disagg": False,
        "is_multinode": False,
        "isl": isl,
        "osl": osl,
        "tp": billed.gpus,
        "date": figure.provenance.date,
    }
    for name in ("total", "input", "output"):
        prefix = "" if name == "total" else f"{name}_"
        row[f"{prefix}tput_per_gpu"] = float(figure.per_gpu(name))
    for key, value in latencies.items():
        kind = key.partition("_")[0]
        if key.endswith("_ms") and kind in {"mean", "median", "std", "p99"} and isinstance(value, (int, Decimal)):
            row[key.removesuffix("_ms")] = float(value) / 1_000
            if "tpot" in key and value > 0:
                row[key.removesuffix("_ms").replace("tpot", "intvty")] = 1_000 / float(value)
    fields = _row(point, "output")
    row["costtrace"] = {name: f"{value:f}" if isinstance(value, Decimal) else value for name, value in fields.items()}
    return row


class ChartPoint(NamedTuple):
    """One point of a chart."""

    series: str
    x: float | None
    cost: float
    text: str


def charts(measured: Sequence[OperatingPoint], others: Sequence[Priced], basis: str, currency: str) -> str:
    """Two charts as HTML sections: cost against interactivity, and against throughput per GPU."""
    parts = []
    for name, heading, unit in (
        ("interactivity", "Cost against interactivity", "output tokens/s that one user sees"),
        ("throughput", "Cost against throughput", f"{basis} tokens/s/GPU"),
    ):
        points = [*_measured_points(measured, basis, name), *_published_points(others, basis, name)]
        placed = [point for point in points if point.x is not None]
        if not placed:
            continue
        x = svg.nice_axis(unit, max(point.x or 0.0 for point in placed))
        y = svg.nice_axis(f"{currency} per million {basis} tokens", max(point.cost for point in placed) * 1.05)
        series = list(dict.fromkeys(point.series for point in placed))
        dots: list[Dot] = []
        for number, label in enumerate(series):
            members = [point for point in placed if point.series == label]
            best = front([(point.x or 0.0, point.cost) for point in members])
            dots += [
                Dot(point.x or 0.0, point.cost, number, point.text, index in best)
                for index, point in enumerate(members)
            ]
        caption = "Filled and joined: points that no other of its series beats in both. Numbers are concurrency."
        chart = scatter(name, heading, caption, x, y, series, dots)
        parts.append(
            f"<section><h2>{escape(heading)}</h2><figure>{chart}<figcaption>{caption}</figcaption></figure></section>"
        )
    return "".join(parts)


def _measured_points(points: Sequence[OperatingPoint], basis: str, name: str) -> list[ChartPoint]:
    chart_points = []
    for point in points:
        cost = point.per_million(basis)
        if cost is None:
            continue
        user = point.figure.interactivity
        x = float(point.figure.per_gpu(basis)) if name == "throughput" else None if user is None else float(user)
        chart_points.append(ChartPoint("measured here", x, float(cost), str(point.figure.concurrency or "")))
    return chart_points


def _published_points(priced: Sequence[Priced], basis: str, name: str) -> list[ChartPoint]:
    chart_points = []
    for entry in priced:
        user = entry.figure.interactivity
        x = float(entry.figure.per_gpu(basis)) if name == "throughput" else None if user is None else float(user)
        series = f"{entry.figure.hardware}, {entry.tier}"
        chart_points.append(ChartPoint(series, x, float(entry.per_million), str(entry.figure.concurrency or "")))
    return chart_points
