"""The rows of the ledger: what attribution yields and rating adds. Plain values, stored as they are.

A *posting* is one line of the bill: nanoseconds and microjoules of one engine in one window, for one request, or idle,
overhead or unobserved. Every metered nanosecond is on exactly one posting.
A *meter row* is what one device gave one engine in one window, by kind: what the postings have to add up to.
A *usage record* describes one part (one engine's share of a request), once it has closed.
"""

from typing import Literal, NamedTuple

import msgspec

Kind = Literal["request", "idle", "overhead", "unobserved"]
KINDS: tuple[Kind, ...] = ("request", "idle", "overhead", "unobserved")

JOINED = "dynamo:"
"""Request keys that begin so are unique everywhere and join parts; others name a request on one engine only."""
DISAGGREGATED = "disagg-"
"""Request keys that both halves of a request of disaggregated TensorRT-LLM servers have."""


def local_key(text: str) -> str:
    """The request key of an engine whose front end sent none: *text*, a client's id, and never a key as above."""
    return f"~{text}" if text.startswith((JOINED, DISAGGREGATED, "~")) else text


METHODS = ("roofline", "affine", "tokens", "equal")
"""The fallback ladder of step attribution, best first; `docs/method/rules.md` section 3."""


class Posting(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the bill. Times in device-nanoseconds (devices x wall), energy in microjoules."""

    window_ns: int
    """Wall time at which the window begins (ns since the epoch)."""
    engine_id: str
    kind: Kind
    reason: str = ""
    """Of overhead and unobserved: ``startup``, ``interrupted``, ``dummy batch``, ``recorder full``, ..."""
    record_id: str = ""
    tenant: str = ""
    model: str = ""
    gpu_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    wasted_ns: int = 0
    """What served nobody in the end: recomputed, after the end, aborted.

    An abort also makes what was posted in earlier windows wasted, all of it on the newest posting: this can exceed the
    posting's `gpu_ns`, but never does so over all postings of a record.
    """
    energy_uj: int | None = None
    """None: not measured. The same split as `gpu_ns` applies."""
    energy_unknown_ns: int = msgspec.field(default=0, name="gap_ns")
    """Of `gpu_ns`, the time whose energy is not known and so not in `energy_uj`."""
    prefill_uj: int | None = None
    decode_uj: int | None = None
    wasted_uj: int | None = None
    method: str = ""


class EnergyProvenance(msgspec.Struct, frozen=True, kw_only=True):
    """How one device's energy was read in one window."""

    source: str
    scope: str
    gain: str
    """The declared correction that was applied: a decimal number."""
    share: str
    """The part of its board's energy that a MIG instance is given by rule (``2/7``): an estimate. '': measured."""
    host: str
    """The node whose agent read it, if that is another one: its readings were placed by wall time."""
    clock_ns: int
    """The declared uncertainty of that placement; 0 for readings of this node."""
    simulated: bool


class PendingRow(msgspec.Struct, frozen=True):
    """Time of an engine on a device of another node that waits for its energy. It is on no other row yet."""

    window_ns: int
    engine_id: str
    device: str
    host: str
    device_ns: int


class MeterRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one device gave one engine in one window. The four kinds add up to the engine's share of the device."""

    window_ns: int
    engine_id: str
    device: str
    start_ns: int
    end_ns: int
    """Monotonic times of the window on this engine: a window is cut short where the engine begins or ends."""
    request_ns: int
    idle_ns: int
    overhead_ns: int
    unobserved_ns: int
    shared: bool = False
    """Other engines used the device too: the four kinds are a share of the wall time."""
    energy_uj: int | None = None
    """By the device's counter; None: not measured."""
    energy_unknown_ns: int = msgspec.field(default=0, name="gap_ns")
    """Device time whose energy is not in `energy_uj`."""
    energy_source: str = "none"
    energy_scope: str = ""
    sensor: EnergyProvenance | None = None
    """How this device's energy was read in the window; None: it was not."""


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a request: who, what, when, how much and why. Its postings carry this `record_id`."""

    record_id: str
    request_key: str
    request_id: str
    """The id that the client saw."""
    engine_id: str
    part: int = 1
    attempt: int = 1
    role: str = "aggregated"
    tenant: str
    tenant_source: str
    user: str = ""
    labels: dict[str, str] = {}
    model: str
    operation: str
    traceparent: str = ""
    arrived_ns: int
    scheduled_ns: int
    """Start of its first step (0: it never ran)."""
    decode_ns_at: int
    """End of its first decode step, or of its prefill (0: never)."""
    ended_ns: int
    """All times of a usage record are wall time, ns since the epoch."""
    gpu_ns: int
    prefill_ns: int
    decode_ns: int
    wasted_ns: int
    energy_uj: int | None = None
    prefill_uj: int | None = None
    decode_uj: int | None = None
    energy_unknown_ns: int = msgspec.field(default=0, name="gap_ns")
    """Of `gpu_ns`, the time whose energy is not in `energy_uj`."""
    energy_source: str = "none"
    input_tokens: int
    """Prompt tokens as the client sees them: each distinct prompt once."""
    cached_tokens: int
    output_tokens: int
    computed_tokens: int
    """Tokens that were computed for it, recomputation and rejected drafts included."""
    sequences: int
    steps: int
    """Engine steps it took part in, summed over its sequences."""
    batch_milli: int
    """Mean number of sequences in those steps, times 1,000."""
    preemptions: int = 0
    finish_reasons: tuple[str, ...] = ()
    method: str
    finality: Literal["provisional", "final"] = "final"
    simulated: bool = False
    head_ns: int = 0
    """Of `gpu_ns`, the head fees: its share of what each step costs once, however many sequences are in it."""
    prefix_ns: int = 0
    """Of `gpu_ns`, what sharing the beginnings of prompts added (policy `tree`). Negative: others took it over. The sum
    over all records is 0, but for rounding."""
    counted_input: int | None = None
    """Of its tokens, what counts in sums: the rest is counted with another part of its request. None: all."""
    counted_cached: int | None = None
    counted_output: int | None = None

    def is_beside(self) -> bool:
        """Whether it worked on other sequences of the same prompt as another part, at the same time."""
        return self.part > 1 and self.role != "prefill" and "/" not in self.request_key

    def counts(self) -> "Counts":
        """What of it counts in sums over parts."""
        pairs = (
            (self.counted_input, self.input_tokens),
            (self.counted_cached, self.cached_tokens),
            (self.counted_output, self.output_tokens),
        )
        requests = int(self.part == 1 and self.attempt == 1)
        return Counts(requests, *(fact if counted is None else counted for counted, fact in pairs))


class Counts(NamedTuple):
    """Requests (0 or 1) and tokens."""

    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int


class FitRow(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine's step model has learned so far. Coefficients in attoseconds, shares in parts of a million."""

    engine_id: str
    method: str
    """The method that shared its newest step."""
    device: str
    """The device whose published figures gave the prior."""
    device_known: bool
    """False: the figures are another device's."""
    shape_known: bool
    """False: nothing was known of the model's shape."""
    fitted: bool
    """Whether the fit is believed: it has looked at 64 of the engine's steps or more."""
    knee_tokens: int
    launch_as: int
    token_as: int
    weights_as: int
    context_as: int
    attention_as: int
    sequence_as: int
    encoder_as: int
    expert_ppm: int
    """The experts' part of the weights."""
    roofline_error_ppm: int | None
    """Mean relative error of this method's predictions over the last thousand steps looked at; None: none was."""
    affine_error_ppm: int | None
    tokens_error_ppm: int | None
    equal_error_ppm: int | None
    coverage_ppm: int | None
    """The part of all step time that a fitted model shared; None: there was no step."""
    observations: int
    outliers: int
    changes: int
    moves: int
    """How often the fallback ladder was moved on."""
    prompt_as: int = 0
    """What a step costs once if any prefill is in it."""
    decode_as: int = 0
    """What a step costs once if any decode is in it."""


class EngineRow(msgspec.Struct, frozen=True, kw_only=True):
    """An engine as the ledger knows it."""

    engine_id: str
    host: str
    boot_id: str = ""
    """Monotonic times are compared within one boot of one host only."""
    engine: str
    version: str
    model: str
    role: str
    dp_rank: int
    devices: tuple[str, ...]
    device_name: str
    device_kind: str
    settings: dict[str, str] = {}
    lost_hooks: tuple[str, ...] = ()
    simulated: bool = False
    started_wall_ns: int
    started_ns: int
    ended_ns: int = 0
    end_reason: str = ""


class Rows(NamedTuple):
    """Rows, in the order in which they go into the ledger."""

    postings: list[Posting]
    meter: list[MeterRow]
    records: list[UsageRecord]


class Means(msgspec.Struct, frozen=True, array_like=True):
    """Sums over the requests of one model (and tenant): a mean per token is a quotient of two of them, exact."""

    model: str
    tenant: str
    """'': of all tenants."""
    currency: str
    requests: int
    since_s: int
    """When the first of them ended, epoch seconds."""
    until_s: int
    input_tokens: int
    cached_tokens: int
    """Of `input_tokens`, those read from the prefix cache. What reading them costs is in prefill and decode."""
    output_tokens: int
    prefill_nano: int
    decode_nano: int
    prefill_ns: int
    decode_ns: int
    prefill_uj: int | None
    """None: the energy of one of the requests is not known."""
    decode_uj: int | None
    simulated: bool
    """Whether one of the requests ran on a simulated device."""


ROUNDING_NS = 2
"""What rounding may leave between `gpu_ns` and an `energy_unknown_ns` that is all of it."""


def is_known(gpu_ns: int, energy_uj: int, energy_unknown_ns: int) -> bool:
    """Whether the energy of this device time is known, at least in part."""
    return energy_uj > 0 or energy_unknown_ns + ROUNDING_NS < gpu_ns


class UsageCost(NamedTuple):
    """The money of one usage record: the sum over its postings."""

    cost_nano: int | None = None
    prefill_nano: int | None = None
    decode_nano: int | None = None
    currency: str = ""
    price_book: str = ""


class Charge(NamedTuple):
    """The money of one posting, in nano-units. None: unknown."""

    rate_id: str = ""
    device_nano: int | None = None
    energy_nano: int | None = None

    @property
    def cost_nano(self) -> int | None:
        """Device and energy together; None where either is unknown."""
        if self.device_nano is None or self.energy_nano is None:
            return None
        return self.device_nano + self.energy_nano
