"""The same metrics on a Prometheus endpoint: text or OpenMetrics as the scraper asks, exemplars in the latter."""

import threading
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from costtrace.core import semconv as s
from costtrace.core.errors import ConfigError
from costtrace.telemetry.histograms import Distribution
from costtrace.telemetry.metric_state import MetricState


class FeedCollector(Collector):
    """Turns the feed into metric families at each scrape."""

    def __init__(self, feed: MetricState) -> None:
        self._feed = feed

    def collect(self) -> Iterable[Metric]:
        """All families that have at least one point."""
        for metric in (*s.TOTALS, *s.HEALTH.values()):
            points = self._feed.points(metric)
            if not points:
                continue
            family_type = CounterMetricFamily if metric.instrument == "counter" else GaugeMetricFamily
            family = family_type(metric.prometheus, metric.brief, labels=_labels(metric))
            for values, value in points:
                family.add_metric(values, value)
            yield family
        for metric in s.HISTOGRAMS:
            found = self._feed.distributions(metric)
            if found:
                histogram = HistogramMetricFamily(metric.prometheus, metric.brief, labels=_labels(metric))
                for values, distribution in found:
                    histogram.add_metric(values, _buckets(distribution), distribution.sum)
                yield histogram


def _labels(metric: s.Metric) -> list[str]:
    return [attribute.label for attribute in metric.attributes]


def _buckets(distribution: Distribution) -> list[Any]:
    """(bound, cumulative count[, exemplar]) of each bucket."""
    buckets: list[Any] = []
    count = 0
    uppers = [*map(repr, distribution.bounds), "+Inf"]
    for upper, own, seen in zip(uppers, distribution.counts, distribution.exemplars, strict=True):
        count += own
        if seen is None:
            buckets.append((upper, count))
        else:
            labels = {"trace_id": f"{seen.trace_id:032x}", "span_id": f"{seen.span_id:016x}"}
            buckets.append((upper, count, Exemplar(labels, seen.value, seen.at_s)))
    return buckets


class PrometheusEndpoint:
    """An HTTP server for scrapes.

    Raises: ConfigError where the address cannot be had.
    """

    def __init__(self, feed: MetricState, host: str, port: int) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(FeedCollector(feed))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"the Prometheus endpoint cannot listen on {host}:{port}: {error}. Set another host or port "
                "(COSTTRACE_PROMETHEUS_HOST, COSTTRACE_PROMETHEUS_PORT), or port 0 for none."
            ) from error
        self.port: int = self._server.server_port

    def stop(self) -> None:
        """Close the socket and end."""
        threading.Thread(target=self._server.shutdown, daemon=True).start()
        self._thread.join(2)
        self._server.server_close()
