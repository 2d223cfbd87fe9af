"""Everything that metrics are made of, behind one lock: totals, distributions, device readings, costtrace's health.

The agent's thread adds to it, exporters' threads copy from it; the lock is held no longer than a copy takes.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from costtrace.core import semconv as s
from costtrace.core.rows import Charge, MeterRow, Posting, UsageCost, UsageRecord
from costtrace.core.units import NANO_PER_UNIT, NS_PER_S, UJ_PER_J
from costtrace.telemetry.health import Health
from costtrace.telemetry.histograms import Distribution, Exemplar, bounds, request_values
from costtrace.telemetry.ledger_rows import engines
from costtrace.telemetry.span_ids import span_ids
from costtrace.telemetry.totals import TenantGate, Totals, UseLabels

Point = tuple[tuple[str, ...], int | float]
"""Values of a metric's attributes, in their order (empty: does not apply), and the value of the metric."""


class DeviceReading(NamedTuple):
    """The last reading of a device's sensor, and what attribution has learned about it."""

    uuid: str
    name: str
    kind: str
    """``gpu``, ``mig`` or ``cpu``."""
    energy_uj: int | None = None
    """Reading of its energy counter."""
    power_mw: int | None = None
    simulated: bool = False
    idle_w: float | None = None
    """Power when nothing runs on it, as fitted."""
    residual: float | None = None
    """The share by which integrated power exceeds its counter."""
    model_error: float | None = None
    """Mean error of the energy model over its last counter windows, as a share."""
    lag_s: float | None = None
    """How old its counter's value is when it is read, as measured."""


class MetricState:
    """What all metrics show. Call `load` once, then `add` after each commit."""

    def __init__(self, tenant_limit: int = 1_000, histogram_tenants: int = 100) -> None:
        self.health = Health()
        self.totals = Totals(tenant_limit)
        self.since_ns = time.time_ns()
        """The wall ns at which the totals begin: the start of the ledger's first engine."""
        self._lock = threading.Lock()
        self._gate = TenantGate(histogram_tenants)
        self._distributions: dict[str, dict[tuple[str, ...], Distribution]] = {m.name: {} for m in s.HISTOGRAMS}
        self._bounds = {m.name: bounds(m) for m in s.HISTOGRAMS}
        self._devices: dict[str, DeviceReading] = {}
        self._device_uj: dict[str, int] = {}
        self._makers: dict[str, Callable[[], list[Point]]] = {
            s.M_GPU_TIME.name: lambda: _points(self.totals.gpu_ns, NS_PER_S),
            s.M_ENERGY.name: lambda: _points(self.totals.energy_uj, UJ_PER_J),
            s.M_COST.name: self._cost,
            s.M_TOKENS.name: lambda: list(self.totals.tokens.items()),
            s.M_REQUESTS.name: lambda: list(self.totals.requests.items()),
            s.M_WASTED.name: self._wasted,
            s.M_UNMETERED.name: lambda: [(k, ns / NS_PER_S) for k, ns in self.totals.energy_unknown_ns.items()],
            s.M_UNPRICED.name: lambda: [(k, ns / NS_PER_S) for k, ns in self.totals.cost_unknown_ns.items()],
            s.M_DEVICE_TIME.name: lambda: [(k, ns / NS_PER_S) for k, ns in self.totals.device_ns.items()],
            s.M_HW_ENERGY.name: self._hw_energy,
            s.M_HW_POWER.name: self._hw_power,
            s.M_IDLE_POWER.name: lambda: self._of_devices(lambda device: device.idle_w),
            s.M_RESIDUAL.name: lambda: self._of_devices(lambda device: device.residual),
            s.M_MODEL_ERROR.name: lambda: self._of_devices(lambda device: device.model_error),
            s.M_SENSOR_LAG.name: lambda: self._of_devices(lambda device: device.lag_s),
            s.M_TENANTS_FOLDED.name: lambda: [((), self.totals.gate.folded)],
        }

    def load(self, connection: sqlite3.Connection) -> None:
        """Begin with the totals of the ledger."""
        with self._lock:
            rows = engines(connection).values()
            self.totals.load(connection, rows)
            self.since_ns = min((engine.started_wall_ns for engine in rows), default=self.since_ns)

    def add(
        self,
        postings: Iterable[tuple[Posting, Charge]],
        usage: Iterable[tuple[UsageRecord, UsageCost]],
        meters: Iterable[MeterRow],
    ) -> None:
        """Add what was committed since. Its engines and rates must be known (`Totals.know`)."""
        usage = list(usage)
        with self._lock:
            self.totals.add(postings, usage, meters)
            for record, cost in usage:
                self._distribute(record, cost)

    def device(self, reading: DeviceReading) -> None:
        """Keep a device's latest reading. Its energy counts from the first; a counter that falls was reset."""
        with self._lock:
            last = self._devices.get(reading.uuid)
            if reading.energy_uj is not None:
                before = last.energy_uj if last is not None and last.energy_uj is not None else reading.energy_uj
                gained = max(0, reading.energy_uj - before)
                self._device_uj[reading.uuid] = self._device_uj.get(reading.uuid, 0) + gained
            self._devices[reading.uuid] = reading

    def points(self, metric: s.Metric) -> list[Point]:
        """The points of a counter or gauge, now."""
        make = self._makers.get(metric.name)
        if make is None:
            value = self.health.get(metric.name.removeprefix("costtrace."))
            return [] if value is None else [((), value)]
        with self._lock:
            return make()

    def distributions(self, metric: s.Metric) -> list[tuple[tuple[str, ...], Distribution]]:
        """Copies of a histogram's distributions by label set, now."""
        with self._lock:
            return [(labels, group.copy()) for labels, group in self._distributions[metric.name].items()]

    def histogram_labels(self, record: UsageRecord) -> tuple[str, str, str]:
        """Values of `semconv.HISTOGRAM_ATTRIBUTES`. Fewer tenants are named than in totals: each has many buckets."""
        return self._gate(record.tenant), record.model, record.operation

    def _distribute(self, record: UsageRecord, cost: UsageCost) -> None:
        labels = self.histogram_labels(record)
        ids = span_ids(record)
        for metric, value, currency in request_values(record, cost):
            key = (*labels, currency) if s.CURRENCY in metric.attributes else labels
            by_labels = self._distributions[metric.name]
            distribution = by_labels.get(key)
            if distribution is None:
                distribution = by_labels[key] = Distribution(self._bounds[metric.name])
            exemplar = None
            if ids is not None:
                exemplar = Exemplar(value, ids.trace_id, ids.request, record.ended_ns / NS_PER_S)
            distribution.add(value, exemplar)

    def _cost(self) -> list[Point]:
        return [
            (
                (
                    *(use.kind, use.reason, use.tenant, use.model, component, currency),
                    *(use.device_name, use.device_kind, _flag(use.simulated)),
                ),
                nano / NANO_PER_UNIT,
            )
            for (use, component, currency), nano in self.totals.cost_nano.items()
        ]

    def _wasted(self) -> list[Point]:
        return [
            ((use.tenant, use.model, use.device_name, use.device_kind, _flag(use.simulated)), ns / NS_PER_S)
            for use, ns in self.totals.wasted_ns.items()
        ]

    def _hw_energy(self) -> list[Point]:
        return [(_device_labels(self._devices[uuid]), uj / UJ_PER_J) for uuid, uj in self._device_uj.items()]

    def _hw_power(self) -> list[Point]:
        return self._of_devices(lambda device: None if device.power_mw is None else device.power_mw / 1_000)

    def _of_devices(self, figure: Callable[[DeviceReading], float | None]) -> list[Point]:
        devices = self._devices.values()
        return [(_device_labels(device), value) for device in devices if (value := figure(device)) is not None]


def _points(sums: dict[UseLabels, int], unit: int) -> list[Point]:
    return [((*use[:-1], _flag(use.simulated)), value / unit) for use, value in sums.items()]


def _flag(value: bool) -> str:  # noqa: FBT001 it is the value itself
    return "true" if value else ""


def _device_labels(device: DeviceReading) -> tuple[str, ...]:
    return device.uuid, device.name, "cpu" if device.kind == "cpu" else "gpu", _flag(device.simulated)
