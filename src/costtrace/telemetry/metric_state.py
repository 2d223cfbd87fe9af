"""What metrics are made from, in one place and behind one lock: totals, distributions, devices, costtrace's health.

The agent's thread puts in, exporters' threads take copies out; the lock is held for a copy at most.
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
from costtrace.telemetry.totals import TenantGate, Totals, Where

Point = tuple[tuple[str, ...], int | float]
"""Values of a metric's attributes, in their order (empty: does not apply), and the metric's own."""


class DeviceReading(NamedTuple):
    """What a device's sensor said last."""

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
    """By what share integrated power exceeds its counter."""
    model_error: float | None = None
    """Mean error of the energy model over its last counter windows, as a share."""
    lag_s: float | None = None
    """How old its counter's value is when it is read, as found."""


class MetricState:
    """Everything that metrics show. `load` once, then `add` after each commit."""

    def __init__(self, tenant_limit: int = 1_000, histogram_tenants: int = 100) -> None:
        self.health = Health()
        self.totals = Totals(tenant_limit)
        self.since_ns = time.time_ns()
        """Since when the totals count (wall ns): the beginning of the ledger."""
        self._lock = threading.Lock()
        self._gate = TenantGate(histogram_tenants)
        self._distributions: dict[str, dict[tuple[str, ...], Distribution]] = {m.name: {} for m in s.HISTOGRAMS}
        self._bounds = {m.name: bounds(m) for m in s.HISTOGRAMS}
        self._devices: dict[str, DeviceReading] = {}
        self._device_uj: dict[str, int] = {}
        self._makers: dict[str, Callable[[], list[Point]]] = {
            s.M_GPU_TIME.name: lambda: _where(self.totals.gpu_ns, NS_PER_S),
            s.M_ENERGY.name: lambda: _where(self.totals.energy_uj, UJ_PER_J),
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
        """Begin with what stands in the ledger."""
        with self._lock:
            known = engines(connection)
            self.totals.load(connection, known.values())
            self.since_ns = min((e.started_wall_ns for e in known.values()), default=self.since_ns)

    def add(
        self,
        postings: Iterable[tuple[Posting, Charge]],
        usage: Iterable[tuple[UsageRecord, UsageCost]],
        meters: Iterable[MeterRow],
    ) -> None:
        """Take what was committed since. Its engines and rates are known (`Totals.know`)."""
        usage = list(usage)
        with self._lock:
            self.totals.add(postings, usage, meters)
            for record, cost in usage:
                self._distribute(record, cost)

    def device(self, reading: DeviceReading) -> None:
        """Take a device's latest reading. Its energy counts from the first; a counter that falls has been reset."""
        with self._lock:
            last = self._devices.get(reading.uuid)
            if reading.energy_uj is not None:
                before = last.energy_uj if last is not None and last.energy_uj is not None else reading.energy_uj
                gained = max(0, reading.energy_uj - before)
                self._device_uj[reading.uuid] = self._device_uj.get(reading.uuid, 0) + gained
            self._devices[reading.uuid] = reading

    def points(self, metric: s.Metric) -> list[Point]:
        """All points of a counter or gauge, now."""
        make = self._makers.get(metric.name)
        if make is None:
            value = self.health.get(metric.name.removeprefix("costtrace."))
            return [] if value is None else [((), value)]
        with self._lock:
            return make()

    def distributions(self, metric: s.Metric) -> list[tuple[tuple[str, ...], Distribution]]:
        """All distributions of a histogram, now."""
        with self._lock:
            return [(labels, each.copy()) for labels, each in self._distributions[metric.name].items()]

    def histogram_labels(self, record: UsageRecord) -> tuple[str, str, str]:
        """Values of `semconv.HISTOGRAM_ATTRIBUTES`: tenants are folded earlier here, each costs many buckets."""
        return self._gate(record.tenant), record.model, record.operation

    def _distribute(self, record: UsageRecord, cost: UsageCost) -> None:
        labels = self.histogram_labels(record)
        ids = span_ids(record)
        for metric, value, currency in request_values(record, cost):
            full = (*labels, currency) if s.CURRENCY in metric.attributes else labels
            group = self._distributions[metric.name]
            found = group.get(full)
            if found is None:
                found = group[full] = Distribution(self._bounds[metric.name])
            seen = None
            if ids is not None:
                seen = Exemplar(value, ids.trace_id, ids.request, record.ended_ns / NS_PER_S)
            found.add(value, seen)

    def _cost(self) -> list[Point]:
        return [
            (
                (
                    *(where.kind, where.reason, where.tenant, where.model, component, currency),
                    *(where.device_name, where.device_kind, _flag(where.simulated)),
                ),
                nano / NANO_PER_UNIT,
            )
            for (where, component, currency), nano in self.totals.cost_nano.items()
        ]

    def _wasted(self) -> list[Point]:
        return [
            ((w.tenant, w.model, w.device_name, w.device_kind, _flag(w.simulated)), ns / NS_PER_S)
            for w, ns in self.totals.wasted_ns.items()
        ]

    def _hw_energy(self) -> list[Point]:
        return [(_hw(self._devices[uuid]), uj / UJ_PER_J) for uuid, uj in self._device_uj.items()]

    def _hw_power(self) -> list[Point]:
        return [(_hw(d), d.power_mw / 1_000) for d in self._devices.values() if d.power_mw is not None]

    def _of_devices(self, figure: Callable[[DeviceReading], float | None]) -> list[Point]:
        return [(_hw(d), value) for d in self._devices.values() if (value := figure(d)) is not None]


def _where(sums: dict[Where, int], unit: int) -> list[Point]:
    return [((*where[:-1], _flag(where.simulated)), value / unit) for where, value in sums.items()]


def _flag(value: bool) -> str:  # noqa: FBT001 it is the value itself
    return "true" if value else ""


def _hw(device: DeviceReading) -> tuple[str, ...]:
    return device.uuid, device.name, "cpu" if device.kind == "cpu" else "gpu", _flag(device.simulated)
