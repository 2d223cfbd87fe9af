"""Step times from measured kernels: latency tables as aiconfigurator publishes them, in Parquet or CSV.

A step is the sum of its kernels: the layers' matrix products at the step's tokens, the logits of each sequence, decode
attention at (sequences, mean context), prefill attention, and a fixed host part. Between measured points values are
interpolated. Prefill attention is one kernel for all chunks of a step: its least time, plus for each chunk what its
length adds in the largest batch that was measured (H200: median 5 % off the measured times of other batches). A chunk
after a cached or computed prefix adds what prefix and chunk add together, less what the prefix adds.
Not included, because no table has them: norms, sampling, communication, interference between kernels.
"""

import csv
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from operator import lt
from pathlib import Path
from typing import Any

from costtrace.core.errors import CosttraceError
from costtrace.core.numbers import exact
from costtrace_lab.simulator.models import Model
from costtrace_lab.simulator.step_times import Load
from costtrace_lab.simulator.trace_numbers import count

HOST_S = 6e-4
"""Host and launch time of a step. An assumption: no table has it."""
MAX_MS = 1e9
KINDS = ("gemm", "generation_attention", "context_attention")
CAPTURED: tuple[int, ...] = (1, 2, 4, *range(8, 513, 8))
"""Batch sizes that engines capture graphs for; a smaller batch is padded to the next."""
Curve = tuple[list[float], list[float]]
"""Points of a function: the arguments, and the values (s)."""


class KernelTables:
    """Step times of one model on one device, from the tables in a directory.

    Raises: CosttraceError: tables are missing, ambiguous or unreadable, or have no kernels of this model.
    """

    def __init__(
        self,
        directory: Path,
        model: Model,
        *,
        device: str = "",
        max_tokens: int = 8_192,
        max_sequences: int = 1_024,
        padded: bool = False,
    ) -> None:
        files = find_tables(directory, device)
        self.model = model
        self.padded = padded
        self.host_s = HOST_S
        gemms = _Gemms(files["gemm"])
        self.layers_s = [0.0, *gemms.total(model.gemms(), model.layers, max_tokens)]
        """Seconds of the layers' matrix products, by tokens in the step."""
        self.logits_s = [0.0, *gemms.total((model.head_gemm(),), 1, max_sequences)]
        """Seconds of the logits, by sequences in the step."""
        self.contexts, self.decode_s = _decode_grid(files["generation_attention"], model, max_sequences)
        """Decode attention: knots of the mean context, and for each number of sequences the seconds at each knot."""
        self.prefill_s, self.prefill = _prefill_curve(files["context_attention"], model)
        """Prefill attention: seconds of any step with chunks, and the seconds that a chunk adds, by its length."""
        self.device = gemms.device or device or "unknown device"
        self.source = f"kernel tables of {self.device}" + (", padded to captured batch sizes" if padded else "")

    def seconds(self, load: Load, at_s: float) -> float:
        """Seconds of a step."""
        del at_s
        tokens = self.pad(load.tokens)
        total = self.host_s + self.layers_s[tokens] + self.logits_s[load.sequences]
        if load.decodes:
            # The padding rows of a batch read no cache.
            total += at(self.contexts, self.decode_s[load.decodes], load.decode_context / load.decodes)
        if load.chunks:
            total += self.prefill_s + sum(self.chunk(count, context) for count, context in load.chunks)
        return total

    def pad(self, tokens: int) -> int:
        """Tokens that the layers compute, padding included."""
        if not self.padded or tokens > CAPTURED[-1] or not tokens:
            return tokens
        return CAPTURED[bisect_right(CAPTURED, tokens - 1)]

    def chunk(self, tokens: int, context: int) -> float:
        """Seconds that a chunk of *tokens* after *context* adds to prefill attention."""
        knots, values = self.prefill
        return max(0.0, at(knots, values, context + tokens) - (at(knots, values, context) if context else 0.0))


def at(knots: list[float], values: list[float], argument: float) -> float:
    """Interpolate linearly; extrapolate above with the last slope, and below as a constant."""
    if argument <= knots[0] or len(knots) == 1:
        return values[0]
    index = min(bisect_right(knots, argument), len(knots) - 1)
    left, right = knots[index - 1], knots[index]
    return values[index - 1] + (values[index] - values[index - 1]) * (argument - left) / (right - left)


def find_tables(directory: Path, device: str = "") -> dict[str, Path]:
    """The table file of each kind. Raises: CosttraceError, where one is missing or ambiguous."""
    tables: dict[str, Path] = {}
    device_name = device.lower().replace(" ", "_").removeprefix("nvidia_")
    for kind in KINDS:
        files = sorted(
            path
            for path in (directory.rglob("*") if directory.is_dir() else ())
            if path.suffix in {".parquet", ".csv", ".txt"}
            and f"{kind}_perf" in path.name
            and device_name in str(path).lower()
        )
        if not files:
            of = f" of {device}" if device else ""
            raise CosttraceError(
                f"{directory} has no table *{kind}_perf.parquet (or .csv){of}. A directory with the tables gemm_perf, "
                "generation_attention_perf and context_attention_perf of one device is needed, as the project "
                "aiconfigurator publishes them (systems/data/<device>/.../vllm/<version>)."
            )
        if len({path.name for path in files}) > 1 or len(files) > 1:
            names = ", ".join(str(path.relative_to(directory)) for path in files[:4])
            raise CosttraceError(f"{directory} has several tables of {kind}: {names}. Name one device's directory.")
        tables[kind] = files[0]
    return tables


def _rows(path: Path, columns: Iterable[str], where: Mapping[str, object]) -> Iterator[tuple[Any, ...]]:
    """*columns* of the rows whose values match *where*; columns that a table does not have are not compared."""
    columns = tuple(columns)
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, columns, where)
        return
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if None in row:
                    raise CosttraceError(f"{path} has a row with more cells than its header: a comma in a number?")
                if all(name not in row or row[name] == str(value) for name, value in where.items()):
                    yield tuple(row[name] for name in columns)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise CosttraceError(f"{path} is not a kernel table: {error!r}") from error


def _parquet_rows(path: Path, columns: tuple[str, ...], where: Mapping[str, object]) -> Iterator[tuple[Any, ...]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise CosttraceError(
            f"to read {path} the Python package pyarrow is needed. In a checkout of costtrace: "
            "pip install './plugins/costtrace-lab[simulator]'. Tables as CSV, with the same columns, need nothing."
        ) from None
    try:
        names = set(parquet.read_schema(path).names)
        filters = [(name, "=", value) for name, value in where.items() if name in names]
        table = parquet.read_table(path, columns=list(columns), filters=filters or None)
    except (OSError, ValueError, KeyError) as error:
        raise CosttraceError(f"{path} is not a kernel table: {error}") from error
    yield from zip(*(table.column(name).to_pylist() for name in columns), strict=True)


def _measured(
    path: Path, sizes: tuple[object, ...], latency_ms: object, least: tuple[int, ...] = (1, 1, 1)
) -> tuple[list[int], float]:
    """A kernel's three sizes, each as large as its *least*, and its seconds. Raises: CosttraceError."""
    try:
        numbers, number_ms = [count(size) for size in sizes], exact(str(latency_ms))
    except ValueError as error:
        raise CosttraceError(f"{path} is not a kernel table: {error}") from error
    if number_ms is None or not 0 < number_ms < MAX_MS or any(map(lt, numbers, least)):
        raise CosttraceError(f"{path} is not a kernel table: {latency_ms!r:.60} ms is the latency of no kernel")
    return numbers, float(number_ms) * 1e-3


class _Gemms:
    """Latencies of matrix products, by size (n, k) and rows m."""

    def __init__(self, path: Path) -> None:
        self.device = ""
        points: dict[tuple[int, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        columns = ("device", "m", "n", "k", "latency")
        for device, m, n, k, latency in _rows(path, columns, {"gemm_dtype": "bfloat16"}):
            self.device = str(device)
            (rows, *size), seconds = _measured(path, (m, n, k), latency)
            points[size[0], size[1]][rows].append(seconds)
        if not points:
            raise CosttraceError(f"{path} has no product in bfloat16")
        self._curves = {size: _curve(seconds) for size, seconds in points.items()}

    def total(self, sizes: Iterable[tuple[int, int]], times: int, most: int) -> list[float]:
        """Seconds of one product of each of *sizes*, repeated *times* times, for 1 to *most* rows."""
        parts = [self._nearest(size) for size in sizes]
        return [times * sum(factor * at(*curve, m) for curve, factor in parts) for m in range(1, most + 1)]

    def _nearest(self, size: tuple[int, int]) -> tuple[Curve, float]:
        """The curve of the closest measured size, and the factor from its number of elements to this size's."""
        elements = size[0] * size[1]

        def distance(other: tuple[int, int]) -> float:
            ratio = other[0] * other[1] / elements
            return max(ratio, 1 / ratio) + max(other[1] / size[1], size[1] / other[1])

        best = min(self._curves, key=distance)
        return self._curves[best], elements / (best[0] * best[1])


def _curve(points: Mapping[int, list[float]]) -> Curve:
    knots = sorted(points)
    return [float(knot) for knot in knots], [sum(points[knot]) / len(points[knot]) for knot in knots]


def _attention(model: Model) -> dict[str, object]:
    return {
        "num_heads": model.heads,
        "num_key_value_heads": 0 if model.kv_heads == model.heads else model.kv_heads,
        "head_dim": model.head_size,
        "kv_cache_dtype": "bfloat16",
        "window_size": 0,
    }


def _attention_rows(path: Path, model: Model) -> list[tuple[int, int, int, float]]:
    """(sequences, tokens, step, seconds). Raises: CosttraceError where the model's heads were not measured."""
    columns = ("batch_size", "isl", "step", "latency")
    for kv_heads in dict.fromkeys((model.kv_heads, 0 if model.kv_heads == model.heads else model.kv_heads)):
        where = {**_attention(model), "num_key_value_heads": kv_heads}
        rows = []
        for *sizes, ms in _rows(path, columns, where):
            (batch, isl, step), seconds = _measured(path, tuple(sizes), ms, (1, 1, 0))
            rows.append((batch, isl, step, seconds))
        if rows:
            return rows
    raise CosttraceError(
        f"{path} has no attention with {model.heads} heads, {model.kv_heads} KV heads of size {model.head_size} in "
        f"bfloat16: {model.name} cannot be simulated with these tables"
    )


def _decode_grid(path: Path, model: Model, most: int) -> tuple[list[float], list[list[float]]]:
    """Knots of the context, and for 0 to *most* sequences the seconds of all layers at each."""
    by_batch: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for batch, isl, step, seconds in _attention_rows(path, model):
        by_batch[batch][isl + step].append(seconds * model.layers)
    curves = {batch: _curve(points) for batch, points in by_batch.items() if len(points) > 1}
    if not curves:
        raise CosttraceError(f"{path} has too few points: two contexts of a batch are needed")
    knots = sorted({knot for knots, _ in curves.values() for knot in knots})
    batches = [float(batch) for batch in sorted(curves)]
    columns = [[at(*curves[int(batch)], knot) for batch in batches] for knot in knots]
    grid = [[0.0] * len(knots)]
    grid += [[max(0.0, at(batches, column, count)) for column in columns] for count in range(1, most + 1)]
    return knots, grid


def _prefill_curve(path: Path, model: Model) -> tuple[float, Curve]:
    """Seconds of all layers: the least time, and what one more sequence adds in a large batch, by its length."""
    rows = _attention_rows(path, model)
    shortest = min((isl, batch) for batch, isl, _, _ in rows)
    least = min(seconds for batch, isl, _, seconds in rows if (isl, batch) == shortest)
    largest: dict[int, int] = {}
    for batch, isl, _, _ in rows:
        largest[isl] = max(batch, largest.get(isl, 0))
    points: dict[int, list[float]] = defaultdict(list)
    for batch, isl, _, seconds in rows:
        if batch == largest[isl]:
            points[isl].append(max(0.0, seconds - least) * model.layers / batch)
    return least * model.layers, _curve(points)
