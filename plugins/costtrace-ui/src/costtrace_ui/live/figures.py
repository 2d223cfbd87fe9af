"""The figures of the last minutes: who spends what, and on what. Pure.

Money, device time and tokens are those of `costtrace report` for the same period: the same sums by the same code.
Joules per token and the mean batch are of the requests that ended in it, so that both sides of a ratio are of the same
requests.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import NamedTuple

from costtrace.ledger.answers import Ended, Period, Request, Used
from costtrace.reports.output.tables import Row, Value
from costtrace.reports.usage.summary import EVERYTHING, REQUESTS, Line, summarize

KEYS = ("tenant", "model", "engine")
"""The keys that sums are read by; each has a view of its own."""
PPM = 1_000_000


class RatioSums(NamedTuple):
    """Sums over the requests that ended in a period, from which ratios are made."""

    keys: tuple[str, ...]
    metered_tokens: int
    """Output tokens of the requests whose energy is known in full."""
    metered_uj: int
    """The energy of these requests, uJ."""
    batch_milli_steps: int
    """Sum over the requests of mean batch x 1,000 x steps."""
    steps: int


class DeviceUse(NamedTuple):
    """One device's time and energy in a period, over all engines that ran on it."""

    device: str
    name: str
    engines: int
    request_ns: int
    idle_ns: int
    overhead_ns: int
    unobserved_ns: int
    energy_uj: int | None
    energy_unknown_ns: int
    """Device time whose energy is unknown."""
    simulated: bool


class RunningRequest(NamedTuple):
    """A request that has not ended: what it has used up to the last closed window."""

    record_id: str
    tenant: str
    model: str
    engine_id: str
    began_ns: int
    """Wall time at which its first window begins."""
    gpu_ns: int
    prefill_ns: int
    decode_ns: int
    wasted_ns: int
    cost_nano: int | None
    """None: a part of it or all is unknown."""
    currency: str


class Snapshot(NamedTuple):
    """What a ledger holds of a period, read at one moment."""

    period: Period
    """From the start of its first window to the end of its last closed one."""
    used: Sequence[Used]
    """By `KEYS`, like `ended` and `ratio_sums`."""
    ended: Sequence[Ended]
    ratio_sums: Sequence[RatioSums]
    devices: Sequence[DeviceUse]
    running: Sequence[RunningRequest]
    costliest: Sequence[Request]
    """Of the requests that ended in the period, the most expensive first."""

    @property
    def span_ns(self) -> int:
        """Length of the period, by which rates are divided; 0 where no window has closed."""
        return self.period.until_ns - self.period.since_ns


def groups(snapshot: Snapshot, by: str) -> list[Row]:
    """One row for each tenant (or model, or engine) and currency, then the time without requests: all of the bill."""
    position = KEYS.index(by)
    requests = [row._replace(keys=(row.keys[position],)) for row in snapshot.used if row.kind == REQUESTS]
    ended = [row._replace(keys=(row.keys[position],)) for row in snapshot.ended]
    idle_ppm = _idle_ppm(snapshot.used, position)
    sums_by_name = _ratio_sums(snapshot.ratio_sums, position)
    rows = []
    for line in summarize((by,), requests, ended, UTC).lines:
        sums = sums_by_name.get(line.keys[0], _NO_REQUESTS)
        rows.append(
            _group_row(snapshot, line, line.keys[0], sums, None if by == "tenant" else idle_ppm.get(line.keys[0]))
        )
    without_requests = [row._replace(keys=("",)) for row in snapshot.used if row.kind != REQUESTS]
    rest = summarize((by,), without_requests, (), UTC).rest
    return [*rows, *(_group_row(snapshot, line, _kind_name(line), _NO_REQUESTS, None) for line in rest)]


def _kind_name(line: Line) -> str:
    return f"{line.kind}: {line.reason}" if line.reason else line.kind


def totals(snapshot: Snapshot) -> list[Line]:
    """The period's total in each currency, like the last lines of `costtrace report`."""
    used = [row._replace(keys=()) for row in snapshot.used]
    summary = summarize((), used, [row._replace(keys=()) for row in snapshot.ended], UTC)
    return [line for line in summary.totals if line.kind == EVERYTHING]


def devices(snapshot: Snapshot) -> list[Row]:
    """One row for each device."""
    return [_device_row(snapshot, device) for device in snapshot.devices]


def running(snapshot: Snapshot) -> list[Row]:
    """One row for each request that has not ended, the most expensive first."""
    rows: list[Row] = [
        {**request._asdict(), "kind": REQUESTS, "age_ns": snapshot.period.until_ns - request.began_ns}
        for request in snapshot.running
    ]
    return sorted(rows, key=lambda row: order(row, "cost_nano"))


def costliest(snapshot: Snapshot) -> list[Row]:
    """One row for each request that ended in the period, the most expensive first."""
    return [
        {
            **{name: getattr(request, name) for name in _OF_REQUEST},
            "kind": REQUESTS,
            "uj_per_output_token": _ratio(request.energy_uj, request.output_tokens)
            if not request.energy_unknown_ns
            else None,
            "age_ns": max(0, snapshot.period.until_ns - request.ended_ns),
        }
        for request in snapshot.costliest
    ]


def per_token_uj(sums: Iterable[RatioSums]) -> int | None:
    """Energy of an output token, uJ, of the requests whose energy is known in full; None without such requests."""
    sums = list(sums)
    return _ratio(sum(row.metered_uj for row in sums), sum(row.metered_tokens for row in sums))


def order(row: Row, key: str) -> tuple[int, int, str]:
    """A sort key: numbers from the largest down, text from A to Z, unknown values last."""
    value = row[key]
    if isinstance(value, int):
        return (0, -value, "")
    return (1, 0, value.casefold() if isinstance(value, str) else "")


def arranged(rows: Iterable[Row], key: str, *, backwards: bool, words: str) -> list[Row]:
    """Rows with *words* in a name, sorted by *key*, unknown values last; time without requests is always below."""
    folded_words = words.casefold()
    matching = [row for row in rows if any(folded_words in str(row[name]).casefold() for name in _NAMES if name in row)]
    known = [row for row in matching if row[key] is not None]
    known.sort(key=lambda row: order(row, key), reverse=backwards)
    return sorted([*known, *(row for row in matching if row[key] is None)], key=lambda row: row["kind"] != REQUESTS)


_NAMES = ("name", "tenant", "model", "engine_id", "device", "request_id", "record_id")
_NO_REQUESTS = RatioSums((), 0, 0, 0, 0)
_OF_REQUEST = (
    *("record_id", "request_id", "tenant", "model", "engine_id", "ended_ns", "gpu_ns", "prefill_ns", "decode_ns"),
    *("wasted_ns", "energy_uj", "input_tokens", "output_tokens", "batch_milli", "cost_nano", "currency", "simulated"),
)


def _group_row(snapshot: Snapshot, line: Line, name: str, sums: RatioSums, idle_ppm: int | None) -> Row:
    row: dict[str, Value] = {
        "name": name,
        "kind": line.kind,
        "currency": line.currency,
        "span_ns": snapshot.span_ns,
        "requests": line.requests,
        "input_tokens": line.input_tokens,
        "output_tokens": line.output_tokens,
        "gpu_ns": line.gpu_ns,
        "wasted_ns": line.wasted_ns,
        "energy_uj": line.energy_uj,
        "cost_nano": line.cost_nano,
        "cost_unknown_gpu_ns": line.cost_unknown_ns,
        "uj_per_output_token": per_token_uj([sums]),
        "batch_milli": _ratio(sums.batch_milli_steps, sums.steps),
        "idle_ppm": idle_ppm,
    }
    return row


def _device_row(snapshot: Snapshot, device: DeviceUse) -> Row:
    device_ns = device.request_ns + device.idle_ns + device.overhead_ns + device.unobserved_ns
    metered_ns = device_ns - device.energy_unknown_ns
    # In JSON a time without known energy is called gap_ns.
    row: dict[str, Value] = {name.replace("energy_unknown", "gap"): value for name, value in device._asdict().items()}
    row |= {"kind": REQUESTS, "span_ns": snapshot.span_ns, "device_ns": device_ns}
    for kind in ("request", "idle", "overhead", "unobserved"):
        row[f"{kind}_ppm"] = _ratio(int(getattr(device, f"{kind}_ns")) * PPM, device_ns)
    # uJ / ns = kW: a million times as many mW.
    row["power_mw"] = _ratio(device.energy_uj * 1_000_000, metered_ns) if device.energy_uj is not None else None
    return row


def _idle_ppm(used: Iterable[Used], position: int) -> dict[str, int | None]:
    """Idle time as a part of all time (ppm), by name; only of names that have time without requests."""
    all_ns: dict[str, int] = {}
    idle_ns: dict[str, int] = {}
    for row in used:
        name = row.keys[position]
        all_ns[name] = all_ns.get(name, 0) + row.gpu_ns
        if row.kind != REQUESTS:
            idle_ns[name] = idle_ns.get(name, 0) + (row.gpu_ns if row.kind == "idle" else 0)
    return {name: _ratio(ns * PPM, all_ns[name]) for name, ns in idle_ns.items()}


def _ratio_sums(sums: Iterable[RatioSums], position: int) -> dict[str, RatioSums]:
    by_name: dict[str, RatioSums] = {}
    for row in sums:
        name = row.keys[position]
        so_far = by_name.get(name, _NO_REQUESTS)
        by_name[name] = RatioSums((name,), *(left + right for left, right in zip(so_far[1:], row[1:], strict=True)))
    return by_name


def _ratio(part: int | None, whole: int) -> int | None:
    """The ratio, rounded to a whole number; None where a side is unknown or *whole* is 0."""
    return None if part is None or whole <= 0 else (2 * part + whole) // (2 * whole)
