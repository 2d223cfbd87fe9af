"""Histograms over requests for the Prometheus endpoint, in fixed buckets with an exemplar each.

Buckets are half decades (1, 3, 10, ...) over nine decades: cost, time and energy of requests span at least six. Over
OTLP the same values go into exponential histograms of the SDK.
"""

from bisect import bisect_left
from typing import NamedTuple

from costtrace.core import semconv as s
from costtrace.core.rows import UsageCost, UsageRecord
from costtrace.core.units import NANO_PER_UNIT, NS_PER_S, TOKENS_PER_MILLION, UJ_PER_J

_DECADES = {s.H_COST.name: -7, s.H_GPU_TIME.name: -5, s.H_ENERGY.name: -3, s.H_PER_MILLION_OUTPUT.name: -4}
"""Power of ten at which each metric's buckets begin."""


class Exemplar(NamedTuple):
    """One request that fell into a bucket."""

    value: float
    trace_id: int
    span_id: int
    at_s: float


class Value(NamedTuple):
    """One request's value of one metric."""

    metric: s.Metric
    value: float
    currency: str = ""


def request_values(record: UsageRecord, cost: UsageCost) -> list[Value]:
    """The values of one request in SI units and units of its currency. What is unknown is left out."""
    values = [Value(s.H_GPU_TIME, record.gpu_ns / NS_PER_S)]
    if record.energy_uj is not None and not record.energy_unknown_ns:  # a part is not the whole
        values.append(Value(s.H_ENERGY, record.energy_uj / UJ_PER_J))
    if cost.cost_nano is not None:
        values.append(Value(s.H_COST, cost.cost_nano / NANO_PER_UNIT, cost.currency))
    output = record.counts().output_tokens
    if cost.decode_nano is not None and record.decode_ns and output:
        each = cost.decode_nano / NANO_PER_UNIT / output
        values.append(Value(s.H_PER_MILLION_OUTPUT, each * TOKENS_PER_MILLION, cost.currency))
    return values


def bounds(metric: s.Metric) -> tuple[float, ...]:
    """Upper bounds of a metric's buckets. The last bucket has none."""
    first = _DECADES[metric.name]
    return tuple(float(f"{step}e{power}") for power in range(first, first + 9) for step in (1, 3))


class Distribution:
    """The histogram of one label set."""

    __slots__ = ("begun_s", "bounds", "counts", "exemplars", "sum")

    def __init__(self, upper: tuple[float, ...], begun_s: float) -> None:
        self.bounds = upper
        self.begun_s = begun_s
        """The wall time at which it was empty for the last time."""
        self.counts = [0] * (len(upper) + 1)
        """Values in each bucket, not cumulative."""
        self.exemplars: list[Exemplar | None] = [None] * (len(upper) + 1)
        self.sum = 0.0

    def add(self, value: float, exemplar: Exemplar | None) -> None:
        """Count one value; its exemplar, if it has one, replaces the bucket's."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        if exemplar is not None:
            self.exemplars[bucket] = exemplar

    def copy(self) -> "Distribution":
        """A copy that later values do not change."""
        copy = Distribution(self.bounds, self.begun_s)
        copy.counts, copy.exemplars, copy.sum = self.counts.copy(), self.exemplars.copy(), self.sum
        return copy
