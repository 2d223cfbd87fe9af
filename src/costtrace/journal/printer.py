"""A journal as text: one line an event, one line a steady stretch. What `costtrace journal show` prints."""

from collections.abc import Iterable, Iterator
from datetime import UTC, tzinfo

from costtrace.core.clock import Anchor
from costtrace.core.events import (
    Delivered,
    DeviceSeen,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Event,
    Heartbeat,
    Lost,
    Overhead,
    PrefixPath,
    Reading,
    SegmentHeader,
    SequenceAdded,
    SequenceFinished,
    Snapshot,
    Step,
)
from costtrace.core.units import show_seconds
from costtrace.core.wall_time import show_time

_MANY = 6
"""Sequences of a step that are named; the others are counted."""


class JournalPrinter:
    """Turns events into lines. Steady steps (nobody joins or leaves) and heartbeats are counted unless *everything*."""

    def __init__(self, anchor: Anchor, *, everything: bool = False, zone: tzinfo = UTC) -> None:
        self.anchor = anchor
        self._everything = everything
        self._zone = zone
        self._steady: list[Step] = []
        self._steady_count = 0
        self._busy_ns = 0
        self._cohort: set[int] = set()

    def lines(self, events: Iterable[Event]) -> Iterator[str]:
        """Yield the lines of *events*; a steady stretch at the end is held back until `pause` or the next call."""
        for event in events:
            if isinstance(event, Step) and not (
                self._everything or event.leaves or event.enters or event.items or event.encoder
            ):
                self._count(event)
                continue
            if isinstance(event, Heartbeat) and not self._everything:
                continue
            yield from self.pause()
            if isinstance(event, Step):
                self._cohort.difference_update(event.leaves, (slot for slot, _, _ in event.items))
                self._cohort.update(slot for slot, _ in event.enters)
            elif isinstance(event, Snapshot):
                self._cohort = {slot for slot, _ in event.cohort}
            yield self._line(event)

    def pause(self) -> Iterator[str]:
        """Yield the line of the steady stretch so far, if there is one."""
        if not self._steady:
            return
        first, last = self._steady[0], self._steady[-1]
        took = show_seconds(self._busy_ns // self._steady_count)
        if first is last:
            what = f"{first.index}  a steady step, {took}"
        else:
            what = f"{first.index}-{last.index}  {self._steady_count:,} steady steps, {took} each"
        yield self._at(first.scheduled_ns, "step", f"{what}, {len(self._cohort)} decoding")
        self._steady, self._steady_count, self._busy_ns = [], 0, 0

    def _count(self, step: Step) -> None:
        self._steady = [self._steady[0], step] if self._steady else [step]
        self._steady_count += 1
        self._busy_ns += step.done_ns - step.scheduled_ns

    def _at(self, at_ns: int, what: str, text: str) -> str:
        # `Lost` events of a reader carry no time.
        at = show_time(self.anchor.wall(at_ns), self._zone) if at_ns else " " * len(show_time(1, self._zone))
        return f"{at}  {what:<9} {text}"

    def _line(self, event: Event) -> str:
        match event:
            case Step():
                return self._at(event.scheduled_ns, "step", self._step(event))
            case SequenceAdded():
                return self._at(event.at_ns, "added", _added(event))
            case SequenceFinished():
                preempted = f", {event.preemptions} preemptions" if event.preemptions else ""
                counts = f"{event.output_tokens} output tokens, {event.cached_tokens} cached{preempted}"
                return self._at(event.at_ns, "finished", f"#{event.slot}  {event.reason}, {counts}")
            case PrefixPath():
                return self._at(event.at_ns, "prefix", _path(event))
            case Delivered():
                text = f"#{event.slot}  the client got {event.output_tokens} tokens ({event.reason})"
                return self._at(event.at_ns, "delivered", text)
            case SegmentHeader():
                where = f"host {event.host}, pid {event.pid}, schema {event.schema}"
                return self._at(event.monotonic_ns, "journal", f"segment {event.segment} of {event.engine_id}, {where}")
            case EngineStarted():
                return self._at(event.started_ns, "started", _started(event))
            case EngineReady():
                return self._at(event.at_ns, "ready", "the engine serves")
            case EngineStopped():
                return self._at(event.at_ns, "stopped", event.reason)
            case _:
                return self._rare(event)

    def _rare(self, event: Event) -> str:
        match event:
            case Overhead():
                text = f"{show_seconds(event.to_ns - event.from_ns)} for nobody: {event.reason}"
                return self._at(event.from_ns, "overhead", text)
            case Lost():
                lost = ((event.steps, "steps"), (event.events, "events"))
                counts = ", ".join(f"{number} {what}" for number, what in lost if number > 0)
                why = f"{event.reason} ({counts})" if counts else event.reason
                return self._at(event.at_ns, "LOST", f"{why}: its time is unobserved")
            case Heartbeat():
                return self._at(event.at_ns, "alive", f"all steps to {event.done_index} are written")
            case Snapshot():
                text = f"{len(event.open)} sequences open, {len(event.cohort)} decoding, next step {event.next_index}"
                return self._at(event.at_ns, "snapshot", text)
            case Reading():
                energy = "unknown" if event.energy_uj is None else f"{event.energy_uj} uJ"
                return self._at(event.at_ns, "reading", f"{event.device}  {energy} from {event.source}")
            case DeviceSeen():
                text = f"{event.uuid} ({event.name}), energy of the {event.scope} from {event.source}"
                return self._at(event.at_ns, "device", text)
            case _:
                return self._at(0, type(event).__name__, repr(event))

    def _step(self, step: Step) -> str:
        parts = [f"{step.index}  {show_seconds(step.done_ns - step.scheduled_ns)}, {len(self._cohort)} decoding"]
        parts += _named("joins", [f"#{slot} at {context}" for slot, context in step.enters])
        parts += _named("leaves", [f"#{slot}" for slot in step.leaves])
        parts += _named("runs", [f"#{slot} {tokens} tok after {context}" for slot, tokens, context in step.items])
        parts += _named("encodes", [f"#{slot} {tokens} tok" for slot, tokens in step.encoder])
        return "; ".join(parts)


def _named(verb: str, names: list[str]) -> list[str]:
    if not names:
        return []
    others = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return [f"{verb} {', '.join(names[:_MANY])}{others}"]


def _added(event: SequenceAdded) -> str:
    trace = f", trace {event.traceparent[3:35]}" if event.traceparent else ""
    who = f"request {event.request_id}, tenant {event.tenant} ({event.tenant_source}), model {event.model}"
    return f"#{event.slot}  {who}, {event.operation}, {event.prompt_tokens} prompt tokens{trace}"


def _path(event: PrefixPath) -> str:
    cached = [f"{count} from {first}" if first else f"{count} of nobody known" for first, count in event.found]
    computed = f"computes {event.own} from {event.own_first}" if event.own else "computes none"
    return f"#{event.slot}  blocks of {event.block_tokens} tokens: {'; '.join([*_named('finds', cached), computed])}"


def _started(event: EngineStarted) -> str:
    devices = ", ".join(f"{device.uuid} ({device.name})" for device in event.devices)
    lost = f"; hooks that do not fit: {', '.join(event.lost_hooks)}" if event.lost_hooks else ""
    return (
        f"{event.engine} {event.engine_version}, model {event.model}, {event.role}, on {devices or 'no device'}{lost}"
    )
