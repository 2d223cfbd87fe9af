"""The facade of telemetry: builds what the settings and the ``OTEL_*`` variables ask for."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from opentelemetry.sdk.resources import Resource

from costtrace.core.clock import host_name
from costtrace.core.errors import ConfigError, CosttraceError
from costtrace.ledger.booking import Booked
from costtrace.ledger.store import Ledger
from costtrace.pricing.carbon import CarbonIntensity
from costtrace.telemetry.health import Health
from costtrace.telemetry.ledger_rows import engines
from costtrace.telemetry.metric_deltas import SentNote
from costtrace.telemetry.metric_state import DeviceReading, MetricState
from costtrace.telemetry.otel_environment import Target, doubt, off, resource, target
from costtrace.telemetry.otlp_metrics import OtlpMetrics
from costtrace.telemetry.prometheus import PrometheusEndpoint
from costtrace.telemetry.span_shipper import Shipped, SpanShipper, consumer
from costtrace.telemetry.spans import DEFAULT_PROFILES, Profile, SpanBuilder
from costtrace.telemetry.totals import Numbers
from costtrace.telemetry.transport import open_transport
from costtrace.telemetry.whole_records import WholeRecords

_log = logging.getLogger("costtrace.telemetry")


@dataclass(frozen=True)
class EmissionSettings:
    """Settings beside the ``OTEL_*`` variables."""

    profiles: frozenset[Profile] = DEFAULT_PROFILES
    """Copies of the cost for backends that read it under another name (USD only)."""
    tenant_limit: int = 1_000
    """How many tenants metrics name; all others share one series."""
    histogram_tenants: int = 100
    """The same for histograms over requests, which have many series for each tenant."""
    prometheus_host: str = "127.0.0.1"
    prometheus_port: int = 0
    """0: no endpoint."""
    carbon: CarbonIntensity | None = None
    """For an estimate of CO2e on request spans; None: they have none."""
    batch: int = 512
    """Most records in one export of spans."""


class Emission:
    """All telemetry of one agent and its ledger. One thread calls it."""

    def __init__(self, ledger: Path, settings: EmissionSettings | None = None) -> None:
        self.settings = settings or EmissionSettings()
        self.state = MetricState(self.settings.tenant_limit, self.settings.histogram_tenants)
        self._path = ledger
        self._version = _package_version()
        self._ledger: Ledger | None = None
        self._shipper: SpanShipper | None = None
        self._metrics: OtlpMetrics | None = None
        self._endpoint: PrometheusEndpoint | None = None
        self._wholes = WholeRecords()
        self._engines: set[str] = set()
        self._rates: set[str] = {""}

    @property
    def health(self) -> Health:
        """Figures of costtrace's own health, which the agent sets."""
        return self.state.health

    @property
    def shipped(self) -> Shipped:
        """What became of the spans so far."""
        return self._shipper.status if self._shipper is not None else Shipped()

    @property
    def prometheus_port(self) -> int:
        """The port of the Prometheus endpoint; 0: there is none."""
        return self._endpoint.port if self._endpoint is not None else 0

    def start(self) -> None:
        """Load the totals of the ledger and begin to send. What cannot begin is logged and left out."""
        # The exporters would log every failed export; costtrace logs each outage once.
        logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)
        for begin in (self._load, self._start_spans, self._start_metrics, self._start_endpoint):
            try:
                begin()
            except CosttraceError as error:
                self._report(str(error))
            except Exception as error:  # noqa: BLE001 a collector's trouble is not the agent's
                self._report(f"{begin.__name__[1:].replace('_', ' ')} failed: {error!r}")

    def publish(self, committed: Booked, is_open: Callable[[str], bool] | None = None) -> None:
        """Count what was committed and wake the span shipper, which reads the ledger. Returns at once.

        *is_open*: whether an engine works on a request key; None: fewer than two engines run.
        """
        try:
            self._look_up_new(committed)
            whole = self._wholes.take(committed.records, is_open)
            self.state.add(committed.postings, committed.records, committed.meter, self._numbers(), whole)
            if self._metrics is not None:
                self._metrics.record(whole)
        except Exception as error:  # noqa: BLE001 metrics are a view: the bill goes on without them
            self._report(f"metrics lack a commit: {error!r}")
        if self._shipper is not None and committed.records:
            self._shipper.wake()

    def device(self, reading: DeviceReading) -> None:
        """Show a device's sensor reading (``hw.energy``, ``hw.power``)."""
        self.state.device(reading)

    def drained(self) -> bool:
        """Has the receiver of spans everything that is in the ledger? True where there is no receiver."""
        return self._shipper is None or self._shipper.drained()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Send what is left for at most `timeout_s`, then end. True if the receiver has all spans."""
        all_sent = self._shipper.stop(timeout_s) if self._shipper is not None else True
        if self._metrics is not None:
            with suppress(Exception):
                self._metrics.record(self._wholes.take((), None))
        for part in (self._metrics, self._endpoint):
            with suppress(Exception):
                if isinstance(part, OtlpMetrics):
                    part.stop(timeout_s)
                elif part is not None:
                    part.stop()
        if self._ledger is not None:
            self._ledger.close()
        return all_sent

    def _load(self) -> None:
        self._ledger = Ledger(self._path, read_only=True)
        sent = None
        with suppress(ConfigError):  # it is reported where metrics begin
            receiver = target("metrics")
            sent = self._note(receiver).read(self._ledger.connection) if receiver is not None else None
        self.state.load(self._ledger.connection, self._numbers(), sent)

    def _numbers(self) -> Numbers | None:
        """Of the last rows that were committed."""
        if self._ledger is None:
            return None
        return Numbers(self._ledger.last_number("posting"), self._ledger.last_number("usage"))

    def _note(self, receiver: Target) -> SentNote:
        return SentNote(self._path, consumer(receiver))

    def _start_spans(self) -> None:
        receiver = target("traces")
        if receiver is None:
            _log.info("spans go nowhere: %s", off("traces"))
            return
        if unclear := doubt("traces", receiver):
            _log.warning("spans: %s", unclear)
        builder = SpanBuilder(self._resource(), self.settings.profiles, self._version, self.settings.carbon)
        self._shipper = SpanShipper(
            self._path, builder, lambda: open_transport(receiver), consumer(receiver), batch=self.settings.batch
        )
        self._follow(self._shipper)
        self._shipper.start()

    def _resource(self) -> Resource:
        instance = f"{host_name()}:{self._path.resolve()}".encode(errors="backslashreplace")  # a path need not be UTF-8
        return resource(instance.decode(), self._version)

    def _start_metrics(self) -> None:
        receiver = target("metrics")
        if receiver is not None:
            if unclear := doubt("metrics", receiver):
                _log.warning("metrics: %s", unclear)
            metrics = self._metrics = OtlpMetrics(
                self.state, receiver, self._resource(), self._version, self._note(receiver)
            )
            self.health.follow("points.rejected", lambda: metrics.rejected)

    def _start_endpoint(self) -> None:
        host, port = self.settings.prometheus_host, self.settings.prometheus_port
        if port:
            self._endpoint = PrometheusEndpoint(self.state, host, port)

    def _look_up_new(self, committed: Booked) -> None:
        """Read engines and rates that are new in *committed* from the ledger."""
        new = {posting.engine_id for posting, _ in committed.postings} - self._engines
        rates = {charge.rate_id for _, charge in committed.postings} - self._rates
        if (not new and not rates) or self._ledger is None:
            return
        connection = self._ledger.connection
        currencies = dict(connection.execute("SELECT rate_id, currency FROM rate").fetchall())
        self.state.totals.know(engines(connection).values() if new else (), currencies)
        self._engines |= new
        self._rates |= rates

    def _follow(self, shipper: SpanShipper) -> None:
        """Show the shipper's status among the health figures."""
        health = self.state.health
        health.follow("records.unsent", lambda: shipper.status.behind)
        health.follow("records.delay", lambda: shipper.status.delay_s)
        health.follow("records.sent", lambda: shipper.status.sent)
        health.follow("records.unsampled", lambda: shipper.status.unsampled)
        health.follow("records.refused", lambda: shipper.status.refused)
        health.follow("spans.rejected", lambda: shipper.status.rejected)
        health.follow("export.up", lambda: int(shipper.status.up))
        health.follow(
            "export.failures",
            lambda: shipper.status.failures + (self._metrics.failures if self._metrics is not None else 0),
        )

    def _report(self, message: str) -> None:
        self.state.health.add("agent.errors")
        _log.error("%s", message)


def _package_version() -> str | None:
    try:
        return version("costtrace-core")
    except PackageNotFoundError:
        return None
