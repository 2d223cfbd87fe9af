"""Whose time is it? An engine's events become segments that tile its life (docs/method/rules.md section 2).

Step k owns the time from ``max(done of k-1, dispatch of k)`` until it is done. Time between steps is idle, time before
the engine is ready is start-up overhead, and what the recorder lost is unobserved. Every instant is in exactly one
segment, in whole nanoseconds. How engines divide a device that they share is in `shared_devices`.
"""

from typing import Literal

import msgspec

from costtrace.core.events import (
    AnyEvent,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Event,
    Heartbeat,
    Lost,
    Overhead,
    SegmentHeader,
    Snapshot,
    Step,
)

SegmentKind = Literal["busy", "idle", "overhead", "unobserved"]


class Segment(Event, tag=100, frozen=True):
    """A stretch of one engine's life, [start, end) in monotonic ns."""

    start_ns: int
    end_ns: int
    kind: SegmentKind
    reason: str = ""
    step: Step | None = None
    """The step of a busy segment."""


TimelineItem = Segment | AnyEvent
"""A segment, or an event that is not time, in the order in which attribution has to see them."""


class EngineTimeline(msgspec.Struct):
    """Tiles one engine's life. All state is in the fields, so that an agent can go on where another was killed."""

    started_ns: int = 0
    until_ns: int = 0
    """Time before this instant is in segments."""
    seen_ns: int = 0
    """The newest time on any event."""
    announced_ns: int = 0
    """When the journal began: other engines know of this one from then on (`shared_devices`)."""
    ready: bool = False
    ended: bool = False
    gap_unobserved: str = ""
    """Why the time up to the next event is not known; empty where it is."""
    in_flight_since_ns: int = 0
    last_scheduled_ns: int = 0

    def feed(self, event: AnyEvent) -> list[TimelineItem]:
        """Take the next event; return the segments and events that it completes, in order."""
        match event:
            case Step():
                return self._step(event)
            case Heartbeat():
                return [*self._heartbeat(event), event]
            case SegmentHeader():
                self.announced_ns = event.monotonic_ns
                return []
            case EngineStarted():
                self.started_ns = self.until_ns = self.seen_ns = event.started_ns
                return [event]
            case EngineReady():
                if self.ready:  # repeated at the head of a later segment file
                    return [event]
                segments = self._to(event.at_ns, "overhead", "startup")
                self.ready = True
                return [*segments, event]
            case Overhead():
                return [*self._gap(event.from_ns), *self._to(event.to_ns, "overhead", event.reason)]
            case Lost():
                return self._lost(event)
            case Snapshot():
                segments = self._gap(event.at_ns)
                self.ready = self.ready or event.next_index > 0
                return [*segments, event]
            case EngineStopped():
                return [*self._end(event.at_ns), event]
            case _:
                self.seen_ns = max(self.seen_ns, getattr(event, "at_ns", 0))
                return [event]

    def interrupted(self) -> list[TimelineItem]:
        """End the life of an engine that died without reporting it, at the newest time that it showed."""
        if self.ended or not self.started_ns:
            return []
        end = max(self.seen_ns, self.until_ns)
        return [*self._end(end), EngineStopped(end, "interrupted")]

    def _step(self, step: Step) -> list[TimelineItem]:
        self.seen_ns = max(self.seen_ns, step.done_ns)
        segments: list[TimelineItem] = []
        if step.scheduled_ns > self.until_ns or self.gap_unobserved:
            segments += self._gap(step.scheduled_ns)
        # A step that was done before its predecessor (clocks of two threads) owns no time, but it did happen.
        end = max(self.until_ns, step.done_ns)
        segments.append(Segment(self.until_ns, end, "busy", "", step))
        self.until_ns = end
        self.last_scheduled_ns = step.scheduled_ns
        # An engine that serves is ready, also where damage took its `EngineReady`.
        self.ready = self.ready or bool(step.enters or step.items)
        self.in_flight_since_ns = 0
        return segments

    def _heartbeat(self, beat: Heartbeat) -> list[Segment]:
        self.seen_ns = max(self.seen_ns, beat.at_ns)
        since_ns = beat.in_flight_since_ns
        self.in_flight_since_ns = since_ns if since_ns > self.last_scheduled_ns else 0
        if not self.ready:
            return self._to(beat.at_ns, "overhead", "startup")
        return self._gap(min(beat.at_ns, self.in_flight_since_ns) if self.in_flight_since_ns else beat.at_ns)

    def _lost(self, lost: Lost) -> list[TimelineItem]:
        if not lost.at_ns:  # damage on the disk: until when is not known
            self.gap_unobserved = self.gap_unobserved or lost.reason
            return [lost]
        self.seen_ns = max(self.seen_ns, lost.at_ns)
        if not lost.steps:  # no step was lost: the time itself is known
            return [lost]
        return [*self._to(lost.to_ns or lost.at_ns, "unobserved", lost.reason), lost]

    def _end(self, at_ns: int) -> list[TimelineItem]:
        segments: list[TimelineItem] = []
        if not self.ready:
            segments += self._to(at_ns, "overhead", "startup")
        elif self.in_flight_since_ns:
            segments += self._gap(self.in_flight_since_ns)
            segments += self._to(at_ns, "overhead", "interrupted")
        else:
            segments += self._gap(at_ns)
        self.ended = True
        return segments

    def _gap(self, to_ns: int) -> list[Segment]:
        """Fill the time up to *to_ns* between steps: idle, or unobserved where something was lost."""
        if self.gap_unobserved:
            segments = self._to(to_ns, "unobserved", self.gap_unobserved)
            if to_ns > 0:
                self.gap_unobserved = ""
            return segments
        if not self.ready:
            return self._to(to_ns, "overhead", "startup")
        return self._to(to_ns, "idle", "")

    def _to(self, to_ns: int, kind: SegmentKind, reason: str) -> list[Segment]:
        """Fill the time up to *to_ns* with one segment."""
        if to_ns <= self.until_ns:
            return []
        segment = Segment(self.until_ns, to_ns, kind, reason)
        self.until_ns = to_ns
        return [segment]
