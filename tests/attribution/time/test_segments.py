"""The rules of docs/method/rules.md section 2, one by one."""

import pytest

from costtrace.attribution.time.grants import cut, split_equally
from costtrace.attribution.time.segments import EngineTimeline, Segment
from costtrace.core.events import (
    EngineReady,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    Lost,
    Overhead,
    SegmentHeader,
    SequenceFinished,
    Snapshot,
    Step,
)


def engine(*events, ready=True):
    timeline = EngineTimeline()
    items = timeline.feed(SegmentHeader(1, "e", 1, 0, "h", "b", 1, 150, 150))
    items += timeline.feed(EngineStarted(100, "simulator", "1", "m", ()))
    if ready:
        items += timeline.feed(EngineReady(200))
    for event in events:
        items += timeline.feed(event)
    return timeline, items


def pieces(items):
    return [(s.start_ns, s.end_ns, s.kind, s.reason) for s in items if isinstance(s, Segment)]


STARTUP = (100, 200, "overhead", "startup")


def step(index, scheduled, done, members=True):  # noqa: FBT002 - reads as what it is
    return Step(index, scheduled, done, (), ((1, 5),) if members else ())


def test_a_step_owns_the_time_from_its_dispatch_to_its_end_and_the_rest_is_idle():
    _, items = engine(step(0, 250, 300), step(1, 340, 400), EngineStopped(450))
    assert pieces(items) == [
        STARTUP,
        (200, 250, "idle", ""),
        (250, 300, "busy", ""),
        (300, 340, "idle", ""),
        (340, 400, "busy", ""),
        (400, 450, "idle", ""),
    ]


def test_overlapping_steps_own_what_the_one_before_left_them():
    _, items = engine(step(0, 250, 300), step(1, 260, 360), step(2, 310, 420))
    assert pieces(items)[2:] == [(250, 300, "busy", ""), (300, 360, "busy", ""), (360, 420, "busy", "")]


def test_a_step_that_was_done_before_the_one_in_front_of_it_owns_no_time_and_is_kept():
    _, items = engine(step(0, 250, 300), step(1, 260, 290))
    assert pieces(items)[-1] == (300, 300, "busy", "")


def test_before_the_engine_is_ready_all_is_startup():
    _, items = engine(Heartbeat(180, 180), Heartbeat(500, 500), EngineReady(600), Heartbeat(700, 700), ready=False)
    assert pieces(items) == [
        (100, 180, "overhead", "startup"),
        (180, 500, "overhead", "startup"),
        (500, 600, "overhead", "startup"),
        (600, 700, "idle", ""),
    ]


def test_an_engine_that_never_became_ready_was_starting_up_all_its_life():
    timeline, items = engine(Heartbeat(300, 300), ready=False)
    items += timeline.interrupted()
    assert {(kind, reason) for _, _, kind, reason in pieces(items)} == {("overhead", "startup")}


@pytest.mark.parametrize("sign", [step(0, 300, 400), Snapshot(9, 300, 4, (), ())])
def test_who_serves_is_ready_even_if_the_word_of_it_was_lost(sign):
    _, items = engine(sign, Heartbeat(600, 600), ready=False)
    assert pieces(items)[-1][2:] == ("idle", "")


def test_being_ready_twice_is_being_ready_once():
    _, items = engine(EngineReady(400), Heartbeat(500, 500))
    assert pieces(items) == [STARTUP, (200, 500, "idle", "")]


def test_a_heartbeat_does_not_call_idle_what_a_step_in_flight_may_own():
    _, items = engine(Heartbeat(400, 400, in_flight_since_ns=300), step(0, 300, 900))
    assert pieces(items) == [STARTUP, (200, 300, "idle", ""), (300, 900, "busy", "")]


def test_a_step_that_is_written_after_a_heartbeat_that_saw_it_in_flight_is_not_in_flight():
    timeline, items = engine(step(0, 300, 380), Heartbeat(400, 400, in_flight_since_ns=300))
    items += timeline.feed(EngineStopped(500))
    assert pieces(items)[-1] == (400, 500, "idle", "")


def test_dummy_batches_are_overhead():
    _, items = engine(Overhead(220, 260, "dummy batch"))
    assert pieces(items) == [STARTUP, (200, 220, "idle", ""), (220, 260, "overhead", "dummy batch")]


def test_lost_steps_make_the_time_unobserved_until_the_recorder_was_back():
    _, items = engine(step(0, 200, 250), Lost(400, 7, 0, "recorder full", 260, 400), step(8, 420, 450))
    assert pieces(items)[2:] == [
        (250, 400, "unobserved", "recorder full"),
        (400, 420, "idle", ""),
        (420, 450, "busy", ""),
    ]


def test_lost_notes_leave_the_time_as_it_is():
    _, items = engine(step(0, 200, 250), Lost(400, 0, 3, "recorder full", 260, 400), step(1, 420, 450))
    assert (250, 420, "idle", "") in pieces(items)


def test_damage_is_unobserved_until_the_next_record_that_can_be_believed():
    _, items = engine(step(0, 200, 250), Lost(0, -1, -1, "journal damaged"), Snapshot(9, 700, 5, (), ()))
    assert pieces(items)[2:] == [(250, 700, "unobserved", "journal damaged")]


def test_damage_at_the_end_of_an_interrupted_engine_leaves_its_end_where_it_was_last_seen():
    timeline, items = engine(step(0, 200, 250), Lost(0, -1, -1, "journal damaged"))
    items += timeline.interrupted()
    assert pieces(items)[-1][1] == 250


def test_an_engine_that_dies_in_a_step_leaves_an_interrupted_step_up_to_its_last_sign_of_life():
    timeline, items = engine(Heartbeat(500, 500, in_flight_since_ns=300))
    items += timeline.feed(SequenceFinished(1, 560, 0, "abort", 0))
    items += timeline.interrupted()
    assert pieces(items)[1:] == [(200, 300, "idle", ""), (300, 560, "overhead", "interrupted")]
    assert items[-1] == EngineStopped(560, "interrupted")


def test_an_engine_that_has_said_goodbye_is_not_interrupted():
    timeline, _ = engine(EngineStopped(300))
    assert timeline.interrupted() == []


def test_segments_are_cut_where_windows_of_wall_time_begin():
    segment = Segment(95, 130, "idle")
    assert list(cut(segment, 5, 10)) == [
        (95, 105, 100, False),
        (105, 115, 110, False),
        (115, 125, 120, False),
        (125, 130, 130, True),
    ]
    assert list(cut(Segment(95, 95, "busy"), 5, 10)) == [(95, 95, 100, True)]


def test_an_instant_is_shared_in_turns_so_cutting_it_changes_nobodys_share():
    assert split_equally(0, 10, ["b", "a", "c"]) == {"a": 4, "b": 3, "c": 3}
    for middle in range(11):
        one, two = split_equally(0, middle, "abc"), split_equally(middle, 10, "abc")
        assert {k: one[k] + two[k] for k in "abc"} == split_equally(0, 10, "abc")
