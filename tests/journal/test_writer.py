"""The journal as its writer and its reader see it: rotation, cap, locks, schema, permissions, the recorder's ring."""

import contextlib
import itertools
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from costtrace_lab.engines.engine import ReplayTranslator
from costtrace_lab.engines.random_engine import Batch
from costtrace_lab.engines.schedules import started

from costtrace.capture import recorder as recorder_module
from costtrace.capture.journal_thread import Pump
from costtrace.capture.recorder import NOTE, STEP, Recorder
from costtrace.core import guard
from costtrace.core.errors import JournalError, SchemaTooNew
from costtrace.core.events import (
    JOURNAL_SCHEMA,
    Delivered,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    Lost,
    Position,
    SegmentHeader,
    SequenceAdded,
    Snapshot,
    Step,
)
from costtrace.journal import frames
from costtrace.journal import writer as writer_module
from costtrace.journal.reader import JournalReader
from costtrace.journal.writer import JournalWriter


def nothing(sequence):
    return Snapshot(sequence, 1, 0, (), ())


def new_writer(home, *, cap=1 << 30, segment=1 << 20, snapshot=nothing):
    return JournalWriter(home, "e", snapshot, cap_bytes=cap, segment_bytes=segment)


def segments(home):
    return sorted((home / "journal" / "e").glob("*.ctj"))


def read(home, position=Position()):  # noqa: B008 - immutable
    reader = JournalReader(home / "journal" / "e", position)
    events_read = []
    while events := reader.read().events:
        events_read += events
    reader.close()
    return events_read


def test_a_segment_is_full_at_its_size_and_the_next_goes_on(tmp_path):
    writer = new_writer(tmp_path, segment=500)
    steps = [Step(n, n * 10, n * 10 + 5, (), ((n, 1),)) for n in range(100)]
    for step in steps:
        writer.append([step])
    writer.close()
    assert len(segments(tmp_path)) > 5
    assert all(path.stat().st_size < 500 + 300 for path in segments(tmp_path))
    assert read(tmp_path)[1:] == steps


def test_files_are_for_their_owner_only(tmp_path):
    writer = new_writer(tmp_path / "home")
    writer.append([EngineReady(1)])
    writer.close()
    for path in (tmp_path / "home").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_over_its_cap_the_oldest_go_and_a_reader_finds_the_engine_and_a_loss(tmp_path, caplog):
    writer = new_writer(tmp_path, cap=2_000, segment=400)
    writer.append([started(("GPU-0",), 5)])
    writer.append([EngineReady(6)])
    for n in range(200):
        writer.append([Step(n, n * 10 + 10, n * 10 + 15, (), ((n, 1),))])
    writer.close()
    assert sum(path.stat().st_size for path in segments(tmp_path)) <= 2_000 + 400 + 300
    assert segments(tmp_path)[0].stem != "00000001"
    kinds = [type(event) for event in read(tmp_path)]
    assert kinds[:5] == [SegmentHeader, EngineStarted, Lost, EngineReady, Snapshot]
    assert set(kinds[5:]) == {Step}
    assert "COSTTRACE_JOURNAL_CAP_BYTES" in caplog.text


def test_segments_that_the_agent_deletes_meanwhile_are_no_failure_to_write(tmp_path, monkeypatch, caplog):
    writer = new_writer(tmp_path, cap=2_000, segment=400)
    stat = Path.stat

    def stat_beside_an_agent(path, **options):
        if path.stem == "00000002":
            path.unlink(missing_ok=True)
        found = stat(path, **options)
        if path.stem == "00000001":
            path.unlink()
        return found

    steps = [Step(n, n * 10 + 10, n * 10 + 15, (), ((n, 1),)) for n in range(200)]
    monkeypatch.setattr(Path, "stat", stat_beside_an_agent)
    for step in steps:
        writer.append([step])
    writer.close()
    assert "cannot write" not in caplog.text
    assert "00000003.ctj is given up" in caplog.text
    assert "00000001.ctj" not in caplog.text
    assert read(tmp_path)[-1] == steps[-1]


def test_a_newer_schema_is_refused_with_the_remedy_and_nothing_is_skipped(tmp_path):
    writer = new_writer(tmp_path)
    writer.append([EngineReady(1)])
    writer.close()
    path = segments(tmp_path)[0]
    head = frames.unpack(path.read_bytes(), 0)
    newer = msgspec.structs.replace(head.events[0], schema=JOURNAL_SCHEMA + 1)
    path.write_bytes(frames.pack(-1, [newer]) + path.read_bytes()[head.end :])
    reader = JournalReader(tmp_path / "journal" / "e")
    for _ in range(2):
        with pytest.raises(SchemaTooNew, match=r"schema 2, this costtrace reads up to 1. Update costtrace-core"):
            reader.read()
    path.write_bytes(frames.pack(-1, head.events) + frames.pack(0, [EngineReady(1)]))
    assert [type(e) for e in reader.read().events] == [SegmentHeader, EngineReady]


def test_a_second_writer_on_one_journal_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "LOCK_PAUSE_S", 0.0)
    writer = new_writer(tmp_path)
    with pytest.raises(JournalError, match="cannot write a journal in"):
        new_writer(tmp_path)
    writer.close()


def test_a_reader_that_looks_whether_somebody_writes_does_not_keep_the_writer_out(tmp_path):
    directory = tmp_path / "journal" / "e"
    directory.mkdir(parents=True)
    (directory / "writer.lock").touch()
    stop = threading.Event()

    def look():
        reader = JournalReader(directory)
        while not stop.is_set():
            reader.writer_gone()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            new_writer(tmp_path).close()
    finally:
        stop.set()
        thread.join()


def test_the_writer_is_gone_when_it_has_closed_and_not_before(tmp_path):
    writer = new_writer(tmp_path)
    reader = JournalReader(tmp_path / "journal" / "e")
    assert not reader.writer_gone()
    writer.close()
    assert reader.writer_gone()


def test_a_writer_that_was_killed_is_gone(tmp_path):
    code = (
        "import sys, time, pathlib; from costtrace.journal.writer import JournalWriter\n"
        "JournalWriter(pathlib.Path(sys.argv[1]), 'e', lambda n: None, cap_bytes=1 << 30)\n"
        "print('here', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"here\n"
    reader = JournalReader(tmp_path / "journal" / "e")
    assert not reader.writer_gone()
    process.kill()
    process.wait()
    process.stdout.close()
    assert reader.writer_gone()


def test_an_unreadable_journal_is_named_with_the_remedy(tmp_path):
    writer = new_writer(tmp_path)
    writer.append([EngineReady(1)])
    writer.close()
    reader = JournalReader(tmp_path / "journal" / "e")
    with as_somebody_else(tmp_path / "journal" / "e"):
        for look in (reader.writer_gone, reader.read):
            with pytest.raises(JournalError, match=r"cannot read .*: Permission denied. The agent must run as"):
                look()
    assert reader.read().events[1:] == [EngineReady(1)]


@contextlib.contextmanager
def as_somebody_else(directory):
    """As a user who may not read *directory*: root becomes nobody, others lock themselves out."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    else:
        directory.chmod(0)
    try:
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        else:
            directory.chmod(0o700)


def test_reading_while_another_process_writes_gives_every_event_once(tmp_path):
    code = (
        "import sys, pathlib; from costtrace.journal.writer import JournalWriter; from costtrace.core.events import *\n"
        "w = JournalWriter(pathlib.Path(sys.argv[1]), 'e', lambda n: Snapshot(n, 1, 0, (), ()),\n"
        "    cap_bytes=1 << 30, segment_bytes=20_000)\n"
        "for n in range(20_000): w.append([Step(n, n, n, (), ((n, 1),))])\n"
        "w.close()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    directory = tmp_path / "journal" / "e"
    while not directory.exists():
        time.sleep(0.001)
    reader, events_read = JournalReader(directory), []
    while True:
        gone = reader.writer_gone() and process.poll() is not None
        events = reader.read(500).events
        events_read += events
        if gone and not events:
            break
    assert process.wait() == 0
    assert [event.index for event in events_read[1:]] == list(range(20_000))


def test_a_directory_that_cannot_be_written_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="Set COSTTRACE_HOME to a directory that this user can write"):
        new_writer(tmp_path / "file")


def test_the_lag_of_a_reader_is_what_it_has_not_read(tmp_path):
    writer = new_writer(tmp_path, segment=300)
    for n in range(30):
        writer.append([EngineReady(n)])
    reader = JournalReader(tmp_path / "journal" / "e")
    whole = sum(path.stat().st_size for path in segments(tmp_path))
    assert reader.unread_bytes() == whole
    reader.read()
    assert reader.unread_bytes() == 0
    reader.drop_read_segments(time.time() + 10)
    assert len(segments(tmp_path)) == 1
    writer.append([EngineReady(99)])
    assert reader.read().events == [EngineReady(99)]
    writer.close()


def test_a_steady_step_is_a_few_bytes():
    steady = [Step(0, 10**12, 10**12 + 1, (), ((1, 5),))]
    steady += [Step(n, 10**12 + n * 10**7, 10**12 + n * 10**7 + 9_000_000) for n in range(1, 1_001)]
    assert len(frames.pack(0, steady)) < 13 * len(steady)


# -- recorder and pump --------------------------------------------------------------------------------------------


def test_a_full_ring_counts_what_it_drops_and_keeps_what_it_has():
    recorder = Recorder(capacity=3)
    for n in range(5):
        recorder.dispatched(n)
        recorder.done(n)
    recorder.note("late")
    assert [(r[0], r[1]) for r in recorder.drain()] == [(STEP, 0), (STEP, 1), (STEP, 2)]
    dropped = recorder.take_dropped()
    assert (dropped.steps, dropped.notes) == (2, 1)
    assert recorder.take_dropped() is None
    assert recorder.done_index == 4


def drops_of_a_writer_that_looks_after(instructions):
    """What a writer takes that looks after so many instructions of the engine and at the end; [] if it runs fewer."""
    recorder, taken, left = Recorder(capacity=0), [], instructions

    def trace(frame, what, _):
        nonlocal left
        if frame.f_code.co_filename != recorder_module.__file__ or taken:
            return None
        frame.f_trace_opcodes = True
        left -= what == "opcode"
        if left < 0:
            taken.append(recorder.take_dropped())
        return trace

    def drop(what):
        recorder.note(what)
        recorder.dispatched(what)
        recorder.done(what)

    drop("first")
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        drop("second")
    finally:
        sys.settrace(before)
    if taken:
        drop("third")
        taken += [recorder.take_dropped(), recorder.take_dropped()]
    return taken


def test_whenever_the_writer_looks_each_drop_is_counted_once():
    for instructions in itertools.count():
        taken = [dropped for dropped in drops_of_a_writer_that_looks_after(instructions) if dropped is not None]
        if not taken:
            break
        totals = sum(dropped.steps for dropped in taken), sum(dropped.notes for dropped in taken)
        assert (instructions, *totals) == (instructions, 3, 3)
        assert all(dropped.since_ns for dropped in taken)
    assert instructions > 50


def test_steps_in_flight_overlap_and_a_batch_that_the_engine_gave_up_is_passed_over():
    recorder = Recorder()
    a, b, c = object(), object(), object()
    for batch in (a, b, c):
        recorder.dispatched(batch)
    oldest = recorder.in_flight_since_ns()
    assert oldest > 0
    recorder.done(a)
    recorder.done(c)  # b was flushed
    assert [(r[1], r[4]) for r in recorder.drain()] == [(0, a), (2, c)]
    assert recorder.in_flight_since_ns() == 0


def test_a_batch_that_nobody_saw_dispatched_does_not_disturb_the_others():
    recorder = Recorder()
    recorder.done(object())
    batch = object()
    recorder.dispatched(batch)
    recorder.done(object())
    assert recorder.in_flight_since_ns() > 0
    recorder.done(batch)
    assert [r[1] for r in recorder.drain()] == [0]


def test_an_urgent_note_wakes_the_writer():
    recorder = Recorder()
    recorder.note("usual")
    assert not recorder.wake.is_set()
    recorder.note("end", urgent=True)
    assert recorder.wake.is_set()
    assert [r[0] for r in recorder.drain()] == [NOTE, NOTE]


def new_pump(home, recorder):
    return Pump(
        recorder,
        ReplayTranslator(),
        lambda snapshot: new_writer(home, snapshot=snapshot),
        first=[started(("GPU-0",), time.monotonic_ns())],
    )


def test_what_the_ring_dropped_is_written_as_lost(tmp_path):
    recorder = Recorder(capacity=2)
    pump = new_pump(tmp_path, recorder)
    for n in range(4):
        batch = Batch(n, (), ((1, 5),) if n == 0 else (), (), (1,))
        recorder.dispatched(batch)
        recorder.done(batch)
    pump.start()
    pump.stop()
    events_read = read(tmp_path)
    assert [type(e) for e in events_read] == [SegmentHeader, EngineStarted, Step, Step, Lost, Heartbeat, EngineStopped]
    assert (events_read[4].steps, events_read[4].reason) == (2, "recorder full")
    assert events_read[5].done_index == 3


def test_a_request_that_ends_is_on_disk_before_the_next_drain(tmp_path, monkeypatch):
    monkeypatch.setattr("costtrace.capture.journal_thread.DRAIN_S", 60)
    recorder = Recorder()
    pump = new_pump(tmp_path, recorder)
    pump.start()
    time.sleep(0.02)
    recorder.note(SequenceAdded(1, 0, "s", "r", "r", "r", 1, "m", "t", "header"), urgent=True)
    deadline = time.monotonic() + 20
    while not any(isinstance(e, SequenceAdded) for e in read(tmp_path)):
        assert time.monotonic() < deadline
    pump.stop()
    pump.stop()
    assert isinstance(read(tmp_path)[-1], EngineStopped)


@pytest.mark.swallows
def test_an_error_in_the_translator_is_logged_once_and_the_pump_goes_on(tmp_path, caplog):
    recorder = Recorder()
    pump = new_pump(tmp_path, recorder)
    with caplog.at_level(logging.ERROR):
        pump.start()
        for _ in range(3):
            recorder.note("not an event", urgent=True)
            time.sleep(0.05)
        batch = Batch(0, (), ((1, 5),), (), (1,))
        recorder.dispatched(batch)
        recorder.done(batch)
        recorder.wake.set()
        time.sleep(0.2)
        pump.stop()
    assert len([r for r in caplog.records if "journal.pump failed" in r.message]) == 1
    assert any(isinstance(e, Step) for e in read(tmp_path))


@pytest.mark.parametrize("fsync", [True, False])
def test_whether_the_journal_is_put_on_the_disk_is_a_setting(tmp_path, monkeypatch, fsync):
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    writer = JournalWriter(tmp_path, "e", lambda n: Snapshot(n, 0, 0, (), ()), cap_bytes=1 << 30, fsync=fsync)
    writer.append([EngineReady(1)])
    writer.sync()
    writer.close()
    assert bool(synced) == fsync


def waiting(name):
    """A snapshot's function, of an engine in which one sequence with this id waits."""
    added = SequenceAdded(1, 0, name, name, "k", name, 1, "m", "t", "header")
    return lambda sequence: Snapshot(sequence, 1, 0, (added,), ())


def test_rotation_is_by_what_came_after_the_head(tmp_path):
    writer = new_writer(tmp_path, segment=1_000, snapshot=waiting("x" * 3_000))
    for n in range(100):
        writer.append([Step(n, n * 10, n * 10 + 5, (), ((n, 1),))])
    writer.close()
    sizes = [path.stat().st_size for path in segments(tmp_path)]
    assert 2 <= len(sizes) <= 3
    assert [event.index for event in read(tmp_path) if isinstance(event, Step)] == list(range(100))


@pytest.mark.swallows
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_record_that_cannot_be_packed_costs_that_record(tmp_path, place):
    writer = new_writer(tmp_path)
    events = [Step(0, 1, 2), Delivered(1, 5, "stop", 3)]
    events.insert(place, EngineReady(2**70))
    writer.append(events)
    writer.append([EngineReady(7)])
    writer.close()
    header, *rest = read(tmp_path)
    assert isinstance(header, SegmentHeader)
    lost = rest.pop(place)
    assert isinstance(lost, Lost)
    assert (lost.steps, lost.events, lost.reason) == (0, 1, "unwritable record")
    assert rest == [*(event for event in events if not isinstance(event, EngineReady)), EngineReady(7)]
    assert writer.lost_events == 1
    assert guard.failures == {"journal.pack": 1}


@pytest.mark.swallows
def test_after_a_step_that_cannot_be_packed_reading_goes_on_from_a_snapshot(tmp_path):
    writer = new_writer(tmp_path)
    for step in (Step(0, 1, 2), Step(1, 3, 2**70, (), ((5, 1),)), Step(2, 5, 6), Step(3, 7, 8)):
        writer.append([step])
    writer.close()
    kinds = [type(event) for event in read(tmp_path)]
    assert kinds == [SegmentHeader, Step, SegmentHeader, Lost, Snapshot, Step]
    assert read(tmp_path)[-1] == Step(3, 7, 8)


def test_an_id_that_is_no_text_is_written_with_question_marks(tmp_path):
    writer = new_writer(tmp_path)
    writer.append([SequenceAdded(1, 0, "\ud800", "r", "r", "r", 1, "m", "t", "header"), Step(0, 1, 2)])
    writer.close()
    _, added, step = read(tmp_path)
    assert (added.sequence_id, step) == ("?", Step(0, 1, 2))


@pytest.mark.swallows
@pytest.mark.parametrize("snapshot", [waiting(2**70), lambda sequence: 1 / 0], ids=["not packed", "raises"])
def test_a_snapshot_that_cannot_be_made_leaves_a_head_that_can_be_read(tmp_path, snapshot):
    writer = new_writer(tmp_path, segment=200, snapshot=snapshot)
    steps = [Step(n, n * 10, n * 10 + 5, (), ((n, 1),)) for n in range(60)]
    for step in steps:
        writer.append([step])
    writer.close()
    assert len(segments(tmp_path)) > 2
    assert [event for event in read(tmp_path) if isinstance(event, Step)] == steps
    assert set(guard.failures) == {"journal.snapshot"}


def test_what_is_given_up_at_the_cap_is_said_once_a_minute(tmp_path, caplog):
    writer = new_writer(tmp_path, cap=2_000, segment=400)
    for n in range(600):
        writer.append([Step(n, n * 10 + 10, n * 10 + 15, (), ((n, 1),))])
    writer.close()
    (record,) = [record for record in caplog.records if "is given up" in record.getMessage()]
    assert "What no agent had read of it becomes `unobserved`" in record.getMessage()


def test_a_full_disk_in_the_middle_of_a_head_leaves_the_segment_before_it_as_it_is(tmp_path, monkeypatch):
    writer, write = new_writer(tmp_path, segment=300), os.write
    for n in range(8):
        writer.append([Step(n, n * 10, n * 10 + 5, (), ((n, 1),))])
    before = read(tmp_path)

    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for n in range(8, 30):
        writer.append([Step(n, n * 10, n * 10 + 5, (), ((n, 1),))])
    assert read(tmp_path) == before
    monkeypatch.setattr(os, "write", write)
    writer.flush()
    writer.close()
    assert [event.index for event in read(tmp_path) if isinstance(event, Step)] == list(range(30))


def test_a_lock_that_is_deleted_is_made_again_before_a_reader_can_take_the_writer_for_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "LOOK_NS", 0)
    writer, reader = new_writer(tmp_path), JournalReader(tmp_path / "journal" / "e")
    writer.append([EngineReady(1)])
    reader.read()
    assert not reader.writer_gone()
    reader.directory.joinpath("writer.lock").unlink()
    assert reader.writer_gone()
    assert reader.may_live()
    assert JournalReader(reader.directory, reader.position).may_live(), "also for an agent that has just begun"
    writer.append([EngineReady(2)])
    assert not reader.writer_gone()
    writer.close()
    assert reader.writer_gone()
    assert not reader.may_live(), "a lock that is there and free is its writer's end"
    reader.directory.joinpath("writer.lock").unlink()
    assert reader.may_live()
    reader._lock_seen_s -= 11
    old_s = time.time() - 11
    os.utime(reader.directory / "00000001.ctj", (old_s, old_s))
    assert not reader.may_live(), "nobody has made it again"
    reader.close()


def test_a_journal_of_another_boot_without_a_lock_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("costtrace.core.clock.boot_id", lambda: "another")
    writer = new_writer(tmp_path)
    writer.append([EngineReady(1)])
    writer.close()
    monkeypatch.undo()
    reader = JournalReader(tmp_path / "journal" / "e")
    reader.read()
    reader.directory.joinpath("writer.lock").unlink()
    assert not reader.may_live()
    reader.close()


@pytest.mark.parametrize("deleted", ["e/00000001.ctj", "e", "."])
def test_what_is_deleted_under_a_writer_is_made_again(tmp_path, monkeypatch, deleted, caplog):
    monkeypatch.setattr(writer_module, "LOOK_NS", 0)
    writer, reader = new_writer(tmp_path), JournalReader(tmp_path / "journal" / "e")
    writer.append([Step(0, 10, 15)])
    seen = reader.read().events
    path = tmp_path / "journal" / deleted
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    writer.append([Step(2, 20, 25)])
    seen += reader.read().events
    writer.append([Step(4, 30, 35)])
    writer.close()
    seen += reader.read().events
    assert [event.index for event in seen if isinstance(event, Step)] == [0, 2, 4], "for who had it open"
    assert not any(isinstance(event, Lost) for event in seen)
    late = read(tmp_path)
    assert sum(isinstance(event, Lost) for event in late) == 1
    assert [event.index for event in late if isinstance(event, Step)] == [4], (
        "from the snapshot on, for who comes later"
    )
    assert "was deleted while the engine runs" in caplog.text
    reader.close()


def test_a_home_that_is_deleted_is_not_made_again_by_a_writer_but_used_when_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "LOOK_NS", 0)
    home = tmp_path / "home"
    writer = new_writer(home)
    writer.append([Step(0, 10, 15)])
    shutil.rmtree(home)
    writer.append([Step(2, 20, 25)])
    assert not writer.flush()
    assert not home.exists()
    home.mkdir()
    writer.append([Step(4, 30, 35)])
    writer.append([Step(6, 40, 45)])
    writer.close()
    events_read = read(home)
    assert [event.sequence for event in events_read if isinstance(event, Snapshot)] == [3]
    assert [event.index for event in events_read if isinstance(event, Step)] == [6]
