"""The same metrics on a Prometheus endpoint: as text, or with exemplars as OpenMetrics if the scraper asks for it."""

import socket
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from costtrace.core import semconv as s
from costtrace.core.bounded_server import BoundedServer
from costtrace.core.errors import ConfigError
from costtrace.telemetry.histograms import Distribution
from costtrace.telemetry.metric_state import MetricState


class MetricCollector(Collector):
    """Makes metric families of the metrics' state at each scrape."""

    def __init__(self, state: MetricState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """All families that have at least one point."""
        for metric in (*s.TOTALS, *s.HEALTH.values()):
            points = self._state.points(metric)
            if not points:
                continue
            family_type = CounterMetricFamily if metric.instrument == "counter" else GaugeMetricFamily
            family = family_type(metric.prometheus, metric.brief, labels=_labels(metric))
            for values, value in points:
                family.add_metric(values, value)
            yield family
        for metric in s.HISTOGRAMS:
            distributions = self._state.distributions(metric)
            if distributions:
                histogram = HistogramMetricFamily(metric.prometheus, metric.brief, labels=_labels(metric))
                for values, distribution in distributions:
                    histogram.add_metric(values, _buckets(distribution), distribution.sum)
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


class _Server(BoundedServer, WSGIServer):
    """The endpoint's server, on an address of any family. Raises: OSError."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        info = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = info[0][0]
        super().__init__((info[0][4][0], port), _Handler)
        self.set_app(make_wsgi_app(registry))


class _Handler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log nothing."""


class PrometheusEndpoint:
    """An HTTP server for scrapes. Raises: ConfigError (it cannot listen on that address)."""

    def __init__(self, state: MetricState, host: str, port: int) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(MetricCollector(state))
        try:
            self._server = _Server(host, port, registry)
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"the Prometheus endpoint cannot listen on {host}:{port}: {error}. Set another host or port "
                "(COSTTRACE_PROMETHEUS_HOST, COSTTRACE_PROMETHEUS_PORT), or port 0 for none."
            ) from error
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="costtrace-prometheus", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and end the server's thread."""
        threading.Thread(target=self._server.shutdown, daemon=True).start()
        self._thread.join(2)
        self._server.server_close()
