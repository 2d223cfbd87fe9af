"""Metrics for receivers of delta temporality: counters as what has come since the receiver last took an export.

The SDK's own deltas begin at 0 in each process and are gone when an export fails: a ledger's totals would be counted
again at each start, and what happens during an outage never. So counters are compared here with what the receiver has
acknowledged, and that is noted in the ledger, as the span shipper's cursor is. A receiver without a note gets the
ledger from its beginning. An agent that is killed between the receiver's answer and the note sends that export again.
"""

import dataclasses
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    Sum,
)

from costtrace.core import semconv as s
from costtrace.core.errors import LedgerError
from costtrace.ledger.store import Ledger
from costtrace.telemetry.metric_state import Count, MetricState, Sent, Series, attributes_of

_log = logging.getLogger("costtrace.telemetry")
_DELTA = AggregationTemporality.DELTA
_MOST_KEPT = 60
"""How many failed exports of histograms are kept. Only counters can be made again of the ledger."""
_COUNTERS = {m.name: m for m in (*s.TOTALS, *s.HEALTH.values()) if m.instrument == "counter"}


def deltas_of(exporter: MetricExporter) -> set[type]:
    """The instruments that ``OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`` asks for as deltas."""
    wanted: Any = getattr(exporter, "_preferred_temporality", None) or {}
    return {instrument for instrument in (sdk.ObservableCounter, sdk.Histogram) if wanted.get(instrument) is _DELTA}


class SentNote:
    """What a receiver of metrics has acknowledged, noted in the ledger under the receiver's name."""

    def __init__(self, path: Path, receiver: str) -> None:
        self._path, self._name = path, f"metrics:{receiver}"
        self._ledger: Ledger | None = None
        self._failed = False

    def read(self, connection: sqlite3.Connection) -> Sent | None:
        """The note; None: there is none that can be read."""
        row = connection.execute("SELECT value FROM state WHERE name = ?", (self._name,)).fetchone()
        try:
            return msgspec.json.decode(row[0], type=Sent) if row is not None else None
        except (msgspec.DecodeError, TypeError) as error:
            _log.error("the receiver of metrics gets the whole ledger once more: its note is damaged (%s)", error)
            return None

    def write(self, sent: Sent) -> None:
        """Replace the note. If that fails, the next one has it all."""
        try:
            self._ledger = self._ledger or Ledger(self._path, create=False)
            with self._ledger.transaction():
                self._ledger.put_state(self._name, msgspec.json.encode(sent))
        except (LedgerError, sqlite3.Error, OSError) as error:
            if not self._failed:
                _log.warning(
                    "what the receiver of metrics has cannot be noted in the ledger: %s. Until it can, a restart sends "
                    "it again.",
                    error,
                )
            self._failed = True
        else:
            self._failed = False

    def close(self) -> None:
        """Close the ledger."""
        if self._ledger is not None:
            self._ledger.close()


class DeltaExporter(MetricExporter):
    """Makes deltas of counters before it gives metrics to *inner*, and sends histograms again that it has not taken."""

    def __init__(self, inner: MetricExporter, state: MetricState, note: SentNote) -> None:
        super().__init__(inner._preferred_temporality, inner._preferred_aggregation)  # noqa: SLF001 as the SDK's readers do
        self._inner = inner
        self._counters = sdk.ObservableCounter in deltas_of(inner)
        self._state = state
        self._note = note
        self._sent: dict[Series, int | float] = dict(state.sent)
        self._ledger_since_ns = state.sent_ns or state.since_ns
        self._process_since_ns = state.started_ns
        self._kept: deque[MetricsData] = deque(maxlen=_MOST_KEPT)

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,
        **kwargs: Any,  # noqa: ANN401 the SDK's signature
    ) -> MetricExportResult:
        """Send what was not taken before, then what has come since."""
        while self._kept:
            if self._inner.export(self._kept[0], timeout_millis, **kwargs) is not MetricExportResult.SUCCESS:
                break
            self._kept.popleft()
        now_ns, count = time.time_ns(), self._state.count()
        data = metrics_data
        if self._counters:
            deltas = self._deltas(count, now_ns)
            data = changed(data, lambda metrics: [*(m for m in metrics if m.name not in _COUNTERS), *deltas])
        result = self._inner.export(data, timeout_millis, **kwargs)
        if result is not MetricExportResult.SUCCESS:
            kept = changed(metrics_data, lambda metrics: [m for m in metrics if _only_here(m)])
            if any(of_scope.metrics for of_resource in kept.resource_metrics for of_scope in of_resource.scope_metrics):
                self._kept.append(kept)
            return result
        if self._kept:  # it was not taken, and others are
            self._kept.popleft()
        self._acknowledge(count, now_ns)
        return result

    def _deltas(self, count: Count, now_ns: int) -> list[Metric]:
        """Metrics of the counters that have changed since the receiver took an export."""
        points: dict[str, list[NumberDataPoint]] = {}
        for series, value in count.values.items():
            gained = value - self._sent.get(series, 0)
            if gained <= 0:  # less: the ledger is an older one, restored
                continue
            name, labels = series
            counter = self._state.counters.get(name)
            since_ns = self._process_since_ns
            if counter is not None:
                gained = counter.in_unit(gained)
                since_ns = since_ns if name == s.M_HW_ENERGY.name else self._ledger_since_ns
            attributes = attributes_of(_COUNTERS[name], labels)
            points.setdefault(name, []).append(NumberDataPoint(attributes, min(since_ns, now_ns), now_ns, gained))
        return [
            Metric(name, _COUNTERS[name].brief, _COUNTERS[name].unit, Sum(of_metric, _DELTA, is_monotonic=True))
            for name, of_metric in points.items()
        ]

    def _acknowledge(self, count: Count, now_ns: int) -> None:
        self._sent = count.values
        self._ledger_since_ns = self._process_since_ns = now_ns
        if self._counters and count.numbers is not None:
            metered = ((labels, ns) for (name, labels), ns in count.values.items() if name == s.M_DEVICE_TIME.name)
            device_ns = [(device, kind, int(ns)) for (device, kind), ns in metered]
            self._note.write(Sent(now_ns, count.numbers, device_ns))

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Pass it on."""
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:  # noqa: ANN401 the SDK's signature
        """Pass it on and close the note."""
        self._inner.shutdown(timeout_millis, **kwargs)
        self._note.close()


def _only_here(metric: Metric) -> bool:
    """Whether the values of a metric are lost if they are not sent again."""
    return metric.name not in _COUNTERS and getattr(metric.data, "aggregation_temporality", None) is _DELTA


def changed(data: MetricsData, change: Callable[[Sequence[Metric]], list[Metric]]) -> MetricsData:
    """*data* with the metrics of costtrace's scope changed."""
    return MetricsData(
        [
            dataclasses.replace(
                of_resource,
                scope_metrics=[
                    dataclasses.replace(of_scope, metrics=change(of_scope.metrics))
                    for of_scope in of_resource.scope_metrics
                    if of_scope.scope.name == s.SCOPE
                ],
            )
            for of_resource in data.resource_metrics
        ]
    )
