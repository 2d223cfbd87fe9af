"""A journal that is cut or corrupted anywhere: never an exception, never a wrong event, and reading goes on."""

import contextlib
import errno
import os
import struct
import zlib
from pathlib import Path

import msgspec
import pytest
from costtrace_lab.engines.engine import ReplayTranslator
from costtrace_lab.engines.schedules import started
from hypothesis import given
from hypothesis import strategies as st

from costtrace.core.client_text import short
from costtrace.core.errors import JournalError, SchemaTooNew
from costtrace.core.events import (
    JOURNAL_SCHEMA,
    Delivered,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    Lost,
    Overhead,
    SegmentHeader,
    SequenceAdded,
    SequenceFinished,
    Snapshot,
    Step,
)
from costtrace.journal import frames
from costtrace.journal.reader import JournalReader
from costtrace.journal.writer import JournalWriter

number = st.integers(0, 2**62)
small = st.integers(-1, 2**31)
name = st.text(max_size=12)
labels = st.dictionaries(name, name, max_size=2)
pairs = st.lists(st.tuples(small, small), max_size=3).map(tuple)
any_step = st.builds(
    Step,
    small,
    number,
    number,
    st.lists(small, max_size=3).map(tuple),
    pairs,
    st.lists(st.tuples(small, small, small), max_size=3).map(tuple),
    pairs,
)
steady_step = st.builds(Step, st.integers(0, 5), number, number)
events = st.lists(
    st.one_of(
        any_step,
        steady_step,
        steady_step,
        st.builds(SequenceAdded, small, number, name, name, name, name, small, name, name, name, labels=labels),
        st.builds(SequenceFinished, small, number, small, name, small),
        st.builds(Delivered, small, number, name, small),
        st.builds(Heartbeat, number, number, number, small),
        st.builds(EngineReady, number),
        st.builds(EngineStopped, number, name),
        st.builds(Overhead, number, number, name),
        st.builds(Lost, number, small, small, name),
        st.builds(Snapshot, number, number, small, st.just(()), pairs),
    ),
    min_size=1,
    max_size=20,
)


@given(events, number)
def test_any_events_come_back_as_they_were(some, first):
    data = frames.pack(first, some)
    assert frames.unpack(data, 0) == frames.Frame(first, some, len(data))


@given(events, st.binary(max_size=40), st.data())
def test_a_frame_among_rubbish_is_found_or_reported_never_misread(some, rubbish, data):
    frame = frames.pack(3, some)
    stream = rubbish + frame + frame
    events_read, start = [], 0
    while start < len(stream) and (one := frames.unpack(stream, start)) is not None:
        if isinstance(one, frames.Frame):
            assert one.events == some
            events_read.append(one)
        start = one.end
    assert len(events_read) == 2


@given(events)
def test_a_frame_that_is_still_being_written_is_waited_for(some):
    data = frames.pack(0, some)
    for end in range(len(data)):
        assert frames.unpack(data[:end], 0) is None


def record(index, at_ns):
    """What happens around one step of the small journal: a sequence comes, decodes, goes."""
    added = SequenceAdded(index, at_ns, f"s{index}", f"r{index}", f"r{index}", f"r{index}", 3, "m", "ant", "header")
    first = Step(index, at_ns, at_ns + 50, (index - 2,) if index > 1 else (), ((index, 3),), ())
    gone = [SequenceFinished(index - 1, at_ns + 60, index, "stop", 2)] if index > 1 else []
    return [added, first, *gone]


class Keeper(ReplayTranslator):
    """A translator that takes events and not records."""

    def translate_events(self, some):
        for event in some:
            if isinstance(event, Step):
                self._step(event.index, event.scheduled_ns, event.done_ns, event)
            elif not isinstance(event, (EngineStarted, EngineReady, EngineStopped)):
                self._note(event.at_ns, event)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A whole small journal of several segments: its directory, its events, and its segments' bytes."""
    home = tmp_path_factory.mktemp("home")
    keeper, clock = Keeper(), [0]
    writer = JournalWriter(home, "e", lambda n: keeper.snapshot(n, clock[0]), cap_bytes=1 << 30, segment_bytes=300)
    written = []

    def append(some):
        clock[0] = max(clock[0], *(getattr(e, "at_ns", 0) or getattr(e, "done_ns", 0) for e in some)) + 5
        keeper.translate_events(some)
        writer.append(some)
        written.extend(some)

    append([started(("GPU-0",), 100)])
    append([EngineReady(200)])
    for index in range(1, 9):
        append(record(index, 1_000 * index))
        append([Step(100 + index, 1_000 * index + 100, 1_000 * index + 150)])
    append([EngineStopped(9_900)])
    writer.close()
    directory = home / "journal" / "e"
    segments = {path: path.read_bytes() for path in sorted(directory.glob("*.ctj"))}
    assert len(segments) >= 4
    return directory, written, segments


def read_all(directory, batch=10_000):
    reader = JournalReader(directory)
    events_read = []
    while events := reader.read(batch).events:
        events_read += events
    reader.close()
    return events_read


def restored(small):
    directory, _, segments = small
    for path, data in segments.items():
        path.write_bytes(data)
    return directory


REPEATED = (SegmentHeader, EngineStarted, EngineReady, Lost, Snapshot)


def assert_sound(events_read, written):
    """In order, nothing invented or twice; where something is missing is a `Lost`, and it goes on at a snapshot."""
    place, lost = 0, False
    for event in events_read:
        if isinstance(event, Lost):
            lost = True
        elif isinstance(event, Snapshot):
            assert lost
            assert place <= event.sequence
            place, lost = event.sequence, False
        elif isinstance(event, SegmentHeader) or (lost and isinstance(event, (EngineStarted, EngineReady))):
            assert isinstance(event, SegmentHeader) or event in written
        elif isinstance(event, EngineStarted) and place > 0:
            assert event in written  # repeated at the head of a segment
        else:
            assert not lost, "believed before a snapshot"
            assert event == written[place], "an event that is not the next one"
            place += 1
    return place


def test_a_whole_journal_is_read_as_it_was_written_in_batches_of_any_size(small):
    directory, written, _ = small
    restored(small)
    for batch in (1, 2, 3, 7, 10_000):
        events_read = read_all(directory, batch)
        assert events_read[0].engine_id == "e"
        assert events_read[1:] == written


def test_every_truncation_of_every_segment_is_survived(small):
    directory, written, segments = small
    last = max(segments)
    for path, data in segments.items():
        restored(small)
        for end in range(len(data)):
            path.write_bytes(data[:end])
            events_read = read_all(directory)
            place = assert_sound(events_read, written)
            ends_whole = end == 0 or frames_end(data, end)
            if path != last:
                assert place == len(written), "it did not go on"
                if not ends_whole or end == 0:
                    assert any(isinstance(event, Lost) for event in events_read)
    restored(small)


def frames_end(data, end):
    start = 0
    while start < end:
        start = frames.unpack(data, start).end
    return start == end


def test_every_single_corrupted_byte_is_survived(small):
    directory, written, segments = small
    paths = list(segments)
    for path, data in segments.items():
        restored(small)
        for at in range(len(data)):
            wrong = bytearray(data)
            wrong[at] ^= 0xFF if at % 2 else 0x01
            path.write_bytes(bytes(wrong))
            events_read = read_all(directory)
            place = assert_sound(events_read, written)
            if path in paths[:-2]:
                assert place == len(written), "it did not go on"
                assert any(isinstance(event, Lost) for event in events_read)
    restored(small)


@pytest.mark.parametrize("count", [1, 2])
def test_every_missing_segment_is_survived_the_first_one_included(small, count):
    directory, written, segments = small
    paths = list(segments)
    for n in range(len(paths) - count):
        restored(small)
        for path in paths[n : n + count]:
            path.unlink()
        events_read = read_all(directory)
        assert assert_sound(events_read, written) == len(written)
        assert isinstance(events_read[0], SegmentHeader)
        assert isinstance(events_read[1], EngineStarted)
        assert sum(isinstance(event, Lost) for event in events_read) == 1
    restored(small)


def test_a_reader_that_goes_on_behind_a_damaged_head_knows_what_the_one_before_knew(small):
    directory, written, segments = small
    path = list(segments)[1]
    restored(small)
    path.write_bytes(b"\x00" + segments[path])
    events_read, reader = [], JournalReader(directory)
    while events := reader.read(1).events:
        events_read += events
        reader.close()
        reader = JournalReader(directory, reader.position)
    assert events_read == read_all(directory)
    assert assert_sound(events_read, written) == len(written)
    restored(small)


@given(st.data())
def test_damage_anywhere_and_a_reader_that_is_killed_anywhere_is_survived(small, data):
    directory, written, segments = small
    restored(small)
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(list(segments)))
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "remove", "zero"])):
            case "flip" if at < len(content):
                content[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[at:]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=30))
            case "remove":
                del content[at : at + data.draw(st.integers(1, 50))]
            case _:
                content[at : at + 20] = bytes(len(content[at : at + 20]))
        path.write_bytes(bytes(content))
    whole = read_all(directory)
    assert_sound(whole, written)
    # A reader that is started again from its position after every batch sees the same.
    events_read, position = [], None
    batch = data.draw(st.integers(1, 5))
    while True:
        reader = JournalReader(directory, position) if position else JournalReader(directory)
        events = reader.read(batch).events
        position = reader.position
        reader.close()
        if not events:
            break
        events_read += events
    assert events_read == whole
    restored(small)


def doubled(paths):
    paths[1].write_bytes(paths[1].read_bytes() * 2)


def copied_over_the_next(paths):
    paths[2].write_bytes(paths[1].read_bytes())


def copied_behind_the_last(paths):
    (paths[0].parent / "00000090.ctj").write_bytes(paths[1].read_bytes())


def swapped_with_the_next(paths):
    first, second = paths[1].read_bytes(), paths[2].read_bytes()
    paths[1].write_bytes(second)
    paths[2].write_bytes(first)


def first_two_swapped(paths):
    swapped_with_the_next([None, *paths])


def copied_over_the_last(paths):
    paths[-1].write_bytes(paths[0].read_bytes())


@pytest.mark.parametrize(
    "repeat",
    [
        doubled,
        copied_over_the_next,
        copied_behind_the_last,
        swapped_with_the_next,
        first_two_swapped,
        copied_over_the_last,
    ],
)
def test_no_record_of_a_segment_that_comes_twice_is_given_twice(small, repeat):
    directory, written, segments = small
    restored(small)
    try:
        repeat(list(segments))
        for batch in (1, 10_000):
            events_read = read_all(directory, batch)
            once = [event for event in events_read if not isinstance(event, REPEATED)]
            assert len({str(event) for event in once}) == len(once)
            if repeat is copied_behind_the_last:
                assert events_read[1:] == written, "what is a copy by its head takes nothing away"
            else:
                assert_sound(events_read, written)
            if repeat not in {copied_behind_the_last, copied_over_the_last}:
                assert any(isinstance(event, Lost) for event in events_read)
                assert events_read[-1] == written[-1], "it goes on after the next good head"
    finally:
        (directory / "00000090.ctj").unlink(missing_ok=True)
        restored(small)


def test_a_copy_behind_the_segment_that_is_being_written_takes_nothing_from_it(tmp_path):
    directory = tmp_path / "journal" / "e"
    writer = JournalWriter(tmp_path, "e", lambda n: Snapshot(n, 1, 0, (), ()), cap_bytes=1 << 30, segment_bytes=500)
    reader, seen = JournalReader(directory), []
    for n in range(12):
        writer.append([Step(n, n * 10, n * 10 + 5, (), ((n, 1),), ((n, 1, 1),) * 20)])
        seen += reader.read().events
        if n == 2:
            (directory / "00000099.ctj").write_bytes((directory / "00000001.ctj").read_bytes())
            (directory / "00000098.ctj").write_bytes(b"no head" * 100)
    writer.close()
    assert [event.index for event in seen if isinstance(event, Step)] == list(range(12))
    assert not any(isinstance(event, Lost) for event in seen)
    assert reader.strays == {98, 99}
    assert reader.unread_bytes() == 0


@pytest.mark.parametrize(
    "name",
    [
        "00000001 (copy).ctj",
        "x.ctj",
        "1.ctj",
        "\u00b2\u00b2.ctj",
        "9" * 20 + ".ctj",
        "\uff10" * 7 + "\uff12.ctj",
        ".ctj",
    ],
)
def test_files_that_are_no_segments_are_not_read(small, name):
    directory, written, segments = small
    restored(small)
    path = directory / name
    path.write_bytes(min(segments).read_bytes())
    try:
        reader = JournalReader(directory)
        assert reader.read().events[1:] == written
        assert reader.unread_bytes() == 0
        reader.drop_read_segments(0)
        reader.close()
    finally:
        path.unlink()


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo])
def test_what_was_read_before_a_directory_or_a_pipe_with_a_segments_name_is_given(small, put):
    directory, written, _ = small
    restored(small)
    path = directory / "00000099.ctj"
    put(path)
    try:
        reader = JournalReader(directory)
        assert reader.read().events[1:] == written
        with pytest.raises(JournalError, match=r"00000099\.ctj"):
            reader.read()
        reader.close()
    finally:
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_segment_of_another_journal_is_refused_until_it_is_moved_away(tmp_path):
    for name in ("a", "b"):
        writer = JournalWriter(tmp_path, name, lambda n: Snapshot(n, 1, 0, (), ()), cap_bytes=1 << 30)
        writer.append([Step(0, 10, 15, (), ((1, 1),), ((1, 1, 1),))])
        writer.close()
    theirs, ours = (tmp_path / "journal" / name / "00000001.ctj" for name in ("a", "b"))
    strange = ours.with_name("00000002.ctj")
    strange.write_bytes(theirs.read_bytes())
    for owner in ("b", ""):
        reader = JournalReader(ours.parent, engine_id=owner)
        assert isinstance(reader.read().events[1], Step)
        for _ in range(2):
            with pytest.raises(JournalError, match=r"00000002\.ctj belongs to the journal of 'a'"):
                reader.read()
        strange.rename(tmp_path / "away")
        assert reader.read().events == []
        (tmp_path / "away").rename(strange)
        reader.close()
    with pytest.raises(JournalError, match="belongs to the journal of 'a'"):
        JournalReader(theirs.parent, engine_id="a (copy)").read()
    assert JournalReader(theirs.parent).read().events, "whoever names no owner reads any journal"


def test_a_segment_that_is_cut_to_nothing_is_gone_on_with(tmp_path):
    writer = JournalWriter(tmp_path, "e", lambda n: Snapshot(n, 1, 0, (), ()), cap_bytes=1 << 30)
    reader, seen = JournalReader(tmp_path / "journal" / "e"), []
    for n in range(4):
        writer.append([Step(n, n * 10, n * 10 + 5, (), ((n, 1),), ((n, 1, 1),))])
        seen += reader.read().events
        if n == 1:
            os.truncate(tmp_path / "journal" / "e" / "00000001.ctj", 0)
            assert reader.read().events == []
    writer.close()
    assert [event.index for event in seen if isinstance(event, Step)] == [0, 1, 2, 3]
    assert not any(isinstance(event, Lost) for event in seen)


def long_journal(home):
    """A journal of twelve steps in several segments; its directory."""
    writer = JournalWriter(home, "e", lambda n: Snapshot(n, 1, 0, (), ()), cap_bytes=1 << 30, segment_bytes=500)
    for n in range(12):
        writer.append([Step(n, n * 10, n * 10 + 5, (), ((n, 1),), ((n, 1, 1),) * 20)])
    writer.close()
    assert len(list((home / "journal" / "e").glob("*.ctj"))) >= 3
    return home / "journal" / "e"


def test_an_error_behind_some_segments_costs_none_of_their_events(tmp_path, monkeypatch):
    reader, steps, problems, opened = JournalReader(long_journal(tmp_path)), [], [], os.open

    def open_but_the_second_once(path, *args, **kwargs):
        if str(path).endswith("00000002.ctj") and not problems:
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_but_the_second_once)
    while batch := attempt(reader, problems):
        steps += [event.index for event in batch if isinstance(event, Step)]
    assert steps == list(range(12))
    (problem,) = problems
    assert "Raise the limit of open files" in problem


def attempt(reader, problems):
    """The events of one read; after an error, those of the next."""
    try:
        return reader.read().events
    except JournalError as error:
        problems.append(str(error))
        return reader.read().events


def test_a_newer_schema_behind_some_segments_costs_none_of_their_events(tmp_path):
    directory = long_journal(tmp_path)
    path = directory / "00000002.ctj"
    head = frames.unpack(path.read_bytes(), 0)
    newer = msgspec.structs.replace(head.events[0], schema=JOURNAL_SCHEMA + 1)
    before = path.read_bytes()
    path.write_bytes(frames.pack(-1, [newer, *head.events[1:]]) + before[head.end :])
    reader = JournalReader(directory)
    read = [event.index for event in reader.read().events if isinstance(event, Step)]
    for _ in range(2):
        with pytest.raises(SchemaTooNew):
            reader.read()
    path.write_bytes(before)
    read += [event.index for event in reader.read().events if isinstance(event, Step)]
    assert read == list(range(12))


def test_a_reader_without_descriptors_reads_the_head_that_it_needs_later(tmp_path, monkeypatch):
    directory = long_journal(tmp_path)
    first = JournalReader(directory)
    position = first.read(3).position
    assert position.offset
    reader, read_bytes = JournalReader(directory, position), Path.read_bytes

    def no_descriptor(path):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(Path, "read_bytes", no_descriptor)
    with pytest.raises(JournalError, match="Raise the limit of open files"):
        reader.read()
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    reader.read()
    assert reader.header is not None
    assert reader.header.engine_id == "e"


def forged(length, first):
    """A client's id that begins with *first*, whose bytes in a journal are a whole frame: magic, length and checksum.

    ``\xc7`` is the last byte of the text's length before it. *length*: of the text in bytes.
    """
    for salt in range(100_000):
        payload = f"{salt:0100d}".encode()
        head = struct.pack("<II", len(payload), zlib.crc32(payload))
        with contextlib.suppress(UnicodeDecodeError):
            return (first + head + payload).ljust(length, b"x").decode()
    raise AssertionError("no checksum that is text")


@pytest.mark.parametrize(
    ("length", "first"),
    [(0xC7, b"\x05"), (0xC705, b"")],
    ids=["of 199 bytes from U+0005 on", "of 50,949 bytes"],
)
def test_nothing_that_a_client_writes_looks_like_a_frame(length, first):
    text = forged(length, first)
    assert len(text.encode()) == length
    as_it_is = msgspec.msgpack.encode([text])
    assert frames._next_frame(as_it_is, 0) is not None, "it is a frame unless something is done"
    added = SequenceAdded(1, 2, text, "r", "k", "p", 3, "m", "ant", "header")
    data = frames.pack(7, [added, Step(0, 1, 2)])
    assert frames._next_frame(data, 1) is None
    read = frames.unpack(data, 0)
    assert read.first_sequence == 7
    assert read.events[1] == Step(0, 1, 2)
    assert len(read.events[0].sequence_id) <= 273


def test_ids_that_look_like_frames_cost_no_more_work_than_others(monkeypatch):
    checked = []
    monkeypatch.setattr(frames.zlib, "crc32", lambda data: checked.append(len(data)) or 0)
    # Packed, its length (199) and first character are the magic; then comes a length of 98,175 bytes.
    crafted = "\x05\x7f\x7f\x01\x00" + "x" * 194
    assert frames.MAGIC in msgspec.msgpack.encode(crafted)
    added = [SequenceAdded(n, 2, crafted, "r", "k", "p", 3, "m", "ant", "header") for n in range(1_000)]
    data = frames.pack(0, added)
    assert sum(checked) <= 3 * len(data)
    assert frames.MAGIC not in data[2:]


def test_a_frame_that_could_not_be_read_back_is_not_written():
    step = Step(0, 1, 2, tuple(range(1 << 32, (1 << 32) + 8_000_000)))
    with pytest.raises(ValueError, match=r"1 events of 72,000,0\d\d bytes: a frame holds 67,108,864"):
        frames.pack(0, [step])


def test_three_ids_of_23_megabytes_are_cut_before_they_are_lost():
    text = "x" * 23_000_000
    data = frames.pack(0, [SequenceAdded(1, 2, text, text, "k", text, 3, "m", "ant", "header")])
    assert len(data) < 2_000
    assert frames.unpack(data, 0).events[0].request_id == short(text)
