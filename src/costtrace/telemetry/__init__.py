"""What leaves the agent: spans and metrics over OTLP, a Prometheus endpoint. Views of the ledger, never the bill.

    emission = Emission(ledger_path, EmissionSettings(prometheus_port=9464))
    emission.start()
    emission.publish(booked)     # after each commit: something with .postings, .meter and .records
    emission.stop()

Nothing here raises into the agent or makes it wait for a network: what goes wrong is logged, counted and shown.
Where OTLP goes is said by OpenTelemetry's own variables; with no ``OTEL_EXPORTER_OTLP_*ENDPOINT`` it goes nowhere.
Comes in: what was booked, and the ledger through a cursor of its own.

May import: core, pricing, ledger.
"""

from costtrace.telemetry.emission import Emission, EmissionSettings
from costtrace.telemetry.health import Health
from costtrace.telemetry.metric_state import DeviceReading
from costtrace.telemetry.span_shipper import Shipped

__all__ = ["DeviceReading", "Emission", "EmissionSettings", "Health", "Shipped"]
