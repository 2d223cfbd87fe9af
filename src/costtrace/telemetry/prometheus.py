"""The same metrics on a Prometheus endpoint: as text, or as OpenMetrics if the scraper asks for it.

OpenMetrics has exemplars, and when each series began: only with that does Prometheus know a new series' first value
for an increase. In plain text the times would be series of their own, so they are left out there.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from costtrace.core import semconv as s
from costtrace.core.errors import ConfigError
from costtrace.telemetry.histograms import Distribution
from costtrace.telemetry.metric_state import MetricState


class MetricCollector(Collector):
    """Makes metric families of the metrics' state at each scrape; with *created*, each series says when it began."""

    def __init__(self, state: MetricState, *, created: bool = False) -> None:
        self._state = state
        self._created = created

    def collect(self) -> Iterable[Metric]:
        """All families that have at least one point."""
        for metric in (*s.TOTALS, *s.HEALTH.values()):
            points = self._state.points(metric)
            if not points:
                continue
            if metric.instrument == "counter":
                counter = CounterMetricFamily(metric.prometheus, metric.brief, labels=_labels(metric))
                begun_s = self._state.begun_s(metric) if self._created else {}
                for values, value in points:
                    counter.add_metric(values, value, created=begun_s.get(values))
                yield counter
                continue
            gauge = GaugeMetricFamily(metric.prometheus, metric.brief, labels=_labels(metric))
            for values, value in points:
                gauge.add_metric(values, value)
            yield gauge
        for metric in s.HISTOGRAMS:
            distributions = self._state.distributions(metric)
            if distributions:
                histogram = HistogramMetricFamily(metric.prometheus, metric.brief, labels=_labels(metric))
                for values, distribution in distributions:
                    histogram.add_metric(values, _buckets(distribution), distribution.sum)
                    if self._created:
                        labels = dict(zip(_labels(metric), values, strict=True))
                        histogram.add_sample(f"{metric.prometheus}_created", labels, distribution.begun_s)
                yield histogram


def _labels(metric: s.Metric) -> list[str]:
    return [attribute.label for attribute in metric.attributes]


def _buckets(distribution: Distribution) -> list[Any]:
    """(bound, cumulative count[, exemplar]) of each bucket."""
    buckets: list[Any] = []
    count = 0
    uppers = [*map(repr, distribution.bounds), "+Inf"]
    for upper, in_bucket, request in zip(uppers, distribution.counts, distribution.exemplars, strict=True):
        count += in_bucket
        if request is None:
            buckets.append((upper, count))
        else:
            labels = {"trace_id": f"{request.trace_id:032x}", "span_id": f"{request.span_id:016x}"}
            buckets.append((upper, count, Exemplar(labels, request.value, request.at_s)))
    return buckets


def application(state: MetricState) -> Callable[..., Any]:
    """The endpoint as a WSGI application."""

    def registry(*, created: bool) -> CollectorRegistry:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(MetricCollector(state, created=created))
        return registry

    plain, openmetrics = make_wsgi_app(registry(created=False)), make_wsgi_app(registry(created=True))

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:  # noqa: ANN401 WSGI's own
        _, content_type = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        chosen = openmetrics if content_type.startswith("application/openmetrics-text") else plain
        return chosen(environ, start_response)

    return answer


class PrometheusEndpoint:
    """An HTTP server for scrapes. Raises: ConfigError (it cannot listen on that address)."""

    def __init__(self, state: MetricState, host: str, port: int) -> None:
        try:
            self._server, self._thread = start_http_server(port, host, CollectorRegistry())
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"the Prometheus endpoint cannot listen on {host}:{port}: {error}. Set another host or port "
                "(COSTTRACE_PROMETHEUS_HOST, COSTTRACE_PROMETHEUS_PORT), or port 0 for none."
            ) from error
        self._server.set_app(application(state))
        self.port: int = self._server.server_port

    def stop(self) -> None:
        """Close the socket and end the server's thread."""
        threading.Thread(target=self._server.shutdown, daemon=True).start()
        self._thread.join(2)
        self._server.server_close()
