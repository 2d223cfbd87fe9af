"""Running totals for counters, by label set: exact integers, equal to the ledger's sums.

`Totals.load` reads them from a ledger, so that counters continue after a restart; `Totals.add` adds what was committed
since. Both count every row once: idle, overhead and unobserved too.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from costtrace.core.rows import Charge, EngineRow, MeterRow, Posting, UsageCost, UsageRecord
from costtrace.core.semconv import OTHER_TENANT

_Key = TypeVar("_Key")
_MOST_FOLDED = 1_000_000
"""The set of folded tenants stops growing here."""


class UseLabels(NamedTuple):
    """What device time and energy were spent on: the labels of their counters."""

    kind: str
    reason: str
    tenant: str
    model: str
    phase: str
    device_name: str
    device_kind: str
    simulated: bool


class CostLabels(NamedTuple):
    """What money was spent on."""

    use: UseLabels
    component: str
    """``device`` or ``energy``."""
    currency: str


class TenantGate:
    """Folds tenants beyond a limit into one. The first ones keep their names for as long as the gate lives."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted: set[str] = {""}
        self._folded: set[str] = set()

    @property
    def folded(self) -> int:
        """How many tenants share one name."""
        return len(self._folded)

    def __call__(self, tenant: str) -> str:
        """The name that metrics show the tenant under."""
        if tenant in self._admitted:
            return tenant
        if len(self._admitted) <= self._limit:
            self._admitted.add(tenant)
            return tenant
        if len(self._folded) < _MOST_FOLDED:
            self._folded.add(tenant)
        return OTHER_TENANT


class _Line(NamedTuple):
    """One posting with its charge, or the sum of many that agree in the first six fields."""

    kind: str
    reason: str
    tenant: str
    model: str
    engine_id: str
    rate_id: str
    gpu_ns: int
    prefill_ns: int
    decode_ns: int
    wasted_ns: int
    energy_uj: int
    """The known part; likewise of its phases."""
    prefill_uj: int
    decode_uj: int
    energy_unknown_ns: int
    device_nano: int
    """Of postings whose cost is known; likewise `energy_nano`."""
    energy_nano: int
    cost_unknown_ns: int


_POSTING_SUMS = """
SELECT kind, reason, tenant, model, engine_id, rate_id,
    sum(gpu_ns), sum(prefill_ns), sum(decode_ns), sum(wasted_ns),
    sum(coalesce(energy_uj, 0)),
    sum(CASE WHEN energy_uj IS NULL THEN 0 ELSE coalesce(prefill_uj, 0) END),
    sum(CASE WHEN energy_uj IS NULL THEN 0 ELSE coalesce(decode_uj, 0) END),
    sum(CASE WHEN energy_uj IS NULL AND gap_ns = 0 THEN gpu_ns ELSE gap_ns END),
    sum(CASE WHEN energy_nano IS NULL THEN 0 ELSE coalesce(device_nano, 0) END),
    sum(CASE WHEN device_nano IS NULL THEN 0 ELSE coalesce(energy_nano, 0) END),
    sum(CASE WHEN device_nano IS NULL OR energy_nano IS NULL THEN gpu_ns ELSE 0 END)
FROM posted GROUP BY kind, reason, tenant, model, engine_id, rate_id ORDER BY min(posting_id)
"""
_USAGE_SUMS = """
SELECT tenant, model, operation, role, finish_reasons, sum(parts), sum(input_tokens), sum(cached_tokens),
    sum(output_tokens)
FROM usage_line GROUP BY tenant, model, operation, role, finish_reasons ORDER BY min(ended_ns)
"""
_METER_SUMS = """
SELECT device, sum(request_ns), sum(idle_ns), sum(overhead_ns), sum(unobserved_ns) FROM meter GROUP BY device
"""


class Totals:
    """Sums by label set: times in ns, energy in uJ, money in nano-units. Its owner locks it."""

    def __init__(self, tenant_limit: int = 1_000) -> None:
        self.gate = TenantGate(tenant_limit)
        self.gpu_ns: defaultdict[UseLabels, int] = defaultdict(int)
        self.energy_uj: defaultdict[UseLabels, int] = defaultdict(int)
        self.cost_nano: defaultdict[CostLabels, int] = defaultdict(int)
        self.wasted_ns: defaultdict[UseLabels, int] = defaultdict(int)
        self.energy_unknown_ns: defaultdict[tuple[str, str], int] = defaultdict(int)
        """By device name and kind; likewise `cost_unknown_ns`."""
        self.cost_unknown_ns: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.tokens: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
        """By tenant, model, type and role."""
        self.requests: defaultdict[tuple[str, str, str, str, str], int] = defaultdict(int)
        """By tenant, model, operation, outcome and role."""
        self.device_ns: defaultdict[tuple[str, str], int] = defaultdict(int)
        """Metered time, by device and kind."""
        self._engines: dict[str, EngineRow] = {}
        self._currencies: dict[str, str] = {}

    def know(self, engines: Iterable[EngineRow], currencies: Mapping[str, str]) -> None:
        """Add engines, and the currency of rates by rate id. Both must be known before their postings are added."""
        self._engines.update((engine.engine_id, engine) for engine in engines)
        self._currencies.update(currencies)

    def load(self, connection: sqlite3.Connection, engines: Iterable[EngineRow]) -> None:
        """Add everything that the ledger has, in three scans. Call it once, before `add`."""
        self.know(engines, dict(connection.execute("SELECT rate_id, currency FROM rate").fetchall()))
        for row in connection.execute(_POSTING_SUMS):
            self._add_line(_Line(*row))
        for tenant, model, operation, role, reasons, *counts in connection.execute(_USAGE_SUMS):
            outcome = _outcome(msgspec.json.decode(reasons, type=tuple[str, ...]))
            self._add_usage(tenant, model, operation, role, outcome, *counts)
        for device, *times_ns in connection.execute(_METER_SUMS):
            self._add_meter(device, *times_ns)

    def add(
        self,
        postings: Iterable[tuple[Posting, Charge]],
        usage: Iterable[tuple[UsageRecord, UsageCost]],
        meters: Iterable[MeterRow],
    ) -> None:
        """Add what was committed since."""
        for posting, charge in postings:
            self._add_line(_line(posting, charge))
        for record, _ in usage:
            self._add_usage(
                *(record.tenant, record.model, record.operation, record.role, _outcome(record.finish_reasons), 1),
                *(record.input_tokens, record.cached_tokens, record.output_tokens),
            )
        for row in meters:
            self._add_meter(row.device, row.request_ns, row.idle_ns, row.overhead_ns, row.unobserved_ns)

    def _add_line(self, line: _Line) -> None:
        engine = self._engines.get(line.engine_id)
        name, kind, simulated, engine_model = "", "", False, ""
        if engine is not None:
            name, kind, simulated, engine_model = engine.device_name, engine.device_kind, engine.simulated, engine.model
        tenant, model = self.gate(line.tenant), line.model or engine_model
        use = UseLabels(line.kind, line.reason, tenant, model, "", name, kind, simulated)
        if line.prefill_ns or line.decode_ns or line.prefill_uj or line.decode_uj:
            prefill, decode = use._replace(phase="prefill"), use._replace(phase="decode")
            _add_to(self.gpu_ns, prefill, line.prefill_ns)
            _add_to(self.gpu_ns, decode, line.decode_ns)
            _add_to(self.energy_uj, prefill, line.prefill_uj)
            _add_to(self.energy_uj, decode, line.decode_uj)
        # The rest has no phase: idle, overhead and unobserved.
        _add_to(self.gpu_ns, use, line.gpu_ns - line.prefill_ns - line.decode_ns)
        _add_to(self.energy_uj, use, line.energy_uj - line.prefill_uj - line.decode_uj)
        _add_to(self.wasted_ns, use, line.wasted_ns)
        if line.device_nano or line.energy_nano:
            currency = self._currencies.get(line.rate_id, "")
            _add_to(self.cost_nano, CostLabels(use, "device", currency), line.device_nano)
            _add_to(self.cost_nano, CostLabels(use, "energy", currency), line.energy_nano)
        _add_to(self.energy_unknown_ns, (name, kind), line.energy_unknown_ns)
        _add_to(self.cost_unknown_ns, (name, kind), line.cost_unknown_ns)

    def _add_usage(
        self,
        tenant: str,
        model: str,
        operation: str,
        role: str,
        outcome: str,
        parts: int,
        prompt: int,
        cached: int,
        output: int,
    ) -> None:
        tenant = self.gate(tenant)
        self.requests[tenant, model, operation, outcome, role] += parts
        _add_to(self.tokens, (tenant, model, "input", role), prompt - cached)
        _add_to(self.tokens, (tenant, model, "cached", role), cached)
        _add_to(self.tokens, (tenant, model, "output", role), output)

    def _add_meter(self, device: str, request: int, idle: int, overhead: int, unobserved: int) -> None:
        _add_to(self.device_ns, (device, "request"), request)
        _add_to(self.device_ns, (device, "idle"), idle)
        _add_to(self.device_ns, (device, "overhead"), overhead)
        _add_to(self.device_ns, (device, "unobserved"), unobserved)


def _add_to(sums: defaultdict[_Key, int], key: _Key, value: int) -> None:
    if value:
        sums[key] += value


def _outcome(finish_reasons: tuple[str, ...]) -> str:
    return finish_reasons[0] if len(finish_reasons) == 1 else "+".join(sorted(set(finish_reasons)))


def _line(p: Posting, c: Charge) -> _Line:
    metered, priced = p.energy_uj is not None, c.cost_nano is not None
    return _Line(
        *(p.kind, p.reason, p.tenant, p.model, p.engine_id, c.rate_id),
        *(p.gpu_ns, p.prefill_ns, p.decode_ns, p.wasted_ns),
        *(p.energy_uj or 0, (p.prefill_uj or 0) if metered else 0, (p.decode_uj or 0) if metered else 0),
        p.energy_unknown_ns or (0 if metered else p.gpu_ns),
        *((c.device_nano or 0, c.energy_nano or 0, 0) if priced else (0, 0, p.gpu_ns)),
    )
