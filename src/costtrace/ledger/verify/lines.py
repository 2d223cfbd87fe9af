"""Rows as the trial balance reads them, and what it reports."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from costtrace.core.wall_time import show_time

Left = TypeVar("Left")
Right = TypeVar("Right")


class Discrepancy(NamedTuple):
    """One row that does not add up. `expected` and `found` are for people: the units are those of `field`."""

    check: str
    row: str
    """Which row, so that it can be looked up."""
    field: str
    expected: str
    found: str
    meaning: str


class EngineLine(NamedTuple):
    """An engine, and whether the agent has read its journal to the end."""

    engine_id: str
    clock: str
    """Host and boot: monotonic times are compared within it only."""
    devices: tuple[str, ...]
    started_ns: int
    ended_ns: int
    """0 while it runs."""
    simulated: bool
    done: bool | None
    """Whether its journal was read to its end. None: the agent has no position in it."""


class RateLine(NamedTuple):
    """An exact rate: the running sum of nano-units is (the sum of the quantities) * numerator // denominator."""

    rate_id: str
    price_book: str
    currency: str
    device: tuple[int, int]
    """Numerator and denominator, per device-nanosecond; of `energy`, per microjoule."""
    energy: tuple[int, int] | None
    """None where no tariff applies."""
    includes_energy: bool


class MeterLine(NamedTuple):
    """What one device gave one engine in one window."""

    engine_id: str
    device: str
    start_ns: int
    end_ns: int
    window_ns: int
    request_ns: int
    idle_ns: int
    overhead_ns: int
    unobserved_ns: int
    shared: int
    energy_uj: int | None
    energy_unknown_ns: int
    energy_source: str

    @property
    def name(self) -> str:
        """How a discrepancy names it."""
        where = f"start {self.start_ns}, window {window(self.window_ns)}"
        return f"meter row of {self.device}, engine {self.engine_id}, {where}"

    @property
    def metered_ns(self) -> int:
        """The sum of all four kinds."""
        return self.request_ns + self.idle_ns + self.overhead_ns + self.unobserved_ns


class WindowSums(NamedTuple):
    """One engine in one window, summed over its meter rows or over its postings."""

    engine_id: str
    window_ns: int
    request_ns: int
    idle_ns: int
    overhead_ns: int
    unobserved_ns: int
    energy_uj: int
    """The sum of what is known."""
    energy_unknown_ns: int
    """Device time whose energy is not known."""


class PostingLine(NamedTuple):
    """A posting, as the ledger has it."""

    posting_id: int
    window_ns: int
    engine_id: str
    kind: str
    record_id: str
    gpu_ns: int
    prefill_ns: int
    decode_ns: int
    wasted_ns: int
    energy_uj: int | None
    prefill_uj: int | None
    decode_uj: int | None
    wasted_uj: int | None
    energy_unknown_ns: int
    method: str
    rate_id: str
    device_nano: int | None
    energy_nano: int | None

    @property
    def name(self) -> str:
        """How a discrepancy names it."""
        whose = f", record {self.record_id}" if self.record_id else ""
        return (
            f"posting {self.posting_id} ({self.kind}, engine {self.engine_id}, window {window(self.window_ns)}{whose})"
        )


class RollupLine(NamedTuple):
    """The sum of an hour of postings; it has replaced them since their period was compacted."""

    rollup_id: int
    window_ns: int
    engine_id: str
    kind: str
    gpu_ns: int
    energy_uj: int | None
    rate_id: str
    device_nano: int | None
    energy_nano: int | None
    postings: int
    last_posting: int
    """Number of the last posting in it."""

    @property
    def name(self) -> str:
        """How a discrepancy names it."""
        return f"rollup {self.rollup_id} ({self.kind}, engine {self.engine_id}, hour {window(self.window_ns)})"


class RecordPosting(NamedTuple):
    """A request's posting, or the sum of all postings of one record: what its usage record must hold."""

    record_id: str
    engine_id: str
    tenant: str
    model: str
    gpu_ns: int
    prefill_ns: int
    decode_ns: int
    wasted_ns: int
    energy_unknown_ns: int
    energy_uj: int | None
    prefill_uj: int | None
    decode_uj: int | None
    cost_nano: int | None
    """Device and energy; None where either is unknown."""
    rate_id: str
    rows: int = 1
    differing: tuple[str, ...] = ()
    """Fields in which its postings differ; this row has their last posting's."""


class UsageLine(NamedTuple):
    """A usage record, as the ledger has it. Its first fields are those of `RecordPosting`: they compare as tuples."""

    record_id: str
    engine_id: str
    tenant: str
    model: str
    gpu_ns: int
    prefill_ns: int
    decode_ns: int
    wasted_ns: int
    energy_unknown_ns: int
    energy_uj: int | None
    prefill_uj: int | None
    decode_uj: int | None
    cost_nano: int | None
    prefill_nano: int | None
    decode_nano: int | None
    currency: str
    price_book: str
    simulated: int
    energy_source: str


class DeviceLine(NamedTuple):
    """What one device gave one engine, over the whole ledger."""

    device: str
    engine_id: str
    wall_ns: int
    """Time that the engine had the device, alone or with others."""
    request_ns: int
    idle_ns: int
    overhead_ns: int
    unobserved_ns: int
    energy_uj: int | None
    energy_unknown_ns: int

    @property
    def metered_ns(self) -> int:
        """The sum of all four kinds."""
        return self.request_ns + self.idle_ns + self.overhead_ns + self.unobserved_ns


class EngineTotals(NamedTuple):
    """One engine: meter against postings."""

    engine_id: str
    meter_ns: int
    posted_ns: int
    meter_uj: int | None
    posted_uj: int | None
    simulated: bool


class Counts(NamedTuple):
    """How much was checked."""

    engines: int
    postings: int
    meter_rows: int
    usage_records: int


ROUNDING_NS = 2
"""Rounding can leave so many ns of a row outside the part whose energy is unknown, though none of it is known."""


def energy_must_be_known(gpu_ns: int, energy_uj: int | None, energy_unknown_ns: int) -> bool:
    """Whether a row must have an energy: some was measured, or some of its time is not in its unknown part."""
    return (energy_uj or 0) > 0 or gpu_ns - energy_unknown_ns > ROUNDING_NS


def window(window_ns: int) -> str:
    """A window's name."""
    return f"{window_ns} ({show_time(window_ns)})"


def shown(value: object) -> str:
    """A value as a discrepancy shows it. None is not 0."""
    return "unknown (NULL)" if value is None else str(value)


def paired(
    left: Iterable[Left],
    right: Iterable[Right],
    left_key: Callable[[Left], Any],
    right_key: Callable[[Right], Any],
) -> Iterator[tuple[Left | None, Right | None]]:
    """Join two streams, each sorted by a unique key, as an outer join: None where a row has no partner."""
    lefts, rights = iter(left), iter(right)
    one, other = next(lefts, None), next(rights, None)
    while one is not None or other is not None:
        if other is None or (one is not None and left_key(one) < right_key(other)):
            yield one, None
            one = next(lefts, None)
        elif one is None or right_key(other) < left_key(one):
            yield None, other
            other = next(rights, None)
        else:
            yield one, other
            one, other = next(lefts, None), next(rights, None)
