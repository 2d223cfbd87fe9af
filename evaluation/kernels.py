"""Step times from tables of measured kernels (AIConfigurator's form): the truth that attribution is judged against.

A step of a dense decoder is the sum of its kernels: the linear layers on all tokens of the batch, decode attention on
(sequences, mean context), prefill attention on each chunk, the output head on the sequences that sample, and the host.
Between the tables' points latency is interpolated on logarithmic axes. Latencies are milliseconds.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from costtrace.events import ModelShape
from costtrace.simulator import Batch


@dataclass(frozen=True)
class Dense:
    """Shape of a dense decoder, in bfloat16 on one device."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int

    def shape(self) -> ModelShape:
        """What an engine's plugin would say of it."""
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        linear = self.hidden * (2 * q + 2 * kv + 3 * self.intermediate)
        params = self.layers * linear + self.hidden * self.vocabulary
        return ModelShape(
            weight_bytes=2 * params,
            active_params=params,
            layers=self.layers,
            kv_bytes_per_token=self.layers * 2 * kv * 2,
            hidden_size=self.hidden,
            heads=self.heads,
            head_size=self.head_size,
        )


QWEN3_8B = Dense("Qwen3-8B", 36, 4096, 32, 8, 128, 12288, 151936)
HOST_MS = 0.6
"""Of each step, assumed: nothing in the tables says it."""
LONGEST = 131_072
_GRID = np.unique(np.round(np.geomspace(1, LONGEST, 400)).astype(int))


class Tables:
    """One device's kernel tables, prepared for one model and steps of up to *tokens* tokens."""

    def __init__(
        self, directory: Path, prefix: str, model: Dense, *, tokens: int, sequences: int, pad: bool = False
    ) -> None:
        gemm = _read(directory, prefix, "gemm")
        decode = _read(directory, prefix, "generation_attention")
        prefill = _read(directory, prefix, "context_attention")
        m = np.arange(tokens + 1)
        if pad:  # a captured graph runs at the next size that was captured
            m = _padded(m)
        q, kv = model.heads * model.head_size, model.kv_heads * model.head_size
        per_layer = (
            _gemm(gemm, q + 2 * kv, model.hidden, m)
            + _gemm(gemm, model.hidden, q, m)
            + 2 * _gemm(gemm, model.intermediate, model.hidden, m)
            + _gemm(gemm, model.hidden, model.intermediate, m)
        )
        self.linear = model.layers * per_layer
        self.linear[0] = 0.0
        head = _gemm(gemm, 65_536, model.hidden, np.arange(sequences + 1)) * (model.vocabulary / 65_536)
        head[0] = 0.0
        self.head = head
        self.decode = model.layers * _decode_grid(decode, model, sequences)
        self.prefill = model.layers * _prefill_line(prefill, model)
        self.host = HOST_MS

    def decode_ms(self, count: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Decode attention of *count* sequences with *context* KV tokens in all."""
        mean = np.where(count > 0, context / np.maximum(count, 1), 1)
        place = np.interp(np.log(np.maximum(mean, 1)), np.log(_GRID), np.arange(len(_GRID)))
        low = np.minimum(place.astype(int), len(_GRID) - 2)
        part = place - low
        rows = self.decode[count]
        if rows.ndim == 1:
            return rows[low] * (1 - part) + rows[low + 1] * part
        index = np.arange(len(low)) if low.ndim == 1 else None
        assert index is not None
        return rows[index, low] * (1 - part) + rows[index, low + 1] * part

    def prefill_ms(self, tokens: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Attention of a chunk: what its rows see, which is the whole triangle less the one before it."""
        grid = np.arange(len(self.prefill))
        after = np.interp(tokens + context, grid, self.prefill)
        return np.maximum(after - np.interp(context, grid, self.prefill), 0.0)

    def step_ms(self, batch: Batch) -> float:
        """The whole step."""
        members = batch.members
        tokens = sum(member.tokens for member in members)
        decodes = [member for member in members if member.decodes]
        chunks = [member for member in members if not member.decodes]
        attention = 0.0
        if decodes:
            count, context = np.array([len(decodes)]), np.array([sum(m.context for m in decodes)])
            attention += float(self.decode_ms(count, context)[0])
        if chunks:
            sizes, before = (np.array([getattr(m, name) for m in chunks]) for name in ("tokens", "context"))
            attention += float(self.prefill_ms(sizes, before).sum())
        return self.host + self.linear[tokens] + self.head[sum(m.samples for m in members)] + attention


def _read(directory: Path, prefix: str, kind: str) -> dict[str, np.ndarray]:
    found = sorted(directory.glob(f"{prefix}*{kind}_perf.parquet"))
    if len(found) != 1:
        raise SystemExit(f"{directory} has {len(found)} tables {prefix}*{kind}_perf.parquet; one is needed")
    table = pq.read_table(found[0])
    dtype = "gemm_dtype" if kind == "gemm" else "kv_cache_dtype"
    table = table.filter(pc.equal(table[dtype], "bfloat16"))
    if kind != "gemm":
        table = table.filter(pc.equal(table["window_size"], 0))
    return {name: table[name].to_numpy() for name in table.schema.names if name != "framework"}


def _where(table: dict[str, np.ndarray], **wanted: int) -> np.ndarray:
    keep = np.ones(len(table["latency"]), dtype=bool)
    for name, value in wanted.items():
        keep &= table[name] == value
    if not keep.any():
        raise SystemExit(f"the kernel tables have nothing for {wanted}")
    return keep


def _mean_by(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    points = np.unique(keys)
    return points, np.array([np.median(values[keys == point]) for point in points])


def _gemm(table: dict[str, np.ndarray], n: int, k: int, m: np.ndarray) -> np.ndarray:
    keep = _where(table, n=n, k=k)
    points, latency = _mean_by(table["m"][keep], table["latency"][keep])
    return np.exp(np.interp(np.log(np.maximum(m, 1)), np.log(points), np.log(latency)))


def _decode_grid(table: dict[str, np.ndarray], model: Dense, sequences: int) -> np.ndarray:
    keep = _where(table, num_heads=model.heads, num_key_value_heads=model.kv_heads, head_dim=model.head_size)
    batch, length, latency = (table[name][keep] for name in ("batch_size", "step", "latency"))
    sizes = np.unique(batch)
    rows = []
    for size in sizes:
        points, values = _mean_by(length[batch == size] + 1, latency[batch == size])
        # Beyond what was measured it grows in proportion, as what has to be read does.
        line = np.exp(np.interp(np.log(_GRID), np.log(points), np.log(values)))
        line *= np.where(points[-1] < _GRID, _GRID / points[-1], 1.0)
        rows.append(np.log(line))
    grid = np.array(rows)
    found = [
        np.exp([np.interp(np.log(n), np.log(sizes), grid[:, j]) for j in range(len(_GRID))])
        for n in range(1, sequences + 1)
    ]
    return np.vstack([np.zeros(len(_GRID)), *found])


def _prefill_line(table: dict[str, np.ndarray], model: Dense) -> np.ndarray:
    keep = _where(
        table, num_heads=model.heads, num_key_value_heads=model.kv_heads, head_dim=model.head_size, batch_size=1
    )
    points, latency = _mean_by(table["isl"][keep], table["latency"][keep])
    lengths = np.arange(16_385)
    line = np.exp(np.interp(np.log(np.maximum(lengths, 1)), np.log(points), np.log(latency)))
    line[0] = 0.0
    return np.maximum.accumulate(line)


def _padded(m: np.ndarray) -> np.ndarray:
    sizes = np.array([0, 1, 2, 4, *range(8, 513, 8)])
    up = sizes[np.minimum(np.searchsorted(sizes, m), len(sizes) - 1)]
    return np.where(m <= 512, up, m)
