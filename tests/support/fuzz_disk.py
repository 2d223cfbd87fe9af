"""Fuzz targets: what a disk gives back. Journals with damage of every kind, and an agent that reads them."""

import contextlib
import shutil
import struct
import zlib
from collections import Counter
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import msgspec
from balance import books_in, check_open, lines, opened
from costtrace_lab.engines.engine import JournalEngine
from costtrace_lab.engines.schedules import Profile, RandomEngine
from hypothesis import strategies as st
from mutations import damaged

from costtrace.agent.loop import Agent
from costtrace.config.settings import Settings
from costtrace.core.errors import CosttraceError
from costtrace.core.events import AnyEvent, EngineReady, EngineStarted, Lost, SegmentHeader, Snapshot
from costtrace.journal import frames
from costtrace.journal.reader import JournalReader

ROUNDS = 40
DAMAGE = ("flip", "copy", "over", "swap", "double", "empty", "gone", "odd")
_OF_THE_READER = (Lost, Snapshot, SegmentHeader, EngineStarted, EngineReady)
"""Events that a reader adds, or takes from the head of a segment, where it goes on after damage."""


@lru_cache
def _journals() -> tuple[Path, dict[str, bytes], Counter[bytes]]:
    """A home with the journals of the engines ``a`` and ``b``: its folder, a's segments, and a's events as bytes."""
    home = Path(mkdtemp(prefix="costtrace-fuzz-"))
    for seed, name in enumerate("ab"):
        engine = RandomEngine(seed, Profile(arrivals=1.0))
        JournalEngine(
            home, engine, speed=0, capacity=1 << 20, segment_bytes=4_000, engine_id=name, devices=(f"GPU-{name}",)
        ).run(rounds=ROUNDS)
    segments = {path.name: path.read_bytes() for path in sorted((home / "journal" / "a").glob("*.ctj"))}
    reader = JournalReader(home / "journal" / "a")
    events = []
    while batch := reader.read().events:
        events += batch
    reader.close()
    return home, segments, Counter(map(msgspec.msgpack.encode, events))


@st.composite
def _edited_frame(draw, data: bytes) -> bytes:
    """A segment in which one frame's content is edited and its checksum is right again."""
    whole, start = [], 0
    while isinstance(frame := frames.unpack(data, start), frames.Frame):
        whole.append((start, frame.end))
        start = frame.end
    if not whole:
        return data
    begin, end = draw(st.sampled_from(whole))
    content = msgspec.msgpack.decode(data[begin + frames.HEAD_BYTES : end])
    for _ in range(draw(st.integers(1, 3))):
        if len(content) < 2:
            break
        at = draw(st.integers(0, len(content) - 1))
        what = draw(st.sampled_from(["number", "field", "double", "drop", "swap"]))
        if what == "number":
            content[0] = draw(st.sampled_from([-1, 0, 1, 2**63, 2**64 - 1, content[0] - 1 if content[0] else 0]))
        elif what == "double":
            content.append(content[at])
        elif what == "drop" and at:
            del content[at]
        elif what == "swap":
            content[1:] = reversed(content[1:])
        elif isinstance(content[at], list) and content[at]:
            field = draw(st.integers(0, len(content[at]) - 1))
            content[at][field] = draw(
                st.sampled_from([-1, 2**63, 2**64 - 1, "", "x", [], [[1, 2]], [[1, 2], [1, 2]], 0, 1])
            )
    payload = msgspec.msgpack.encode(content)
    head = frames.MAGIC + struct.pack("<II", len(payload), zlib.crc32(payload))
    return data[:begin] + head + payload + data[end:]


@st.composite
def damaged_journals(draw, *kinds: str) -> dict[str, bytes]:
    """Files of a journal's folder: a's segments, to some of which one of *kinds* has happened."""
    files = dict(_journals()[1])
    names = sorted(files)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(names))
        what = draw(st.sampled_from(kinds))
        if name not in files:
            continue
        if what == "flip":
            files[name] = draw(damaged(files[name]))
        elif what == "edit":
            files[name] = draw(_edited_frame(files[name]))
        elif what == "copy":
            files[f"{name[:8]} (copy).ctj"] = files[name]
        elif what == "over":
            files[draw(st.sampled_from(names))] = files[name]
        elif what == "swap":
            other = draw(st.sampled_from([one for one in names if one in files]))
            files[name], files[other] = files[other], files[name]
        elif what == "double":
            files[name] += files[name]
        elif what == "empty":
            files[name] = b""
        elif what == "gone":
            del files[name]
        else:
            odd = draw(
                st.sampled_from(["x.ctj", "1.ctj", "00000099.ctj", "99999999999999999999.ctj", "\u00b2\u00b2.ctj"])
            )
            files[odd] = files[name]
    return files


def frame(data, folder):
    """Reading goes from frame to frame to the end, and a frame that was read can be written."""
    del folder
    start = 0
    while start < len(data) and (one := frames.unpack(data, start)) is not None:
        assert one.end > start
        start = one.end
        if isinstance(one, frames.Frame):
            again = frames.unpack(frames.pack(one.first_sequence, one.events), 0)
            assert isinstance(again, frames.Frame)
            assert again.events == one.events


@st.composite
def _framed(draw) -> bytes:
    """Any msgpack in a frame with the right checksum, whole frames, and rubbish, one after the other."""
    out = b""
    leaf = st.one_of(st.integers(-(2**63), 2**64 - 1), st.text(max_size=3), st.none(), st.binary(max_size=3))
    tree = st.recursive(leaf, lambda inner: st.lists(inner, max_size=5), max_leaves=12)
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["tree", "events", "rubbish", "segment"]))
        if kind == "rubbish":
            out += draw(st.binary(max_size=30))
        elif kind == "segment":
            out += draw(damaged(draw(st.sampled_from(list(_journals()[1].values())))))
        else:
            content = draw(st.lists(tree, max_size=4)) if kind == "tree" else [3, *draw(_loose_events())]
            payload = msgspec.msgpack.encode(content)
            out += frames.MAGIC + struct.pack("<II", len(payload), zlib.crc32(payload)) + payload
    return out


def _loose_events():
    field = st.one_of(st.integers(-2, 5), st.sampled_from([2**63, 2**64 - 1, "", "a", [], [[1, 2]], [[1, 2, 3]], {}]))
    return st.lists(st.tuples(st.integers(0, 18), st.lists(field, max_size=8)).map(lambda e: [e[0], *e[1]]), max_size=4)


def journal(files, folder):
    """A damaged journal is read to its end: no exception but ours, no event twice, none that was never written."""
    _replace(folder, files)
    reader = JournalReader(folder)
    seen: list[AnyEvent] = []
    try:
        for _ in range(10_000):
            batch = reader.read(500).events
            if not batch:
                break
            seen += batch
        else:
            raise AssertionError("reading does not end")
    except CosttraceError:
        pass
    finally:
        reader.close()
    read = Counter(msgspec.msgpack.encode(event) for event in seen if not isinstance(event, _OF_THE_READER))
    extra = read - _journals()[2]
    assert not extra, list(extra)[:3]


def agent(files, folder):
    """One engine's damaged journal: the agent ends, the other engine's bill is whole, and all books balance."""
    check_open(books_in(_billed(files, folder)))


def forged(files, folder):
    """As `agent`, with frames that were changed and given a right checksum: that engine's own bill may be wrong."""
    _billed(files, folder)


def _billed(files, folder):
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(_journals()[0], home)
    _replace(home / "journal" / "a", files)
    Agent(Settings(home=home, sensor="none")).run_once()
    assert _bill(home, "b") == _whole_bill()
    return home


@lru_cache
def _whole_bill():
    home = Path(mkdtemp(prefix="costtrace-fuzz-"))
    shutil.rmtree(home)
    shutil.copytree(_journals()[0], home)
    Agent(Settings(home=home, sensor="none")).run_once()
    return _bill(home, "b")


def _bill(home, engine_id):
    with contextlib.closing(opened(home)) as ledger:
        numbers = {"posting_id", "usage_id", "meter_id"}
        return [
            [
                {key: value for key, value in row.items() if key not in numbers}
                for row in lines(ledger, table)
                if row["engine_id"] == engine_id
            ]
            for table in ("posting", "usage", "meter")
        ]


def _replace(folder, files):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


DISK_TARGETS = {
    "frame": (_framed(), frame),
    "journal": (damaged_journals(*DAMAGE), journal),
    "agent": (damaged_journals(*DAMAGE), agent),
    "agent-forged": (damaged_journals("edit", "edit", *DAMAGE), forged),
}
