"""The views of the live figures: which columns each has, how wide they are, how figures are written. Pure.

Made for a terminal of 80 columns: every field but the first has a fixed width, and the first takes the rest. The pages
of `costtrace ui` show the same views as tables.
"""

from collections.abc import Callable, Sequence
from datetime import tzinfo
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.units import (
    NS_PER_HOUR,
    NS_PER_S,
    UJ_PER_J,
    amount,
    minor_digits,
    seconds,
    show_amount,
    show_seconds,
)
from costtrace.core.wall_time import moment
from costtrace.ledger.answers import Period
from costtrace.reports.output.row_tables import Column, Table, row_table
from costtrace.reports.output.tables import Row
from costtrace_ui.live import figures as live
from costtrace_ui.live.figures import Snapshot

UNKNOWN = "?"


class Field(NamedTuple):
    """One column, and the key that rows are sorted by when it is chosen."""

    heading: str
    key: str
    """The key of the exact value in a row."""
    width: int
    """In characters; 0: the rest of the line."""
    show: Callable[[Row], str]
    right: bool = True
    from_width: int = 0
    """The narrowest terminal that shows it, in characters."""


class View(NamedTuple):
    """One table of the live figures."""

    name: str
    title: str
    rows: Callable[[Snapshot], list[Row]]
    fields: tuple[Field, ...]
    filters: str = ""
    """The field of requests that a row's name is a value of; '' where a row is not a group of requests."""

    @property
    def identity(self) -> str:
        """The key that identifies a row, beside its currency."""
        return self.fields[0].key


def show_rate(nano: int | None, span_ns: int, currency: str) -> str:
    """Money per second, to four significant digits and at most nine decimals; ``?`` where it is unknown."""
    if nano is None or not span_ns:
        return UNKNOWN
    value = amount(nano) * NS_PER_S / Decimal(span_ns)
    places = min(9, max(2, 3 - value.adjusted())) if value else 2
    return f"{value:.{places}f} {currency}"


def show_count(value: Decimal | float) -> str:
    """A figure in about four characters: ``0.123``, ``12.3``, ``1,234``, ``45.6k``, ``7.8M``."""
    size = abs(float(value))
    divisor, letter = (1.0, "") if size < 1e5 else (1e3, "k") if size < 1e6 else (1e6, "M")
    scaled = float(value) / divisor
    places = 3 if size < 1 else 1 if abs(scaled) < 100 else 0
    return f"{scaled:,.{places}f}{letter}" if value else "0"


def show_part(ppm: int | None) -> str:
    """Parts per million as a percentage; '' for None."""
    return "" if ppm is None else f"{ppm / 10_000:.1f}%"


def _int(row: Row, key: str) -> int | None:
    value = row[key]
    return value if isinstance(value, int) else None


def _known(key: str, show: Callable[[int], str], otherwise: str = "") -> Callable[[Row], str]:
    def shown(row: Row) -> str:
        value = _int(row, key)
        return otherwise if value is None else show(value)

    return shown


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


def _cost_rate(row: Row) -> str:
    shown = show_rate(_int(row, "cost_nano"), _int(row, "span_ns") or 0, str(row["currency"]))
    # Where a part has no price, the known part is only a lower bound.
    return f">{shown}" if row["cost_unknown_gpu_ns"] and shown != UNKNOWN else shown


def _token_rate(row: Row) -> str:
    tokens, span_ns = _int(row, "output_tokens") or 0, _int(row, "span_ns") or 0
    return show_count(tokens * NS_PER_S / span_ns) if span_ns and row["kind"] == "request" else ""


def _joules(row: Row) -> str:
    value = _int(row, "uj_per_output_token")
    return show_count(value / UJ_PER_J) if value is not None else UNKNOWN if row["kind"] == "request" else ""


def _cost(row: Row) -> str:
    cost = _int(row, "cost_nano")
    return UNKNOWN if cost is None else show_amount(cost, str(row["currency"]))


def _group(name: str) -> tuple[Field, ...]:
    return (
        Field(name, "name", 0, _text("name"), right=False),
        Field("cost/s", "cost_nano", 16, _cost_rate),
        Field("out tok/s", "output_tokens", 9, _token_rate),
        Field("J/tok", "uj_per_output_token", 6, _joules),
        Field("batch", "batch_milli", 5, _known("batch_milli", lambda milli: show_count(milli / 1_000))),
        Field("idle", "idle_ppm", 6, _known("idle_ppm", show_part)),
        Field("GPU time", "gpu_ns", 9, _known("gpu_ns", show_seconds), from_width=92),
        Field("wasted", "wasted_ns", 9, _known("wasted_ns", lambda ns: show_seconds(ns) if ns else ""), from_width=104),
        Field("requests", "requests", 8, _known("requests", lambda n: f"{n:,}" if n else ""), from_width=116),
    )


def _of_requests(identity: str, *others: Field) -> tuple[Field, ...]:
    return (
        Field("request", identity, 0, _text(identity), right=False),
        Field("tenant", "tenant", 12, _text("tenant"), right=False),
        Field("model", "model", 18, _text("model"), right=False, from_width=100),
        Field("cost", "cost_nano", 15, _cost),
        Field("GPU time", "gpu_ns", 9, _known("gpu_ns", show_seconds)),
        *others,
        Field("age", "age_ns", 8, _known("age_ns", show_seconds)),
    )


VIEWS = (
    View("tenants", "Tenants", lambda snapshot: live.groups(snapshot, "tenant"), _group("tenant"), "tenant"),
    View("models", "Models", lambda snapshot: live.groups(snapshot, "model"), _group("model"), "model"),
    View("engines", "Engines", lambda snapshot: live.groups(snapshot, "engine"), _group("engine"), "engine_id"),
    View(
        "devices",
        "Devices",
        live.devices,
        (
            Field("device", "device", 0, _text("device"), right=False),
            Field("name", "name", 16, _text("name"), right=False),
            Field("busy", "request_ppm", 6, _known("request_ppm", show_part)),
            Field("idle", "idle_ppm", 6, _known("idle_ppm", show_part)),
            Field("over", "overhead_ppm", 6, _known("overhead_ppm", show_part)),
            Field("lost", "unobserved_ppm", 6, _known("unobserved_ppm", show_part)),
            Field("W", "power_mw", 6, _known("power_mw", lambda mw: show_count(mw / 1_000), UNKNOWN)),
            Field("engines", "engines", 7, _known("engines", str), from_width=92),
        ),
    ),
    View(
        "running",
        "Running requests, up to the last closed window",
        live.running,
        _of_requests("record_id", Field("decode", "decode_ns", 9, _known("decode_ns", show_seconds), from_width=92)),
    ),
    View(
        "ended",
        "Requests that ended, the most expensive",
        live.costliest,
        _of_requests(
            "request_id",
            Field("out tok", "output_tokens", 7, _known("output_tokens", lambda n: f"{n:,}"), from_width=92),
            Field("J/tok", "uj_per_output_token", 6, _joules, from_width=110),
        ),
    ),
)

VIEW = {view.name: view for view in VIEWS}
"""The views by name."""


def as_table(view: View, snapshot: Snapshot) -> Table:
    """A view with all its columns and exact rows, as `--once` prints it."""
    columns: list[Column] = [Column(field.heading, field.show, field.right) for field in view.fields]
    return row_table(view.name, view.title, columns, view.rows(snapshot))


def headlines(snapshot: Snapshot, now_ns: int, zone: tzinfo) -> list[str]:
    """Three lines: the period and how its time was used, its cost, and the devices' rates."""
    if not snapshot.span_ns:
        return ["no window has closed yet: the first closes a minute after the agent's start, by default", "", ""]
    until_ns = snapshot.period.until_ns
    end_time = f"{moment(until_ns, zone):%H:%M:%S %Z}"
    age = f"{show_span(max(0, now_ns - until_ns))} ago"
    lines = live.totals(snapshot)
    rate = " + ".join(_per_hour(line.cost_nano, snapshot.period, line.currency) for line in lines if line.currency)
    device_ns = sum(line.gpu_ns for line in lines)
    unpriced_ns = sum(line.cost_unknown_ns for line in lines)
    use = " ".join(f"{name} {_part_of(snapshot, kind, device_ns)}" for kind, name in _KINDS)
    priced = f", {100 * unpriced_ns / device_ns:.1f}% of the time unpriced" if unpriced_ns and device_ns else ""
    return [
        f"{show_span(snapshot.span_ns)} to {end_time}, {age}  {use}",
        f"{rate or 'cost unknown'}{priced}",
        _rates(snapshot),
    ]


_KINDS = (("request", "busy"), ("idle", "idle"), ("overhead", "over"), ("unobserved", "lost"))


def _part_of(snapshot: Snapshot, kind: str, all_ns: int) -> str:
    part = sum(row.gpu_ns for row in snapshot.used if row.kind == kind)
    return f"{100 * part / all_ns:.1f}%" if all_ns else UNKNOWN


def _per_hour(nano: int | None, period: Period, currency: str) -> str:
    span_ns = period.until_ns - period.since_ns
    if nano is None:
        return f"{UNKNOWN} {currency}"
    hourly = amount(nano) * NS_PER_HOUR / Decimal(span_ns)
    return f"{show_rate(nano, span_ns, currency)}/s ({hourly:,.{minor_digits(currency)}f}/h)"


def _rates(snapshot: Snapshot) -> str:
    tokens = [sum(getattr(row, name) for row in snapshot.ended) for name in ("output_tokens", "input_tokens")]
    output_rate, input_rate = (show_count(count * NS_PER_S / snapshot.span_ns) for count in tokens)
    energy = live.per_token_uj(snapshot.ratio_sums)
    joules = "energy unknown" if energy is None else f"{show_count(energy / UJ_PER_J)} J/tok"
    powers = [_int(row, "power_mw") for row in live.devices(snapshot)]
    known = [power for power in powers if power is not None]
    watts = f", {show_count(sum(known) / 1_000)} W" if known and len(known) == len(powers) else ""
    simulated = "  SIMULATED" if any(device.simulated for device in snapshot.devices) else ""
    count = len(snapshot.devices)
    return (
        f"{count} device{'s'[: count != 1]}, {output_rate} out tok/s, {input_rate} in tok/s, {joules}{watts}{simulated}"
    )


def show_span(ns: int) -> str:
    """A whole number of seconds, minutes or hours: ``12 s``, ``5 min``, ``3 h``."""
    whole_s = seconds(ns)
    return (
        f"{whole_s:.0f} s"
        if whole_s < 120
        else f"{whole_s / 60:.0f} min"
        if whole_s < 7200
        else f"{whole_s / 3600:.0f} h"
    )


def widths(fields: Sequence[Field], terminal: int) -> list[tuple[Field, int]]:
    """The fields that a terminal *terminal* characters wide shows, with their widths.

    A mark of two characters is before them, and two spaces between them.
    """
    shown = [field for field in fields if field.from_width <= terminal]
    rest = terminal - 2 - sum(field.width for field in shown) - 2 * (len(shown) - 1)
    return [(field, field.width or max(8, rest)) for field in shown]
