"""The loop from journals to ledger to telemetry. One agent a node and home.

Comes in: journals of engines and sensors, settings, price books. Goes out: booked rows, spans, metrics, and the small
files that engines read. It decides when something happens; the packages that it imports do it.

May import: core, config, journal, attribution, capture, pricing, sensors, ledger, telemetry.
"""
