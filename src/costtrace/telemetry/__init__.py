"""The bill as spans and metrics: OTLP, and a Prometheus endpoint. They are views of the ledger; the ledger is the bill.

    emission = Emission(ledger_path, EmissionSettings(prometheus_port=9464))
    emission.start()
    emission.publish(booked)     # after each commit: something with .postings, .meter and .records
    emission.stop()

Nothing here raises into the agent or makes it wait for a network: errors are logged and counted. OTLP receivers are set
by OpenTelemetry's ``OTEL_*`` variables; without an ``OTEL_EXPORTER_OTLP_*ENDPOINT`` nothing is sent.

May import: core, pricing, ledger.
"""

from costtrace.telemetry.emission import Emission, EmissionSettings
from costtrace.telemetry.health import Health
from costtrace.telemetry.metric_state import DeviceReading
from costtrace.telemetry.span_shipper import Shipped

__all__ = ["DeviceReading", "Emission", "EmissionSettings", "Health", "Shipped"]
