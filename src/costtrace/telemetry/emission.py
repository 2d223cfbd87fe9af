"""The facade: puts together what the settings and the ``OTEL_*`` variables ask for."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from opentelemetry.sdk.resources import Resource

from costtrace.core.clock import host_name
from costtrace.core.errors import CosttraceError
from costtrace.core.rows import Charge, MeterRow, Posting, UsageCost, UsageRecord
from costtrace.ledger.store import Ledger
from costtrace.pricing.carbon import CarbonIntensity
from costtrace.telemetry.health import Health
from costtrace.telemetry.ledger_rows import engines
from costtrace.telemetry.metric_state import DeviceReading, MetricState
from costtrace.telemetry.otlp_metrics import OtlpMetrics
from costtrace.telemetry.prometheus import PrometheusEndpoint
from costtrace.telemetry.span_shipper import Shipped, SpanShipper, consumer
from costtrace.telemetry.spans import DEFAULT_PROFILES, Profile, SpanBuilder
from costtrace.telemetry.transport import open_transport, resource, target

_log = logging.getLogger("costtrace.telemetry")


@dataclass(frozen=True)
class EmissionSettings:
    """What is not said by ``OTEL_*`` variables."""

    profiles: frozenset[Profile] = DEFAULT_PROFILES
    """Copies of the cost for backends that read it under another name (USD only)."""
    tenant_limit: int = 1_000
    """Tenants that metrics name; the rest is one series."""
    histogram_tenants: int = 100
    """The same for distributions over requests, which have many series each."""
    prometheus_host: str = "127.0.0.1"
    prometheus_port: int = 0
    """0: no endpoint."""
    carbon: CarbonIntensity | None = None
    """For an estimate of CO2e on the spans of requests; None: they have none."""
    batch: int = 512
    """Requests in one export."""


class Committed(Protocol):
    """What a transaction put into the ledger."""

    @property
    def postings(self) -> Sequence[tuple[Posting, Charge]]:
        """Lines of the bill with their charges."""

    @property
    def meter(self) -> Sequence[MeterRow]:
        """What they add up to."""

    @property
    def records(self) -> Sequence[tuple[UsageRecord, UsageCost]]:
        """Parts of requests that have closed, with their costs."""


class Emission:
    """Everything that leaves the agent. One agent, one ledger, one thread that calls."""

    def __init__(self, ledger: Path, settings: EmissionSettings | None = None) -> None:
        self.settings = settings or EmissionSettings()
        self.feed = MetricState(self.settings.tenant_limit, self.settings.histogram_tenants)
        self._path = ledger
        self._version = _own_version()
        self._ledger: Ledger | None = None
        self._shipper: SpanShipper | None = None
        self._metrics: OtlpMetrics | None = None
        self._endpoint: PrometheusEndpoint | None = None
        self._engines: set[str] = set()
        self._rates: set[str] = {""}

    @property
    def health(self) -> Health:
        """Where the agent puts what it knows of itself."""
        return self.feed.health

    @property
    def shipped(self) -> Shipped:
        """How the spans are getting on."""
        return self._shipper.status if self._shipper is not None else Shipped()

    @property
    def prometheus_port(self) -> int:
        """The port of the Prometheus endpoint; 0: there is none."""
        return self._endpoint.port if self._endpoint is not None else 0

    def start(self) -> None:
        """Load the totals of the ledger, begin to send. What cannot begin is logged and left out."""
        # The exporters log each failure of their own; here each outage is said once.
        logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)
        for begin in (self._load, self._start_spans, self._start_metrics, self._start_endpoint):
            try:
                begin()
            except CosttraceError as error:
                self._contain(str(error))
            except Exception as error:  # noqa: BLE001 a collector's trouble is not the agent's
                self._contain(f"{begin.__name__[1:].replace('_', ' ')} failed: {error!r}")

    def publish(self, committed: Committed) -> None:
        """Show what was committed; returns at once. Spans come from the ledger, metrics from here."""
        try:
            self._know(committed)
            self.feed.add(committed.postings, committed.records, committed.meter)
            if self._metrics is not None:
                self._metrics.record(committed.records)
        except Exception as error:  # noqa: BLE001 metrics are a view: the bill goes on without them
            self._contain(f"metrics lack a commit: {error!r}")
        if self._shipper is not None and committed.records:
            self._shipper.wake()

    def device(self, reading: DeviceReading) -> None:
        """Show a device's sensor reading (``hw.energy``, ``hw.power``)."""
        self.feed.device(reading)

    def drained(self) -> bool:
        """Has the receiver of spans everything that is in the ledger? True where there is no receiver."""
        return self._shipper is None or self._shipper.drained()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Send what is left for at most `timeout_s`, then end. True if all spans have been taken."""
        done = self._shipper.stop(timeout_s) if self._shipper is not None else True
        for part in (self._metrics, self._endpoint):
            with suppress(Exception):
                if isinstance(part, OtlpMetrics):
                    part.stop(timeout_s)
                elif part is not None:
                    part.stop()
        if self._ledger is not None:
            self._ledger.close()
        return done

    def _load(self) -> None:
        self._ledger = Ledger(self._path, read_only=True)
        self.feed.load(self._ledger.connection)

    def _start_spans(self) -> None:
        where = target("traces")
        if where is None:
            _log.info("spans go nowhere: OTEL_EXPORTER_OTLP_ENDPOINT is not set (or OTEL_* switches them off)")
            return
        builder = SpanBuilder(self._resource(), self.settings.profiles, self._version, self.settings.carbon)
        self._shipper = SpanShipper(
            self._path, builder, lambda: open_transport(where), consumer(where), batch=self.settings.batch
        )
        self._show(self._shipper)
        self._shipper.start()

    def _resource(self) -> Resource:
        return resource(f"{host_name()}:{self._path.resolve()}", self._version)

    def _start_metrics(self) -> None:
        where = target("metrics")
        if where is not None:
            self._metrics = OtlpMetrics(self.feed, where, self._resource(), self._version)

    def _start_endpoint(self) -> None:
        if self.settings.prometheus_port:
            self._endpoint = PrometheusEndpoint(self.feed, self.settings.prometheus_host, self.settings.prometheus_port)

    def _know(self, committed: Committed) -> None:
        """Look up engines and rates that have not been met before: they are in the ledger by now."""
        new = {posting.engine_id for posting, _ in committed.postings} - self._engines
        rates = {charge.rate_id for _, charge in committed.postings} - self._rates
        if (not new and not rates) or self._ledger is None:
            return
        connection = self._ledger.connection
        currencies = dict(connection.execute("SELECT rate_id, currency FROM rate").fetchall())
        self.feed.totals.know(engines(connection).values() if new else (), currencies)
        self._engines |= new
        self._rates |= rates

    def _show(self, shipper: SpanShipper) -> None:
        health = self.feed.health
        health.follow("records.unsent", lambda: shipper.status.behind)
        health.follow("records.delay", lambda: shipper.status.delay_s)
        health.follow("records.sent", lambda: shipper.status.sent)
        health.follow("records.unsampled", lambda: shipper.status.unsampled)
        health.follow("records.refused", lambda: shipper.status.refused)
        health.follow("export.up", lambda: int(shipper.status.up))
        health.follow(
            "export.failures",
            lambda: shipper.status.failures + (self._metrics.failures if self._metrics is not None else 0),
        )

    def _contain(self, message: str) -> None:
        self.feed.health.add("agent.errors")
        _log.error("%s", message)


def _own_version() -> str | None:
    try:
        return version("costtrace-core")
    except PackageNotFoundError:
        return None
