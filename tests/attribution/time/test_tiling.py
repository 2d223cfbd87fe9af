"""Every instant of an engine's life is in exactly one segment, whatever its journal holds and in whatever order."""

from itertools import pairwise

from costtrace_lab.engines import random_life
from hypothesis import given
from hypothesis import strategies as st

from costtrace.attribution.time.segments import EngineTimeline, Segment
from costtrace.core.events import (
    EngineReady,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    Lost,
    Overhead,
    SegmentHeader,
    SequenceAdded,
    Snapshot,
    Step,
)

START = 1_000
time = st.integers(0, 50_000)
steps = st.builds(
    lambda index, one, two, who: Step(index, min(one, two), max(one, two), (), ((who, 3),) if who else ()),
    st.integers(0, 99),
    time,
    time,
    st.integers(0, 2),
)
events = st.lists(
    st.one_of(
        steps,
        steps,
        st.builds(Heartbeat, time, st.just(0), st.one_of(st.just(0), time)),
        st.builds(EngineReady, time),
        st.builds(lambda a, b: Overhead(min(a, b), max(a, b), "dummy batch"), time, time),
        st.builds(lambda a, n, to: Lost(a, n, 1, "recorder full", 0, to), time, st.integers(-1, 3), time),
        st.builds(Snapshot, st.just(0), time, st.integers(0, 3), st.just(()), st.just(())),
        st.builds(lambda at: SequenceAdded(1, at, "", "", "", "", 1, "", "", ""), time),
    ),
    max_size=30,
)


def feed(all_events, end=None):
    timeline = EngineTimeline()
    timeline.feed(SegmentHeader(1, "e", 1, 0, "h", "b", 1, START, START))
    items = timeline.feed(EngineStarted(START, "simulator", "1", "m", ()))
    for event in all_events:
        items += timeline.feed(event)
    items += timeline.feed(EngineStopped(end)) if end else timeline.interrupted()
    return items, timeline


def assert_tiles(items, timeline):
    segments = [item for item in items if isinstance(item, Segment)]
    if not segments:
        assert timeline.until_ns == START
        return
    assert segments[0].start_ns == START
    assert all(before.end_ns == after.start_ns for before, after in pairwise(segments))
    assert all(s.end_ns > s.start_ns or (s.step is not None and s.end_ns == s.start_ns) for s in segments)
    assert segments[-1].end_ns == timeline.until_ns


@given(events)
def test_any_events_tile_the_life_up_to_the_newest_time_that_they_show(all_events):
    items, timeline = feed(all_events)
    assert_tiles(items, timeline)
    shown = [START]
    for e in all_events:
        shown += [getattr(e, name, 0) for name in ("at_ns", "done_ns", "to_ns") if not isinstance(e, Snapshot)]
        shown.append(e.at_ns if isinstance(e, Snapshot) else 0)
    # A note of something lost whose steps are all there says nothing about until when.
    assert timeline.until_ns <= max(shown)
    assert timeline.until_ns >= max([START, *(e.done_ns for e in all_events if isinstance(e, Step))])


@given(events, time)
def test_every_step_is_there_once_and_the_engine_ends_when_it_said(all_events, end):
    items, timeline = feed(all_events, end or 1)
    assert_tiles(items, timeline)
    steps = [event for event in all_events if isinstance(event, Step)]
    assert [item.step for item in items if isinstance(item, Segment) and item.step] == steps
    assert timeline.until_ns >= end


@given(st.integers(0, 10_000), st.data())
def test_a_life_of_which_any_records_are_missing_still_tiles(seed, data):
    life = random_life(seed, rounds=30).events
    keep = data.draw(st.lists(st.booleans(), min_size=len(life), max_size=len(life)))
    timeline = EngineTimeline()
    items = [item for event in life[:2] for item in timeline.feed(event)]
    for event, stays in zip(life[2:], keep[2:], strict=True):
        if stays and not isinstance(event, EngineStopped):
            items += timeline.feed(event)
    items += timeline.interrupted()
    segments = [item for item in items if isinstance(item, Segment)]
    assert all(before.end_ns == after.start_ns for before, after in pairwise(segments))
