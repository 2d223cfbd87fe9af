"""Metrics over OTLP by the OpenTelemetry SDK, with a meter provider that is not the process's global one."""

import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.metrics import CallbackOptions, Histogram, Observation
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

from costtrace.core import semconv as s
from costtrace.core.rows import UsageCost, UsageRecord
from costtrace.telemetry.histograms import request_values
from costtrace.telemetry.metric_deltas import DeltaExporter, SentNote, wants_deltas
from costtrace.telemetry.metric_state import MetricState, attributes_of
from costtrace.telemetry.span_ids import context, span_ids
from costtrace.telemetry.transport import GRPC, Target

_log = logging.getLogger("costtrace.telemetry")
_MOST_POINTS = 1_000_000
"""Label sets of one metric. The SDK's default (2,000) would fold tenants a second time; `Totals` folds them."""
_FROM_LEDGER = frozenset(m.name for m in s.TOTALS if m.instrument == "counter") - {s.M_HW_ENERGY.name}


class OtlpMetrics:
    """Exports the metrics every ``OTEL_METRIC_EXPORT_INTERVAL`` milliseconds; with a note, as deltas where asked to."""

    def __init__(
        self,
        state: MetricState,
        target: Target,
        resource: Resource,
        version: str | None = None,
        note: SentNote | None = None,
    ) -> None:
        self._state = state
        inner: MetricExporter = GrpcMetricExporter() if target.protocol == GRPC else HttpMetricExporter()
        self._exporter = _Exporter(inner, state)
        views = [
            View(instrument_name=m.name, aggregation=ExponentialBucketHistogramAggregation()) for m in s.HISTOGRAMS
        ]
        exporter: MetricExporter = self._exporter
        if note is not None and wants_deltas(exporter):
            exporter = DeltaExporter(exporter, state, note)
        self._provider = sdk.MeterProvider([_reader(exporter)], resource, shutdown_on_exit=False, views=views)
        meter = self._provider.get_meter(s.SCOPE, version)
        for metric in (*s.TOTALS, *s.HEALTH.values()):
            callbacks = [_callback(state, metric)]
            if metric.instrument == "counter":
                meter.create_observable_counter(metric.name, callbacks, metric.unit, metric.brief)
            else:
                meter.create_observable_gauge(metric.name, callbacks, metric.unit, metric.brief)
        self._histograms: dict[str, Histogram] = {
            m.name: meter.create_histogram(m.name, m.unit, m.brief) for m in s.HISTOGRAMS
        }

    @property
    def failures(self) -> int:
        """How many exports have failed."""
        return self._exporter.failures

    def record(self, usage: Iterable[tuple[UsageRecord, UsageCost]]) -> None:
        """Add closed records to the histograms, each with its span as exemplar where it has one."""
        for record, cost in usage:
            ids = span_ids(record)
            exemplar = None
            if ids is not None:
                exemplar = set_span_in_context(NonRecordingSpan(context(ids.trace_id, ids.request)))
            labels = self._state.histogram_labels(record)
            attributes = dict(zip((a.name for a in s.HISTOGRAM_ATTRIBUTES), labels, strict=True))
            for metric, value, currency in request_values(record, cost):
                priced = {**attributes, s.CURRENCY.name: currency} if currency else attributes
                self._histograms[metric.name].record(value, priced, exemplar)

    def flush(self, timeout_s: float) -> None:
        """Export now."""
        self._provider.force_flush(timeout_s * 1_000)

    def stop(self, timeout_s: float) -> None:
        """Export once more and end."""
        self._provider.shutdown(timeout_s * 1_000)


def _reader(exporter: MetricExporter) -> PeriodicExportingMetricReader:
    kinds = (sdk.ObservableCounter, sdk.ObservableGauge, sdk.Histogram)
    try:
        return PeriodicExportingMetricReader(exporter, cardinality_limits=dict.fromkeys(kinds, _MOST_POINTS))
    except TypeError:  # an SDK that has no limits yet
        return PeriodicExportingMetricReader(exporter)


def _callback(state: MetricState, metric: s.Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        for values, value in state.points(metric):
            yield Observation(value, attributes_of(metric, values))

    return observe


class _Exporter(MetricExporter):
    """An OTLP exporter that logs once when its receiver fails and once when it is back.

    Totals continue over restarts, so they start at the beginning of the ledger: if they started with this process, a
    receiver would take all of a continued counter as new.
    """

    def __init__(self, inner: MetricExporter, state: MetricState) -> None:
        temporality: Any = getattr(inner, "_preferred_temporality", None)
        aggregation: Any = getattr(inner, "_preferred_aggregation", None)
        super().__init__(preferred_temporality=temporality, preferred_aggregation=aggregation)
        self._inner = inner
        self._state = state
        self._up = True
        self.failures = 0

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,
        **kwargs: Any,  # noqa: ANN401 the SDK's signature
    ) -> MetricExportResult:
        try:
            result = self._inner.export(_dated(metrics_data, self._state.since_ns), timeout_millis, **kwargs)
        except Exception:  # noqa: BLE001 some versions raise when a connection is refused
            result = MetricExportResult.FAILURE
        if result is not MetricExportResult.SUCCESS:
            self.failures += 1
        if (result is MetricExportResult.SUCCESS) != self._up:
            self._up = not self._up
            _log.warning("metrics are being sent again" if self._up else "metrics cannot be sent by OTLP")
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:  # noqa: ANN401 the SDK's signature
        self._inner.shutdown(timeout_millis, **kwargs)


def _dated(data: MetricsData, since_ns: int) -> MetricsData:
    """Set the start time of all totals to `since_ns`."""
    return dataclasses.replace(
        data,
        resource_metrics=[
            dataclasses.replace(
                of_resource,
                scope_metrics=[
                    dataclasses.replace(of_scope, metrics=[_dated_metric(m, since_ns) for m in of_scope.metrics])
                    for of_scope in of_resource.scope_metrics
                ],
            )
            for of_resource in data.resource_metrics
        ],
    )


def _dated_metric(metric: Any, since_ns: int) -> Any:  # noqa: ANN401 the SDK's data classes, whatever their version
    if metric.name not in _FROM_LEDGER or metric.data.aggregation_temporality is AggregationTemporality.DELTA:
        return metric
    points = [
        dataclasses.replace(point, start_time_unix_nano=since_ns)
        for point in metric.data.data_points
        if isinstance(point, NumberDataPoint)
    ]
    return dataclasses.replace(metric, data=dataclasses.replace(metric.data, data_points=points))
