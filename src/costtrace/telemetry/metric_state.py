"""Everything that metrics are made of, behind one lock: totals, distributions, device readings, costtrace's health.

The agent's thread adds to it, exporters' threads copy from it; the lock is held no longer than a copy takes.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from costtrace.core import semconv as s
from costtrace.core.rows import Charge, MeterRow, Posting, UsageCost, UsageRecord
from costtrace.core.units import NANO_PER_UNIT, NS_PER_S, UJ_PER_J
from costtrace.telemetry.health import Health
from costtrace.telemetry.histograms import Distribution, Exemplar, bounds, request_values
from costtrace.telemetry.ledger_rows import engines
from costtrace.telemetry.span_ids import span_ids
from costtrace.telemetry.totals import CostLabels, Numbers, Sums, TenantGate, Totals, UseLabels

Point = tuple[tuple[str, ...], int | float]
"""Values of a metric's attributes, in their order (empty: does not apply), and the value of the metric."""


class Counter(NamedTuple):
    """Sums that a counter shows."""

    sums: Sums[Any]
    labels: Callable[[Any], tuple[str, ...]]
    """Makes values of the metric's attributes of a sum's key."""
    unit: int
    """How many of the sums' units are one of the metric's."""

    def in_unit(self, value: float) -> float:
        """A sum in the metric's unit: counts stay integers."""
        return value if self.unit == 1 else value / self.unit


Series = tuple[str, tuple[str, ...]]
"""Name and labels of a counter."""


class Count(NamedTuple):
    """What all counters count at one moment."""

    values: dict[Series, int | float]
    """In the sums' own units."""
    numbers: Numbers | None
    """The last rows of the ledger that are counted; None: not known."""


class Sent(msgspec.Struct, frozen=True):
    """What of the ledger a receiver has acknowledged."""

    at_ns: int
    """Wall ns of the counts."""
    numbers: Numbers
    device_ns: list[tuple[str, str, int]]
    """Metered time by device and kind: meter rows have no numbers."""


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
        self.started_ns = time.time_ns()
        """The wall ns at which everything else begins."""
        self.sent: Mapping[Series, int | float] = {}
        """What `load` was given as sent: counts in the sums' own units."""
        self.sent_ns = 0
        """The wall ns of these; 0: there are none."""
        self._numbers: Numbers | None = None
        self._lock = threading.Lock()
        self._gate = TenantGate(histogram_tenants)
        self._distributions: dict[str, dict[tuple[str, ...], Distribution]] = {m.name: {} for m in s.HISTOGRAMS}
        self._bounds = {m.name: bounds(m) for m in s.HISTOGRAMS}
        self._devices: dict[str, DeviceReading] = {}
        self._device_uj = Sums[str]()
        totals = self.totals
        self.counters: dict[str, Counter] = {
            s.M_GPU_TIME.name: Counter(totals.gpu_ns, _use, NS_PER_S),
            s.M_ENERGY.name: Counter(totals.energy_uj, _use, UJ_PER_J),
            s.M_COST.name: Counter(totals.cost_nano, _cost, NANO_PER_UNIT),
            s.M_TOKENS.name: Counter(totals.tokens, tuple, 1),
            s.M_REQUESTS.name: Counter(totals.requests, tuple, 1),
            s.M_WASTED.name: Counter(totals.wasted_ns, _wasted, NS_PER_S),
            s.M_UNMETERED.name: Counter(totals.energy_unknown_ns, tuple, NS_PER_S),
            s.M_UNPRICED.name: Counter(totals.cost_unknown_ns, tuple, NS_PER_S),
            s.M_DEVICE_TIME.name: Counter(totals.device_ns, tuple, NS_PER_S),
            s.M_HW_ENERGY.name: Counter(self._device_uj, lambda uuid: _device_labels(self._devices[uuid]), UJ_PER_J),
        }
        self._makers: dict[str, Callable[[], list[Point]]] = {
            s.M_HW_POWER.name: self._hw_power,
            s.M_IDLE_POWER.name: lambda: self._of_devices(lambda device: device.idle_w),
            s.M_RESIDUAL.name: lambda: self._of_devices(lambda device: device.residual),
            s.M_MODEL_ERROR.name: lambda: self._of_devices(lambda device: device.model_error),
            s.M_SENSOR_LAG.name: lambda: self._of_devices(lambda device: device.lag_s),
            s.M_TENANTS_FOLDED.name: lambda: [((), self.totals.gate.folded)],
        }

    def load(self, connection: sqlite3.Connection, numbers: Numbers | None = None, sent: Sent | None = None) -> None:
        """Begin with the totals of the ledger, up to rows with *numbers*; a receiver has what is *sent* of them."""
        with self._lock:
            rows = engines(connection).values()
            self.since_ns = min((engine.started_wall_ns for engine in rows), default=self.since_ns)
            if sent is not None:
                self.totals.load(connection, rows, upto=sent.numbers)
                device_ns = {(s.M_DEVICE_TIME.name, (device, kind)): ns for device, kind, ns in sent.device_ns}
                self.sent, self.sent_ns = self._values() | device_ns, sent.at_ns
            self.totals.load(connection, rows, after=sent.numbers if sent is not None else None)
            self._numbers = numbers

    def add(
        self,
        postings: Iterable[tuple[Posting, Charge]],
        usage: Iterable[tuple[UsageRecord, UsageCost]],
        meters: Iterable[MeterRow],
        numbers: Numbers | None = None,
        requests: Iterable[tuple[UsageRecord, UsageCost]] | None = None,
    ) -> None:
        """Add what was committed since, to rows with *numbers*. Its engines and rates must be known (`Totals.know`).

        *requests*: what histograms count, each with all its parts; None: *usage*.
        """
        usage = list(usage)
        with self._lock:
            self.totals.add(postings, usage, meters)
            self._numbers = numbers if self._numbers is not None else None
            for record, cost in usage if requests is None else requests:
                self._distribute(record, cost)

    def device(self, reading: DeviceReading) -> None:
        """Keep a device's latest reading. Its energy counts from the first; a counter that falls was reset."""
        with self._lock:
            last = self._devices.get(reading.uuid)
            if reading.energy_uj is not None:
                before = last.energy_uj if last is not None and last.energy_uj is not None else reading.energy_uj
                self._device_uj.begun_ns.setdefault(reading.uuid, time.time_ns())
                self._device_uj[reading.uuid] += max(0, reading.energy_uj - before)
            self._devices[reading.uuid] = reading

    def points(self, metric: s.Metric) -> list[Point]:
        """The points of a counter or gauge, now."""
        counter, make = self.counters.get(metric.name), self._makers.get(metric.name)
        if counter is not None:
            with self._lock:
                return [(counter.labels(key), counter.in_unit(value)) for key, value in counter.sums.items()]
        if make is None:
            value = self.health.get(metric.name.removeprefix("costtrace."))
            return [] if value is None else [((), value)]
        with self._lock:
            return make()

    def begun_s(self, metric: s.Metric) -> dict[tuple[str, ...], float]:
        """The wall time at which each label set of a counter was 0 for the last time."""
        counter = self.counters.get(metric.name)
        if counter is None:
            return {(): self.started_ns / NS_PER_S}
        with self._lock:
            return {counter.labels(key): at_ns / NS_PER_S for key, at_ns in counter.sums.begun_ns.items()}

    def count(self) -> Count:
        """What all counters count, at one moment."""
        health = {(m.name, ()): self.health.get(name) for name, m in s.HEALTH.items() if m.instrument == "counter"}
        with self._lock:
            count = Count(self._values(), self._numbers)
        count.values.update((series, value) for series, value in health.items() if value is not None)
        return count

    def _values(self) -> dict[Series, int | float]:
        return {
            (name, counter.labels(key)): value
            for name, counter in self.counters.items()
            for key, value in counter.sums.items()
        }

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
                # Not before this process: the histogram of an earlier one was there until then.
                begun_s = max(record.ended_ns, self.started_ns) / NS_PER_S
                distribution = by_labels[key] = Distribution(self._bounds[metric.name], begun_s)
            exemplar = None
            if ids is not None:
                exemplar = Exemplar(value, ids.trace_id, ids.request, record.ended_ns / NS_PER_S)
            distribution.add(value, exemplar)

    def _hw_power(self) -> list[Point]:
        return self._of_devices(lambda device: None if device.power_mw is None else device.power_mw / 1_000)

    def _of_devices(self, figure: Callable[[DeviceReading], float | None]) -> list[Point]:
        devices = self._devices.values()
        return [(_device_labels(device), value) for device in devices if (value := figure(device)) is not None]


def attributes_of(metric: s.Metric, values: tuple[str, ...]) -> dict[str, str | bool]:
    """A point's attributes over OTLP; empty values do not apply."""
    pairs = zip(metric.attributes, values, strict=True)
    return {a.name: True if a.type == "boolean" else value for a, value in pairs if value}


def _use(use: UseLabels) -> tuple[str, ...]:
    return (*use[:-1], _flag(use.simulated))


def _cost(cost: CostLabels) -> tuple[str, ...]:
    use = cost.use
    spent_on = use.kind, use.reason, use.tenant, use.model, cost.component, cost.currency
    return (*spent_on, use.device_name, use.device_kind, _flag(use.simulated))


def _wasted(use: UseLabels) -> tuple[str, ...]:
    return use.tenant, use.model, use.device_name, use.device_kind, _flag(use.simulated)


def _flag(value: bool) -> str:  # noqa: FBT001 it is the value itself
    return "true" if value else ""


def _device_labels(device: DeviceReading) -> tuple[str, ...]:
    return device.uuid, device.name, "cpu" if device.kind == "cpu" else "gpu", _flag(device.simulated)
