"""What is recorded: the vocabulary between an engine and the agent, and the schema of the journal.

Every event is a small msgspec struct, encoded as a msgpack array whose first element is its tag. Fields are
only ever appended, with a default, so that older journals stay readable; a change of meaning raises
`JOURNAL_SCHEMA`. Times named ``*_ns`` are readings of the host's CLOCK_MONOTONIC, which all processes of one boot
share; only `SegmentHeader` and `Heartbeat` carry wall time, and `clock.py` relates the two.

Nothing here can hold a prompt, an output or a key: identifiers, names, counts and times only.
"""

from typing import NamedTuple

import msgspec

JOURNAL_SCHEMA = 1
"""Schema of the journal's events. A reader refuses what is newer than itself and says so."""


ESTIMATED = "estimated:"
"""Ids of methods begin so where not only the shares of a step but the steps themselves are an estimate."""


class Event(msgspec.Struct, array_like=True, omit_defaults=True, gc=False, frozen=True):
    """Base of all journal events."""


class DeviceRef(Event, frozen=True):
    """One device of an engine, as the engine's own worker names it."""

    uuid: str
    """NVML UUID (``GPU-...``), MIG UUID (``MIG-...``), or ``CPU-<host>`` for the stand-in of a host without a GPU."""
    name: str
    """What the vendor calls it (``NVIDIA H100 80GB HBM3``): the price book matches on it."""
    kind: str
    """``gpu``, ``mig`` or ``cpu``. A ``cpu`` device stands in for a GPU: its time is real, its price is a stand-in."""
    host: str
    rank: int = 0


class ModelShape(Event, frozen=True):
    """What the step model's prior is made from (design.md 5.2). 0 means: not known."""

    weight_bytes: int = 0
    """Bytes of all weights on all devices of the engine."""
    active_params: int = 0
    """Parameters that take part in one token's forward pass (for a mixture of experts fewer than all)."""
    layers: int = 0
    kv_bytes_per_token: int = 0
    hidden_size: int = 0
    heads: int = 0
    head_size: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_bytes: int = 0
    """Of `weight_bytes`, those of the experts that a router chooses from. 0: none, or not known."""
    window: int = 0
    """Tokens that a layer with a sliding window sees at most. 0: there are none, or not known."""
    sliding_layers: int = 0
    """Of `layers`, those with a sliding window."""


SENSORS = "sensors"
"""The journal of an agent's sensors is named ``sensors-<host>-...``; no engine is called so."""


class SegmentHeader(Event, tag=1, frozen=True):
    """First record of every segment file."""

    schema: int
    engine_id: str
    segment: int
    """Number of this segment, from 1."""
    first_sequence: int
    """Sequence number of the record after this one; records are numbered through all segments of a journal."""
    host: str
    boot_id: str
    pid: int
    monotonic_ns: int
    wall_ns: int
    """Read together with `monotonic_ns`: the anchor that relates this journal's times to wall time."""
    writer: str = ""
    """Version of costtrace that wrote the journal."""


class EngineStarted(Event, tag=2, frozen=True):
    """An engine exists: its devices are its own from `started_ns` on, and until `EngineReady` it is starting up."""

    started_ns: int
    engine: str
    """``vllm``, ``tensorrt-llm``, ``dynamo`` or ``simulator``."""
    engine_version: str
    model: str
    """The name clients ask for."""
    devices: tuple[DeviceRef, ...]
    role: str = "aggregated"
    """``aggregated``, ``prefill`` or ``decode``."""
    dp_rank: int = 0
    shape: ModelShape = ModelShape()
    settings: dict[str, str] = {}
    """What a reader of a bill wants to know of the engine: parallel sizes, dtype, scheduler, features."""
    lost_hooks: tuple[str, ...] = ()
    """Hooks that did not fit this engine's version, and what is lost by it."""
    simulated: bool = False
    """True where time or energy come from an instrument of ours and not from a machine."""

    @property
    def estimate(self) -> str:
        """Id of the method where its steps were worked out after the fact; '' where they were measured."""
        metering = self.settings.get("metering", "")
        return metering if metering.startswith(ESTIMATED) else ""


class EngineReady(Event, tag=3, frozen=True):
    """The engine can serve: what follows is steps and idle time, no longer start-up."""

    at_ns: int


class SequenceAdded(Event, tag=4, frozen=True):
    """A sequence has reached the engine's queue."""

    slot: int
    """Short name of the sequence in this journal's steps; never used twice in one journal."""
    at_ns: int
    sequence_id: str
    """The engine's own id of the sequence."""
    request_id: str
    """The id that the client sees in its response."""
    request_key: str
    """What joins the sequences (n, several prompts) and parts of one request; equals `request_id` if nothing better."""
    prompt_key: str
    """Sequences with the same prompt key share one prompt: its tokens count once in the request's input tokens."""
    prompt_tokens: int
    model: str
    tenant: str
    tenant_source: str
    """Where the tenant is from: ``header``, ``default``, ``rejected:<why>``, ..."""
    operation: str = "chat"
    """gen_ai operation name: ``chat``, ``text_completion``, ``embeddings``."""
    arrived_ns: int = 0
    """When the request reached the server (monotonic; 0: not known)."""
    traceparent: str = ""
    user: str = ""
    labels: dict[str, str] = {}
    attempt: int = 1
    role: str = ""


class Step(Event, tag=5, frozen=True):
    """One engine iteration: who took part, as differences to the step before.

    The cohort is the set of sequences that decode one token a step with a context that grows by one: who stays in
    it is not repeated, so a steady step is a few bytes. Anybody else in the batch is an item: ``(slot, tokens,
    context)`` with the tokens computed in this step and the KV tokens that were there before it.
    """

    index: int
    """Number of the step by order of dispatch, from 0."""
    scheduled_ns: int
    """Dispatch: the batch was composed."""
    done_ns: int
    """Its results were with the scheduler."""
    leaves: tuple[int, ...] = ()
    """Slots that are in the cohort no longer, from this step on."""
    enters: tuple[tuple[int, int], ...] = ()
    """``(slot, context)`` of those who are in the cohort from this step on."""
    items: tuple[tuple[int, int, int], ...] = ()
    encoder: tuple[tuple[int, int], ...] = ()
    """``(slot, tokens)`` of encoder work (images, audio) done in this step."""


class SequenceFinished(Event, tag=6, frozen=True):
    """The engine is done with a sequence. Steps that were dispatched before may hold it: its record closes later."""

    slot: int
    at_ns: int
    last_step: int
    """Index of the newest step that was dispatched by then (-1: none): no later one can hold the sequence."""
    reason: str
    """``stop``, ``length``, ``abort``, ``error``, ..."""
    output_tokens: int
    cached_tokens: int = 0
    preemptions: int = 0


class Delivered(Event, tag=7, frozen=True):
    """What the front end gave the client, where that differs from what the engine knows (stop strings)."""

    slot: int
    at_ns: int
    reason: str
    output_tokens: int


class Overhead(Event, tag=8, frozen=True):
    """Device time of the engine that served nobody: dummy batches, weight updates, sleep."""

    from_ns: int
    to_ns: int
    reason: str


class Lost(Event, tag=9, frozen=True):
    """Steps or events that the recorder could not keep. Their time is `unobserved`: never a wrong bill."""

    at_ns: int
    steps: int
    events: int
    reason: str
    from_ns: int = 0
    """When the first lost step had been dispatched (0: not known; then since the last step that was kept)."""
    to_ns: int = 0


class Heartbeat(Event, tag=10, frozen=True):
    """The engine lives and everything before `at_ns` has been written."""

    at_ns: int
    wall_ns: int
    in_flight_since_ns: int = 0
    """Dispatch of the oldest step that is not done (0: none is in flight)."""
    done_index: int = -1
    """All steps up to this index are done and written (steps without anybody in them are not)."""


class EngineStopped(Event, tag=11, frozen=True):
    """The engine has said goodbye. Without it, it ended at its last heartbeat."""

    at_ns: int
    reason: str = "shutdown"


class Reading(Event, tag=12, frozen=True):
    """One reading of a device's sensor, made by the agent.

    With `energy_uj` it is a value of a count that only grows while readings `continue` each other: the difference of
    two such is the energy between them. Without, it says why there is none at that time (`fault`).
    """

    device: str
    at_ns: int
    """When the value held, by the driver's own timestamp where it gives one (monotonic)."""
    energy_uj: int | None
    """The count, with the declared gain in it. Where it begins means nothing. None: unknown at this time."""
    power_mw: int | None
    source: str
    """``nvml_counter``, ``power_integral``, ``rapl``, ``none``."""
    scope: str = "gpu"
    """``gpu``, ``module``, ``board_shared_by_mig``, ``package``."""
    fault: str = ""
    """Why a value is missing, or (``reset``, with a value) that the count begins anew: what was drawn since the
    reading before is unknown. docs/method.md section 15 says what each does to the rows."""
    gain: str = "1"
    """Declared correction of this sensor that is in `energy_uj` and `power_mw`: a decimal number."""
    share: str = ""
    """The part of its board's energy that a MIG instance is given by rule (``2/7``): an estimate. Empty: measured."""
    simulated: bool = False
    """The sensor is a simulated one."""
    period_ns: int = 0
    """How often the sensor renews its value, as found from its readings. 0: not found (yet)."""
    lag_ns: int = 0
    """How old the value was when it was read, where the driver tells. 0: it does not."""

    def continues(self, last: "Reading") -> bool:
        """Whether the difference of the two counts is the energy drawn between the two readings."""
        if self.energy_uj is None or last.energy_uj is None or self.fault:
            return False
        same = (self.source, self.scope, self.gain, self.share, self.simulated)
        return same == (last.source, last.scope, last.gain, last.share, last.simulated) and (
            self.energy_uj >= last.energy_uj
        )


class Steady(Event, tag=13, frozen=True):
    """A `Step` in which nobody joined or left the cohort and nobody else took part. Lives only inside a frame.

    It continues the step before it in the same frame: the index is one more, times are relative. `journal.frames`
    writes and expands it; nobody else meets one.
    """

    after_ns: int
    """Dispatch, counted from when the step before was done; negative where steps overlap."""
    took_ns: int
    """From dispatch to done."""


class Snapshot(Event, tag=14, frozen=True):
    """All that the steps so far left standing: the state from which a reader can go on after a damaged stretch."""

    sequence: int
    """The state holds after all records below this number, and before this one."""
    at_ns: int
    next_index: int
    open: tuple[SequenceAdded, ...]
    cohort: tuple[tuple[int, int], ...]
    """``(slot, context)`` of the cohort, the context as it will be in the next step."""


class DeviceSeen(Event, tag=15, frozen=True):
    """A device as its sensor knows it. Written into the sensors' journal when it is new or has changed."""

    uuid: str
    """The `device` of its readings."""
    at_ns: int
    """When it was written into the journal; 0 until then."""
    name: str
    kind: str
    """``gpu``, ``mig`` or ``cpu``."""
    scope: str
    """What its energy covers, as in `Reading.scope`."""
    source: str
    """How its energy is read, as in `Reading.source`."""
    index: int = -1
    """NVML's index of the device, or of the MIG instance on its board. -1: it has none."""
    parent: str = ""
    """Of a MIG instance: UUID of its board."""
    share: str = ""
    """Of a MIG instance: the part of the board's energy that it is given by rule (``2/7``)."""
    gain: str = "1"
    simulated: bool = False
    details: dict[str, str] = {}
    """For people and metrics: limits, clocks, throttle reasons, how power is read. A change of these alone is not
    written again."""


class PrefixPath(Event, tag=16, frozen=True):
    """Which blocks of a sequence's prompt the prefix cache had, and which it computes. Noted before its first step.

    Only where `prefix_sharing` is `tree`. Blocks go by numbers of this journal (`prefix_numbers`). Who reads them can
    tell that two prompts begin alike, and not how.
    """

    slot: int
    at_ns: int
    block_tokens: int
    found: tuple[tuple[int, int], ...] = ()
    """``(number, count)`` of the blocks that it found, in order; number 0: nobody is known who computed them."""
    own_first: int = 0
    own: int = 0
    """It computes the whole blocks behind those: this many, with consecutive numbers."""


AnyEvent = (
    SegmentHeader
    | EngineStarted
    | EngineReady
    | SequenceAdded
    | Step
    | SequenceFinished
    | Delivered
    | Overhead
    | Lost
    | Heartbeat
    | EngineStopped
    | Reading
    | Steady
    | Snapshot
    | DeviceSeen
    | PrefixPath
)
"""Every event a journal can hold."""


class Position(NamedTuple):
    """Where a reader stands. Kept in the ledger, in the transaction that holds what was made of all before it."""

    segment: int = 0
    offset: int = 0
    sequence: int = 0
    """Number of the next event."""
    damaged: bool = False
    """Records are missing before this position: nothing is believed until the next snapshot."""
