"""What a store answers: plain rows of exact integers, whichever store it is. Reports and checks know nothing else."""

from typing import NamedTuple

from costtrace.core.rows import FitRow


class Period(NamedTuple):
    """A stretch of wall time, ns since the epoch: `since_ns` is in it, `until_ns` is not."""

    since_ns: int
    until_ns: int


class Used(NamedTuple):
    """Postings of a period, summed. A `None` in a sum is made of unknowns only. Unknown costs are rows of their own."""

    keys: tuple[str, ...]
    """Values of the dimensions that were asked for, in their order; time as wall ns of a quarter of an hour."""
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
    """Postings of engines whose devices are simulated, or their sensors."""


class Ended(NamedTuple):
    """Usage records that ended in a period, summed: the tokens."""

    keys: tuple[str, ...]
    currency: str
    requests: int
    """Requests, not parts: only the first attempt's first part counts. Ids are no help: clients may use one twice."""
    parts: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    computed_tokens: int
    preemptions: int


class Request(NamedTuple):
    """A usage record as reports show it. Times are wall ns; 0 where it never got that far."""

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
    """1: its device or its sensor is a simulated one."""
    head_ns: int | None = None
    """Part of `gpu_ns` that is head fees; None: from before it was counted."""
    prefix_ns: int | None = None
    """In `gpu_ns`, what came to it by sharing prompts' beginnings (policy `tree`); negative: what others took off."""
    rerated: int = 0
    """The re-rating that its cost is of; 0: the cost is the one that it was first given, as spans have it."""
    first_cost_nano: int | None = None
    first_currency: str = ""
    first_price_book: str = ""


class Habit(NamedTuple):
    """What of a request is compared with its peers (same tenant and model)."""

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
    """What an engine's step model has learned, and whose it is."""

    model: str
    device_name: str
    devices: int
    simulated: bool
    started_wall_ns: int
    row: FitRow
