"""Running totals for counters, by label set: exact integers, equal to the ledger's sums.

`Totals.load` reads them from a ledger, so that counters continue after a restart; `Totals.add` adds what was committed
since. Both count every row once: idle, overhead and unobserved too.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

import msgspec

from costtrace.core.rows import Charge, EngineRow, MeterRow, Posting, UsageCost, UsageRecord
from costtrace.core.semconv import OTHER_TENANT
from costtrace.ledger.count_once import CACHED, INPUT, IS_REQUEST, OUTPUT

_Key = TypeVar("_Key")
_MOST_FOLDED = 1_000_000
"""The set of folded tenants stops growing here."""


class Numbers(NamedTuple):
    """Numbers of a posting and of a usage record: all rows up to them."""

    posting: int
    usage: int


_BEFORE_ALL, _AFTER_ALL = Numbers(-1, -1), Numbers(2**63 - 1, 2**63 - 1)


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


class Sums(defaultdict[_Key, int], Generic[_Key]):
    """A sum for each key; a key begins with its first amount that is not 0."""

    def __init__(self) -> None:
        super().__init__(int)
        self.begun_ns: dict[_Key, int] = {}
        """The wall ns of each key's first amount: the same after a restart, in whatever order rows are read."""

    def add(self, key: _Key, value: int, at_ns: int) -> None:
        """Add an amount of the wall time `at_ns`."""
        if value:
            self[key] += value
            self.begun_ns[key] = min(self.begun_ns.get(key, at_ns), at_ns)


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
    other_ns: int
    """GPU time of no phase: idle, overhead and unobserved."""
    prefill_ns: int
    decode_ns: int
    wasted_ns: int
    other_uj: int
    """The known part; likewise of the phases."""
    prefill_uj: int
    decode_uj: int
    energy_unknown_ns: int
    device_nano: int
    """Of postings whose cost is known; likewise `energy_nano`."""
    energy_nano: int
    cost_unknown_ns: int
    at_ns: int
    """When its window begins: of many, the first."""


# Rows are grouped by which of their amounts are 0 too: so the first row of a group is the first of each of its amounts.
_AMOUNTS = (
    "gpu_ns - prefill_ns - decode_ns",
    *("prefill_ns", "decode_ns", "wasted_ns"),
    "CASE WHEN energy_uj IS NULL THEN 0 ELSE energy_uj - coalesce(prefill_uj, 0) - coalesce(decode_uj, 0) END",
    "CASE WHEN energy_uj IS NULL THEN 0 ELSE coalesce(prefill_uj, 0) END",
    "CASE WHEN energy_uj IS NULL THEN 0 ELSE coalesce(decode_uj, 0) END",
    "CASE WHEN energy_uj IS NULL AND gap_ns = 0 THEN gpu_ns ELSE gap_ns END",
    "CASE WHEN energy_nano IS NULL THEN 0 ELSE coalesce(device_nano, 0) END",
    "CASE WHEN device_nano IS NULL THEN 0 ELSE coalesce(energy_nano, 0) END",
    "CASE WHEN device_nano IS NULL OR energy_nano IS NULL THEN gpu_ns ELSE 0 END",
)
_TOKENS = ("input_tokens - cached_tokens", "cached_tokens", "output_tokens")
_NUMBERED = "WHERE {0} > ? AND {0} <= ?"
_LABELS = "tenant, model, operation, role, finish_reasons"
_USAGE = f"""(
    SELECT usage_id, ended_ns, {IS_REQUEST} AS requests, {_LABELS}, {INPUT} AS input_tokens, {CACHED} AS cached_tokens,
        {OUTPUT} AS output_tokens FROM usage u
    UNION ALL
    SELECT 0, ended_ns, requests, {_LABELS}, input_tokens, cached_tokens, output_tokens FROM usage_rollup
) {_NUMBERED.format("usage_id")}"""  # noqa: S608 our names
_METERED = ("request_ns", "idle_ns", "overhead_ns", "unobserved_ns")


def _sums(labels: str, amounts: tuple[str, ...], at: str, rows: str, order: str) -> str:
    """SQL for *labels*, the sums of *amounts*, and the first *at*."""
    sums = ", ".join(f"sum({amount})" for amount in amounts)
    which = " + ".join(f"(({amount}) = 0) * {1 << bit}" for bit, amount in enumerate(amounts))
    return f"SELECT {labels}, {sums}, min({at}) FROM {rows} GROUP BY {labels}, {which} ORDER BY {order}"  # noqa: S608 our names


_POSTING_SUMS = _sums(
    "kind, reason, tenant, model, engine_id, rate_id",
    _AMOUNTS,
    "window_ns",
    f"posted {_NUMBERED.format('posting_id')}",
    "min(posting_id)",
)
_USAGE_SUMS = _sums(_LABELS, ("requests", *_TOKENS), "ended_ns", _USAGE, "min(ended_ns)")
_METER_SUMS = _sums("device", _METERED, "window_ns", "meter", "device")


class Totals:
    """Sums by label set: times in ns, energy in uJ, money in nano-units. Its owner locks it."""

    def __init__(self, tenant_limit: int = 1_000) -> None:
        self.gate = TenantGate(tenant_limit)
        self.gpu_ns = Sums[UseLabels]()
        self.energy_uj = Sums[UseLabels]()
        self.cost_nano = Sums[CostLabels]()
        self.wasted_ns = Sums[UseLabels]()
        self.energy_unknown_ns = Sums[tuple[str, str]]()
        """By device name and kind; likewise `cost_unknown_ns`."""
        self.cost_unknown_ns = Sums[tuple[str, str]]()
        self.tokens = Sums[tuple[str, str, str, str]]()
        """By tenant, model, type and role."""
        self.requests = Sums[tuple[str, str, str, str, str]]()
        """By tenant, model, operation, outcome and role."""
        self.device_ns = Sums[tuple[str, str]]()
        """Metered time, by device and kind."""
        self._engines: dict[str, EngineRow] = {}
        self._currencies: dict[str, str] = {}

    def know(self, engines: Iterable[EngineRow], currencies: Mapping[str, str]) -> None:
        """Add engines, and the currency of rates by rate id. Both must be known before their postings are added."""
        self._engines.update((engine.engine_id, engine) for engine in engines)
        self._currencies.update(currencies)

    def load(
        self,
        connection: sqlite3.Connection,
        engines: Iterable[EngineRow],
        *,
        after: Numbers | None = None,
        upto: Numbers | None = None,
    ) -> None:
        """Add everything that the ledger has, in three scans; or in two parts, *upto* numbers and then *after* them.

        What was compacted is in the first part, what was metered in the second.
        """
        self.know(engines, dict(connection.execute("SELECT rate_id, currency FROM rate").fetchall()))
        first, last = after or _BEFORE_ALL, upto or _AFTER_ALL
        for row in connection.execute(_POSTING_SUMS, (first.posting, last.posting)):
            self._add_line(_Line(*row))
        for row in connection.execute(_USAGE_SUMS, (first.usage, last.usage)):
            tenant, model, operation, role, reasons, *counts = row
            outcome = _outcome(msgspec.json.decode(reasons, type=tuple[str, ...]))
            self._add_usage(tenant, model, operation, role, outcome, *counts)
        for key in [key for key, tokens in self.tokens.items() if not tokens]:  # all counted elsewhere, by roll-ups
            del self.tokens[key], self.tokens.begun_ns[key]
        for row in connection.execute(_METER_SUMS) if upto is None else ():
            self._add_meter(*row)

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
            requests, prompt, cached, output = record.counts()
            self._add_usage(
                *(record.tenant, record.model, record.operation, record.role, _outcome(record.finish_reasons)),
                *(requests, prompt - cached, cached, output, record.ended_ns),
            )
        for row in meters:
            self._add_meter(row.device, row.request_ns, row.idle_ns, row.overhead_ns, row.unobserved_ns, row.window_ns)

    def _add_line(self, line: _Line) -> None:
        engine = self._engines.get(line.engine_id)
        name, kind, simulated, engine_model = "", "", False, ""
        if engine is not None:
            name, kind, simulated, engine_model = engine.device_name, engine.device_kind, engine.simulated, engine.model
        tenant, model = self.gate(line.tenant), line.model or engine_model
        use = UseLabels(line.kind, line.reason, tenant, model, "", name, kind, simulated)
        if line.prefill_ns or line.decode_ns or line.prefill_uj or line.decode_uj:
            prefill, decode = use._replace(phase="prefill"), use._replace(phase="decode")
            self.gpu_ns.add(prefill, line.prefill_ns, line.at_ns)
            self.gpu_ns.add(decode, line.decode_ns, line.at_ns)
            self.energy_uj.add(prefill, line.prefill_uj, line.at_ns)
            self.energy_uj.add(decode, line.decode_uj, line.at_ns)
        self.gpu_ns.add(use, line.other_ns, line.at_ns)
        self.energy_uj.add(use, line.other_uj, line.at_ns)
        self.wasted_ns.add(use, line.wasted_ns, line.at_ns)
        if line.device_nano or line.energy_nano:
            currency = self._currencies.get(line.rate_id, "")
            self.cost_nano.add(CostLabels(use, "device", currency), line.device_nano, line.at_ns)
            self.cost_nano.add(CostLabels(use, "energy", currency), line.energy_nano, line.at_ns)
        self.energy_unknown_ns.add((name, kind), line.energy_unknown_ns, line.at_ns)
        self.cost_unknown_ns.add((name, kind), line.cost_unknown_ns, line.at_ns)

    def _add_usage(
        self,
        tenant: str,
        model: str,
        operation: str,
        role: str,
        outcome: str,
        requests: int,
        computed: int,
        cached: int,
        output: int,
        at_ns: int,
    ) -> None:
        tenant = self.gate(tenant)
        self.requests.add((tenant, model, operation, outcome, role), requests, at_ns)
        self.tokens.add((tenant, model, "input", role), computed, at_ns)
        self.tokens.add((tenant, model, "cached", role), cached, at_ns)
        self.tokens.add((tenant, model, "output", role), output, at_ns)

    def _add_meter(self, device: str, request: int, idle: int, overhead: int, unobserved: int, at_ns: int) -> None:
        self.device_ns.add((device, "request"), request, at_ns)
        self.device_ns.add((device, "idle"), idle, at_ns)
        self.device_ns.add((device, "overhead"), overhead, at_ns)
        self.device_ns.add((device, "unobserved"), unobserved, at_ns)


def _outcome(finish_reasons: tuple[str, ...]) -> str:
    return finish_reasons[0] if len(finish_reasons) == 1 else "+".join(sorted(set(finish_reasons)))


def _line(p: Posting, c: Charge) -> _Line:
    priced = c.cost_nano is not None
    uj, prefill_uj, decode_uj = (0, 0, 0) if p.energy_uj is None else (p.energy_uj, p.prefill_uj or 0, p.decode_uj or 0)
    return _Line(
        *(p.kind, p.reason, p.tenant, p.model, p.engine_id, c.rate_id),
        *(p.gpu_ns - p.prefill_ns - p.decode_ns, p.prefill_ns, p.decode_ns, p.wasted_ns),
        *(uj - prefill_uj - decode_uj, prefill_uj, decode_uj),
        p.energy_unknown_ns or (p.gpu_ns if p.energy_uj is None else 0),
        *((c.device_nano or 0, c.energy_nano or 0, 0) if priced else (0, 0, p.gpu_ns)),
        p.window_ns,
    )
