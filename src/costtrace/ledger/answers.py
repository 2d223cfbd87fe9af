"""What a query answers: plain rows of exact integers, from SQLite or ClickHouse alike. Reports need nothing else."""

from typing import NamedTuple

from costtrace.core.rows import FitRow


class Period(NamedTuple):
    """A stretch of wall time, ns since the epoch: `since_ns` is in it, `until_ns` is not."""

    since_ns: int
    until_ns: int


class Used(NamedTuple):
    """Postings of a period, summed. A sum is None where all its postings are unknown.

    Postings whose cost is unknown are summed in rows of their own.
    """

    keys: tuple[str, ...]
    """Values of the dimensions asked for, in their order. A time is the wall ns at which a quarter-hour begins."""
    kind: str
    reason: str
    currency: str
    """'' where no price applies."""
    gpu_ns: int
    prefill_ns: int
    decode_ns: int
    wasted_ns: int
    energy_unknown_ns: int
    """Part of `gpu_ns` whose energy is not in `energy_uj`."""
    energy_uj: int | None
    prefill_uj: int | None
    decode_uj: int | None
    wasted_uj: int | None
    device_nano: int | None
    energy_nano: int | None
    simulated: int = 0
    """How many of the postings are of engines with simulated devices or sensors."""


class Ended(NamedTuple):
    """Usage records that ended in a period, summed: the tokens."""

    keys: tuple[str, ...]
    currency: str
    requests: int
    """Requests, not parts. (Ids are not counted: clients may reuse one.)"""
    parts: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    computed_tokens: int
    preemptions: int


class Request(NamedTuple):
    """A usage record, or all of one request, as reports show it. Times are wall ns; 0: it never got that far."""

    record_id: str
    request_id: str
    request_key: str
    engine_id: str
    role: str
    tenant: str
    tenant_source: str
    model: str
    operation: str
    traceparent: str
    arrived_ns: int
    scheduled_ns: int
    decode_ns_at: int
    ended_ns: int
    gpu_ns: int
    prefill_ns: int
    decode_ns: int
    wasted_ns: int
    energy_unknown_ns: int
    energy_uj: int | None
    energy_source: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    computed_tokens: int
    sequences: int
    steps: int
    batch_milli: int
    preemptions: int
    finish_reasons: tuple[str, ...]
    method: str
    finality: str
    cost_nano: int | None
    prefill_nano: int | None
    decode_nano: int | None
    currency: str
    price_book: str
    simulated: int = 0
    """1: its device or its sensor is simulated."""
    head_ns: int | None = None
    """The part of `gpu_ns` that is head fees; None: recorded before they were counted."""
    prefix_ns: int | None = None
    """What sharing prompts' beginnings (policy `tree`) added to `gpu_ns`; negative: what others paid of it."""
    part: int = 1
    """1: it counts its request; another part does otherwise."""
    counted_input: int | None = None
    """Of its tokens, what counts in sums; None: all. Likewise the next two."""
    counted_cached: int | None = None
    counted_output: int | None = None
    rerated: int = 0
    """Number of the re-rating that made its cost; 0: the cost is its first one, as spans have it."""
    first_cost_nano: int | None = None
    first_currency: str = ""
    first_price_book: str = ""
    parts: int = 1
    """Parts on several engines, or one after the other, that are put together in it (`costtrace.ledger.wholes`)."""


class Habit(NamedTuple):
    """A request's figures that `explain` compares with the medians of its tenant and model."""

    tenant: str
    model: str
    gpu_ns: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    batch_milli: int
    queue_ns: int
    prefill_ns: int = 0
    decode_ns: int = 0
    wasted_ns: int = 0
    head_ns: int | None = None
    cost_nano: int | None = None


class Fit(NamedTuple):
    """What an engine's step model has learned, and the engine's model and devices."""

    model: str
    device_name: str
    devices: int
    simulated: bool
    started_wall_ns: int
    row: FitRow
