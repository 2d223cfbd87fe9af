"""Whose time is it? An engine's events become segments that tile its life; devices shared by engines are split.

Design 5.1: step k owns from ``max(done of k-1, dispatch of k)`` to its done; what is between steps is idle; before the
engine is ready it is start-up overhead; what the recorder lost is unobserved. Every instant is in exactly one segment.

Where engines share a device, each instant of it is split equally among those who are busy (or starting up) at that
instant; if none is, among those who are unobserved; else it is idle, split among all who are there. All integers.
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
    """Of a busy segment."""


TimelineItem = Segment | AnyEvent
"""Segments, and the events that are not time, in the order in which attribution has to see them."""


class EngineTimeline(msgspec.Struct):
    """Tiles one engine's life. Its fields are all its state, so that an agent can go on where another was killed."""

    started_ns: int = 0
    until_ns: int = 0
    """Everything before this instant has been given out."""
    seen_ns: int = 0
    """Newest time that any event showed."""
    announced_ns: int = 0
    """When the journal began: before it, no other engine could know of this one (see `sharing`)."""
    ready: bool = False
    ended: bool = False
    gap_unobserved: str = ""
    """Why the time up to the next event is not known; '' where it is."""
    in_flight_since_ns: int = 0
    last_scheduled_ns: int = 0

    def feed(self, event: AnyEvent) -> list[TimelineItem]:
        """Segments and events that *event* makes known, in order."""
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
                if self.ready:  # said again at the head of a later segment
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
        """The engine died without a word: its life ends with the newest time that it showed."""
        if self.ended or not self.started_ns:
            return []
        end = max(self.seen_ns, self.until_ns)
        return [*self._end(end), EngineStopped(end, "interrupted")]

    def _step(self, step: Step) -> list[TimelineItem]:
        self.seen_ns = max(self.seen_ns, step.done_ns)
        segments: list[TimelineItem] = []
        if step.scheduled_ns > self.until_ns or self.gap_unobserved:
            segments += self._gap(step.scheduled_ns)
        # A step that was done before the one in front of it (clocks of two threads) owns no time, but did happen.
        end = max(self.until_ns, step.done_ns)
        segments.append(Segment(self.until_ns, end, "busy", "", step))
        self.until_ns = end
        self.last_scheduled_ns = step.scheduled_ns
        # Whoever serves is ready, also where the damage of a journal took the word of it.
        self.ready = self.ready or bool(step.enters or step.items)
        self.in_flight_since_ns = 0
        return segments

    def _heartbeat(self, beat: Heartbeat) -> list[Segment]:
        self.seen_ns = max(self.seen_ns, beat.at_ns)
        flying = beat.in_flight_since_ns
        self.in_flight_since_ns = flying if flying > self.last_scheduled_ns else 0
        if not self.ready:
            return self._to(beat.at_ns, "overhead", "startup")
        return self._gap(min(beat.at_ns, self.in_flight_since_ns) if self.in_flight_since_ns else beat.at_ns)

    def _lost(self, lost: Lost) -> list[TimelineItem]:
        if not lost.at_ns:  # damage on the disk: nobody knows until when
            self.gap_unobserved = self.gap_unobserved or lost.reason
            return [lost]
        self.seen_ns = max(self.seen_ns, lost.at_ns)
        if not lost.steps:  # only notes were lost: the time itself is known
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
        """Time between steps: idle, or unobserved where something was lost."""
        if self.gap_unobserved:
            segments = self._to(to_ns, "unobserved", self.gap_unobserved)
            if to_ns > 0:
                self.gap_unobserved = ""
            return segments
        if not self.ready:
            return self._to(to_ns, "overhead", "startup")
        return self._to(to_ns, "idle", "")

    def _to(self, to_ns: int, kind: SegmentKind, reason: str) -> list[Segment]:
        if to_ns <= self.until_ns:
            return []
        segment = Segment(self.until_ns, to_ns, kind, reason)
        self.until_ns = to_ns
        return [segment]
