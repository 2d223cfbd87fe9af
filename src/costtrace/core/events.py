"""What is recorded: the events between an engine and the agent, and the schema of the journal.

Every event is a small msgspec struct, encoded as a msgpack array whose first element is its tag. Fields are only ever
appended, with a default, so that older journals stay readable; a change of meaning raises `JOURNAL_SCHEMA`. Times named
``*_ns`` are readings of the host's CLOCK_MONOTONIC, which all processes of one boot share; only `SegmentHeader` and
`Heartbeat` have wall time, and `core.clock` relates the two.

No field holds a prompt, an output or a key: identifiers, names, counts and times only.
"""

from typing import NamedTuple

import msgspec

JOURNAL_SCHEMA = 1
"""Schema of the journal's events. A reader refuses a newer one, with `SchemaTooNew`."""

ESTIMATED = "estimated:"
"""Start of a method's id where not only the shares of a step but the step itself is an estimate."""


class Event(msgspec.Struct, array_like=True, omit_defaults=True, gc=False, frozen=True):
    """Base of all journal events."""


class DeviceRef(Event, frozen=True):
    """One device of an engine, as the engine's own worker names it."""

    uuid: str
    """NVML UUID (``GPU-...``), MIG UUID (``MIG-...``), or ``CPU-<host>`` for the stand-in of a host without a GPU."""
    name: str
    """The vendor's name of it (``NVIDIA H100 80GB HBM3``), which the price book matches."""
    kind: str
    """``gpu``, ``mig`` or ``cpu``. A ``cpu`` device stands in for a GPU: its time is real, its price is a stand-in."""
    host: str
    rank: int = 0


class ModelShape(Event, frozen=True):
    """What the prior of the step model is made from. 0: not known."""

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
    """Most tokens that a layer with a sliding window sees. 0: no layer has one, or not known."""
    sliding_layers: int = 0
    """Of `layers`, those with a sliding window."""


SENSORS = "sensors"
"""The journal of an agent's sensors is named ``sensors-<host>-...``. No engine has this name."""


class SegmentHeader(Event, tag=1, frozen=True):
    """First record of every segment file."""

    schema: int
    engine_id: str
    segment: int
    """Number of this segment, from 1."""
    first_sequence: int
    """Number of the event after this one; events are numbered through all segments of a journal."""
    host: str
    boot_id: str
    pid: int
    monotonic_ns: int
    wall_ns: int
    """Read together with `monotonic_ns`: the anchor that relates this journal's times to wall time."""
    writer: str = ""
    """Version of costtrace that wrote the journal."""


class EngineStarted(Event, tag=2, frozen=True):
    """An engine exists. Its devices are its own from `started_ns` on, and until `EngineReady` it is starting up."""

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
    """Facts for who reads a bill: parallel sizes, dtype, scheduler, features."""
    lost_hooks: tuple[str, ...] = ()
    """Hooks that did not fit this version of the engine, and what is lost by it."""
    simulated: bool = False
    """True if time or energy come from a simulator of costtrace's and not from a machine."""

    @property
    def estimate(self) -> str:
        """Id of the method by which its steps were estimated; '': they were measured."""
        metering = self.settings.get("metering", "")
        return metering if metering.startswith(ESTIMATED) else ""


class EngineReady(Event, tag=3, frozen=True):
    """The engine can serve: what follows is steps and idle time, no longer start-up."""

    at_ns: int


COUNTED_REQUEST, COUNTED_PROMPT, HANDS_OVER = 1, 2, 4
"""Bits of `SequenceAdded.elsewhere`: its request is counted with another sequence; its prompt is, with one that came
before; another engine gives the answer and counts the request, unless this sequence ends by itself."""


class SequenceAdded(Event, tag=4, frozen=True):
    """A sequence has reached the engine's queue."""

    slot: int
    """Number of the sequence in this journal's steps; never used twice in one journal."""
    at_ns: int
    sequence_id: str
    """The engine's own id of the sequence."""
    request_id: str
    """The id that the client sees in its response."""
    request_key: str
    """Joins the sequences (n, several prompts) and parts of one request; `request_id` if there is nothing better."""
    prompt_key: str
    """Sequences with the same prompt key share one prompt: its tokens count once in the request's input tokens."""
    prompt_tokens: int
    model: str
    tenant: str
    tenant_source: str
    """How the tenant is known: ``header``, ``default``, ``rejected:<why>``, ..."""
    operation: str = "chat"
    """gen_ai operation name: ``chat``, ``text_completion``, ``embeddings``."""
    arrived_ns: int = 0
    """When the request reached the server (monotonic; 0: not known)."""
    traceparent: str = ""
    user: str = ""
    labels: dict[str, str] = {}
    attempt: int = 1
    role: str = ""
    elsewhere: int = 0
    """What of it is counted with another sequence of its request, maybe on another engine: bits as above."""


class Step(Event, tag=5, frozen=True):
    """One engine iteration: which sequences were in it, as differences to the step before.

    The cohort is the set of sequences that decode one token a step with a context that grows by one. A sequence that
    stays in it is not repeated, so a steady step is a few bytes. Any other sequence in the batch is an item:
    ``(slot, tokens, context)``, the tokens computed in this step and the KV tokens that were there before it.
    """

    index: int
    """Number of the step by order of dispatch, from 0."""
    scheduled_ns: int
    """Dispatch: the scheduler had composed the batch."""
    done_ns: int
    """The scheduler had its results."""
    leaves: tuple[int, ...] = ()
    """Slots that leave the cohort with this step."""
    enters: tuple[tuple[int, int], ...] = ()
    """``(slot, context)`` of those that are in the cohort from this step on."""
    items: tuple[tuple[int, int, int], ...] = ()
    encoder: tuple[tuple[int, int], ...] = ()
    """``(slot, tokens)`` of encoder work (images, audio) done in this step."""


class SequenceFinished(Event, tag=6, frozen=True):
    """The engine is done with a sequence. Steps dispatched before may still hold it: its record closes after them."""

    slot: int
    at_ns: int
    last_step: int
    """Index of the newest step dispatched by then (-1: none): no later step holds the sequence."""
    reason: str
    """``stop``, ``length``, ``abort``, ``error``, ..."""
    output_tokens: int
    cached_tokens: int = 0
    preemptions: int = 0


class Delivered(Event, tag=7, frozen=True):
    """What the client got, where the front end cut what the engine made (stop strings)."""

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
    """Steps or events that the recorder could not keep. Their time is `unobserved`, on no tenant's bill."""

    at_ns: int
    steps: int
    events: int
    reason: str
    from_ns: int = 0
    """When the loss was first noticed, or the lost step's dispatch. 0: not known."""
    to_ns: int = 0


class Heartbeat(Event, tag=10, frozen=True):
    """The engine lives and everything before `at_ns` has been written."""

    at_ns: int
    wall_ns: int
    in_flight_since_ns: int = 0
    """Dispatch of the oldest step that is not done (0: none is in flight)."""
    done_index: int = -1
    """All steps up to this index are done and written (but for empty steps, which are never written)."""


class EngineStopped(Event, tag=11, frozen=True):
    """The engine has ended in good order. Without this event it ended at its last heartbeat."""

    at_ns: int
    reason: str = "shutdown"


class Reading(Event, tag=12, frozen=True):
    """One reading of a device's sensor, made by the agent.

    `energy_uj` is a count that only grows while readings continue each other (`continues`): the difference of two is
    the energy between them. Without it, `fault` says why there is none at that time.
    """

    device: str
    at_ns: int
    """Time of the value (monotonic), by the driver's own timestamp where it gives one."""
    energy_uj: int | None
    """The count, multiplied by `gain`. Only differences mean something. None: unknown at this time."""
    power_mw: int | None
    source: str
    """``nvml_counter``, ``power_integral``, ``rapl``, ``none``."""
    scope: str = "gpu"
    """``gpu``, ``module``, ``board_shared_by_mig``, ``package``."""
    fault: str = ""
    """Why a value is missing, or (``reset``, with a value) that the count starts again: what was drawn since the
    reading before is unknown. docs/method/paper.md section 10.8 says what each does to the rows."""
    gain: str = "1"
    """The declared correction that `energy_uj` and `power_mw` were multiplied by: a decimal number."""
    share: str = ""
    """The part of its board's energy that a MIG instance is given by rule (``2/7``): an estimate. '': measured."""
    simulated: bool = False
    """The sensor is simulated."""
    period_ns: int = 0
    """The period at which the sensor renews its value, found from its readings. 0: not found (yet)."""
    lag_ns: int = 0
    """Age of the value when it was read, if the driver gives it. 0: it does not."""

    def continues(self, last: "Reading") -> bool:
        """Whether the difference of the two counts is the energy drawn between the two readings."""
        if self.energy_uj is None or last.energy_uj is None or self.fault:
            return False
        same = (self.source, self.scope, self.gain, self.share, self.simulated)
        return same == (last.source, last.scope, last.gain, last.share, last.simulated) and (
            self.energy_uj >= last.energy_uj
        )


class Steady(Event, tag=13, frozen=True):
    """A `Step` with an unchanged cohort and no items, as it is written inside a frame.

    It continues the step before it in the same frame: the index is one more, times are relative. Only
    `journal.frames` writes and expands it.
    """

    after_ns: int
    """Dispatch, counted from when the step before was done; negative where steps overlap."""
    took_ns: int
    """From dispatch to done."""


class Snapshot(Event, tag=14, frozen=True):
    """The state after the steps so far, from which a reader can go on after a damaged stretch."""

    sequence: int
    """The state is that after all events below this number, and before this one."""
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
    """For people and metrics: limits, clocks, throttle reasons, how power is read, and the numbers of a MIG instance,
    by which its meter is found. A change of these alone is not written again."""


class PrefixPath(Event, tag=16, frozen=True):
    """Which blocks of a sequence's prompt the prefix cache had, and which it computes. Written before its first step.

    Only if `prefix_sharing` is `tree`. Blocks have numbers of this journal (`capture.prefix_numbers`), which show that
    two prompts begin alike, and not how.
    """

    slot: int
    at_ns: int
    block_tokens: int
    found: tuple[tuple[int, int], ...] = ()
    """``(number, count)`` of the cached blocks, in order; number 0: who computed them is not known."""
    own_first: int = 0
    own: int = 0
    """How many whole blocks it computes after those, with consecutive numbers from `own_first`."""


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
    """A reader's position in a journal. Kept in the ledger, in one transaction with the rows from all before it."""

    segment: int = 0
    offset: int = 0
    sequence: int = 0
    """Number of the next event."""
    damaged: bool = False
    """Events are missing before this position: what follows is skipped up to the next snapshot."""
