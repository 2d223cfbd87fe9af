"""What a terminal shows of the last minutes: who spends what a second, and on what; pure.

Money, device time and tokens are those of `costtrace report` for the same period: the same sums by the same code.
Joules per token and the batch are of the requests that ended in it: both sides of a ratio are the same requests.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import NamedTuple

from costtrace.ledger.answers import Ended, Period, Request, Used
from costtrace.reports.output.tables import Row, Value
from costtrace.reports.usage.summary import EVERYTHING, REQUESTS, Line, summarize

KEYS = ("tenant", "model", "engine")
"""By what sums are read; each has a view of its own."""
PPM = 1_000_000


class Served(NamedTuple):
    """Requests that ended in a period, summed: what ratios are made of."""

    keys: tuple[str, ...]
    metered_tokens: int
    """Output tokens of those whose energy is known in full."""
    metered_uj: int
    """That energy."""
    batch_milli_steps: int
    """Mean batch of each, times its steps."""
    steps: int


class Device(NamedTuple):
    """One device in a period, over all engines that it served."""

    device: str
    name: str
    engines: int
    request_ns: int
    idle_ns: int
    overhead_ns: int
    unobserved_ns: int
    energy_uj: int | None
    energy_unknown_ns: int
    """Part of its time whose energy is not known."""
    simulated: bool


class Running(NamedTuple):
    """A request that has device time in the period and no end yet: what it has used up to the last closed window."""

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
    """None: unknown, in part or altogether."""
    currency: str


class Look(NamedTuple):
    """What a ledger holds of a period, read at one moment."""

    period: Period
    """From the begin of its first window to the end of its last closed one."""
    used: Sequence[Used]
    """By `KEYS`; likewise `ended` and `served`."""
    ended: Sequence[Ended]
    served: Sequence[Served]
    devices: Sequence[Device]
    running: Sequence[Running]
    dearest: Sequence[Request]

    @property
    def span_ns(self) -> int:
        """What rates are divided by; 0 where there is nothing yet."""
        return self.period.until_ns - self.period.since_ns


def groups(look: Look, by: str) -> list[Row]:
    """One row for each tenant (or model, or engine) and currency, then what is nobody's: together they are the bill."""
    place = KEYS.index(by)
    requests = [row._replace(keys=(row.keys[place],)) for row in look.used if row.kind == REQUESTS]
    ended = [row._replace(keys=(row.keys[place],)) for row in look.ended]
    idle_ppm = _idle_ppm(look.used, place)
    served = _served(look.served, place)
    rows = []
    for line in summarize((by,), requests, ended, UTC).lines:
        own = served.get(line.keys[0], _NOBODY)
        rows.append(_group_row(look, line, line.keys[0], own, None if by == "tenant" else idle_ppm.get(line.keys[0])))
    others = [row._replace(keys=("",)) for row in look.used if row.kind != REQUESTS]
    rest = summarize((by,), others, (), UTC).rest
    return [*rows, *(_group_row(look, line, _nobody(line), _NOBODY, None) for line in rest)]


def _nobody(line: Line) -> str:
    return f"{line.kind}: {line.reason}" if line.reason else line.kind


def totals(look: Look) -> list[Line]:
    """All of the period, once for each currency, as the last lines of `costtrace report`."""
    used = [row._replace(keys=()) for row in look.used]
    found = summarize((), used, [row._replace(keys=()) for row in look.ended], UTC)
    return [line for line in found.totals if line.kind == EVERYTHING]


def devices(look: Look) -> list[Row]:
    """One row a device."""
    return [_device_row(look, device) for device in look.devices]


def running(look: Look) -> list[Row]:
    """One row a request that has not ended, the dearest first."""
    rows: list[Row] = [
        {**one._asdict(), "kind": REQUESTS, "age_ns": look.period.until_ns - one.began_ns} for one in look.running
    ]
    return sorted(rows, key=lambda row: order(row, "cost_nano"))


def dearest(look: Look) -> list[Row]:
    """One row a request that ended in the period, the dearest first."""
    return [
        {
            **{name: getattr(one, name) for name in _OF_REQUEST},
            "kind": REQUESTS,
            "uj_per_output_token": _ratio(one.energy_uj, one.output_tokens) if not one.energy_unknown_ns else None,
            "age_ns": max(0, look.period.until_ns - one.ended_ns),
        }
        for one in look.dearest
    ]


def per_token_uj(served: Iterable[Served]) -> int | None:
    """Energy of an output token, uJ; None where none is known."""
    served = list(served)
    return _ratio(sum(row.metered_uj for row in served), sum(row.metered_tokens for row in served))


def order(row: Row, key: str) -> tuple[int, int, str]:
    """Sorts numbers from the largest down, with what is unknown last, and text from A to Z."""
    value = row[key]
    if isinstance(value, int):
        return (0, -value, "")
    return (1, 0, value.casefold() if isinstance(value, str) else "")


def arranged(rows: Iterable[Row], key: str, *, backwards: bool, words: str) -> list[Row]:
    """Rows whose names have *words* in them, sorted by *key*; what is nobody's stays below what is somebody's."""
    wanted = words.casefold()
    found = [row for row in rows if any(wanted in str(row[name]).casefold() for name in _NAMES if name in row)]
    known = [row for row in found if row[key] is not None]
    known.sort(key=lambda row: order(row, key), reverse=backwards)
    return sorted([*known, *(row for row in found if row[key] is None)], key=lambda row: row["kind"] != REQUESTS)


_NAMES = ("name", "tenant", "model", "engine_id", "device", "request_id", "record_id")
_NOBODY = Served((), 0, 0, 0, 0)
_OF_REQUEST = (
    *("record_id", "request_id", "tenant", "model", "engine_id", "ended_ns", "gpu_ns", "prefill_ns", "decode_ns"),
    *("wasted_ns", "energy_uj", "input_tokens", "output_tokens", "batch_milli", "cost_nano", "currency", "simulated"),
)


def _group_row(look: Look, line: Line, name: str, served: Served, idle_ppm: int | None) -> Row:
    row: dict[str, Value] = {
        "name": name,
        "kind": line.kind,
        "currency": line.currency,
        "span_ns": look.span_ns,
        "requests": line.requests,
        "input_tokens": line.input_tokens,
        "output_tokens": line.output_tokens,
        "gpu_ns": line.gpu_ns,
        "wasted_ns": line.wasted_ns,
        "energy_uj": line.energy_uj,
        "cost_nano": line.cost_nano,
        "cost_unknown_gpu_ns": line.cost_unknown_ns,
        "uj_per_output_token": per_token_uj([served]),
        "batch_milli": _ratio(served.batch_milli_steps, served.steps),
        "idle_ppm": idle_ppm,
    }
    return row


def _device_row(look: Look, device: Device) -> Row:
    whole = device.request_ns + device.idle_ns + device.overhead_ns + device.unobserved_ns
    metered_ns = whole - device.energy_unknown_ns
    row: dict[str, Value] = {**device._asdict(), "kind": REQUESTS, "span_ns": look.span_ns, "device_ns": whole}
    row["gap_ns"] = row.pop("energy_unknown_ns")  # its column's name from the first
    for kind in ("request", "idle", "overhead", "unobserved"):
        row[f"{kind}_ppm"] = _ratio(int(getattr(device, f"{kind}_ns")) * PPM, whole)
    # uJ / ns = kW: a million times as many mW.
    row["power_mw"] = _ratio(device.energy_uj * 1_000_000, metered_ns) if device.energy_uj is not None else None
    return row


def _idle_ppm(used: Iterable[Used], place: int) -> dict[str, int | None]:
    """Idle time as a part of all time, by name; only of names that time without requests is booked on at all."""
    whole: dict[str, int] = {}
    idle: dict[str, int] = {}
    for row in used:
        name = row.keys[place]
        whole[name] = whole.get(name, 0) + row.gpu_ns
        if row.kind != REQUESTS:
            idle[name] = idle.get(name, 0) + (row.gpu_ns if row.kind == "idle" else 0)
    return {name: _ratio(ns * PPM, whole[name]) for name, ns in idle.items()}


def _served(served: Iterable[Served], place: int) -> dict[str, Served]:
    found: dict[str, Served] = {}
    for row in served:
        name = row.keys[place]
        so_far = found.get(name, _NOBODY)
        found[name] = Served((name,), *(one + other for one, other in zip(so_far[1:], row[1:], strict=True)))
    return found


def _ratio(part: int | None, whole: int) -> int | None:
    """Rounded to a whole number; None of nothing."""
    return None if part is None or whole <= 0 else (2 * part + whole) // (2 * whole)
