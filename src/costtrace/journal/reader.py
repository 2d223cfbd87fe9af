"""The agent's side of the journal: follow it from a stored position, through rotation, damage and loss."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import NamedTuple

from costtrace.core.clock import Anchor
from costtrace.core.errors import JournalError, SchemaTooNew
from costtrace.core.events import JOURNAL_SCHEMA, AnyEvent, Lost, Position, SegmentHeader, Snapshot
from costtrace.journal import frames
from costtrace.journal.writer import LOCK_NAME, SEGMENT_SUFFIX, segment_path

READ_BYTES = 1024 * 1024
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class EventBatch(NamedTuple):
    """Events in order, and the position after them."""

    events: list[AnyEvent]
    position: Position
    anchor: Anchor | None
    """From the newest segment header in this batch; None: the batch has none."""


class JournalReader:
    """Reads one engine's journal, a batch at a time; never blocks, never changes a file."""

    def __init__(self, directory: Path, position: Position = Position()) -> None:  # noqa: B008 - immutable
        self.directory = directory
        self.engine_id = directory.name
        self.position = position
        self.header: SegmentHeader | None = None
        self._file = -1
        self._file_segment = 0
        self._snapshot: Snapshot | None = None
        """The snapshot at the head of the present segment."""
        self._resumed = False

    def read(self, max_events: int = 20_000) -> EventBatch:
        """The next events, about *max_events* at most; empty where there are none yet.

        A stretch that cannot be read becomes a `Lost` event, followed by the `Snapshot` from which reading goes on.
        Raises: SchemaTooNew, JournalError (unreadable file).
        """
        self._resume()
        events: list[AnyEvent] = []
        anchor: Anchor | None = None
        try:
            while len(events) < max_events:
                data, base = self._bytes()
                start = 0
                while (frame := frames.unpack(data, start)) is not None and len(events) < max_events:
                    if isinstance(frame, frames.Damage):
                        self._lose(events, f"journal damaged: {frame.why}")
                    else:
                        anchor = self._take(frame, events) or anchor
                    start = frame.end
                    self.position = self.position._replace(offset=base + start)
                if start == 0 and not self._next_segment(events, torn=len(data) > 0):
                    break
        except JournalError:
            if not events:
                raise
            # The position is after these events: they are handed over first, the next call meets the error again.
        return EventBatch(events, self.position, anchor)

    def writer_gone(self) -> bool:
        """True where no process holds the writer's lock: nothing more will be written."""
        try:
            lock = os.open(self.directory / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise _unreadable(self.directory, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(lock)

    def drop_read_segments(self, before_s: float) -> None:
        """Delete segments that lie wholly before the position and were last written before *before_s* (epoch)."""
        for path in self._seen_segments():
            with contextlib.suppress(OSError):
                if int(path.stem) < self.position.segment and path.stat().st_mtime < before_s:
                    path.unlink()

    def unread_bytes(self) -> int:
        """Bytes of the journal after the position."""
        total = 0
        for path in self._seen_segments():
            number = int(path.stem)
            if number >= self.position.segment:
                with contextlib.suppress(OSError):
                    size = path.stat().st_size
                    total += size - (self.position.offset if number == self.position.segment else 0)
        return total

    def close(self) -> None:
        """Close the open segment."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _segments(self) -> list[Path]:
        try:
            # Not `Path.glob`: it shows a directory without read permission as an empty one.
            return sorted(path for path in self.directory.iterdir() if path.suffix == SEGMENT_SUFFIX)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self.directory, error) from error

    def _seen_segments(self) -> list[Path]:
        """The segments; none where the directory cannot be read. For chores, which must not fail."""
        with contextlib.suppress(JournalError):
            return self._segments()
        return []

    def _bytes(self) -> tuple[bytes, int]:
        if self.position.segment == 0:
            return b"", 0
        try:
            if self._file_segment != self.position.segment or self._file < 0:
                self.close()
                self._file = os.open(segment_path(self.directory, self.position.segment), os.O_RDONLY | os.O_CLOEXEC)
                self._file_segment = self.position.segment
            want = READ_BYTES
            while True:
                data = os.pread(self._file, want, self.position.offset)
                # The frame is larger than the buffer: read more, up to the end of the file.
                if len(data) == want and frames.unpack(data, 0) is None:
                    want *= 4
                    continue
                return data, self.position.offset
        except FileNotFoundError:
            return b"", self.position.offset
        except OSError as error:
            raise _unreadable(segment_path(self.directory, self.position.segment), error) from error

    def _next_segment(self, events: list[AnyEvent], *, torn: bool) -> bool:
        """Go on to the next segment if there is one and this one has been read to its end."""
        later = [int(path.stem) for path in self._segments() if int(path.stem) > self.position.segment]
        if not later:
            return False
        # The writer may have added to this segment before it began the next: read once more.
        data, _ = self._bytes()
        if data and frames.unpack(data, 0) is not None:
            return True
        if torn and data:
            self._lose(events, "journal torn")
        self.close()
        self._snapshot = None
        self.position = self.position._replace(segment=later[0], offset=0)
        return True

    def _resume(self) -> None:
        """Read again the segment's head, which lies before the position that this reader begins at."""
        if self._resumed:
            return
        if self.position.offset == 0:
            self._resumed = True
            return
        try:
            data = segment_path(self.directory, self.position.segment).read_bytes()[: self.position.offset]
            head = frames.unpack(data, 0)
            if isinstance(head, frames.Damage):
                head = frames.unpack(data, head.end)
            if isinstance(head, frames.Frame) and isinstance(head.events[0], SegmentHeader):
                self.header = head.events[0]
                self._snapshot = _snapshot_of(head)
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:  # it passes, and without the head later damage costs more
                raise _unreadable(self.directory, error) from error
        self._resumed = True

    def _take(self, frame: frames.Frame, events: list[AnyEvent]) -> Anchor | None:
        first = frame.events[0] if frame.events else None
        if isinstance(first, SegmentHeader):
            return self._take_header(first, frame, events)
        if frame.first_sequence > self.position.sequence and not self.position.damaged:
            self._lose(events, "records missing in the journal")
        sequence = frame.first_sequence
        taken = frame.events
        if self.position.damaged:
            taken = self._after_snapshot(sequence, taken)
        events.extend(taken)
        self.position = self.position._replace(sequence=sequence + len(frame.events))
        return None

    def _take_header(self, header: SegmentHeader, frame: frames.Frame, events: list[AnyEvent]) -> Anchor:
        if header.schema > JOURNAL_SCHEMA:
            raise SchemaTooNew(
                f"the journal {self.directory} has schema {header.schema}, this costtrace reads up to "
                f"{JOURNAL_SCHEMA}. Update costtrace-core where the agent runs; nothing is lost meanwhile."
            )
        self.header = header
        why = "damage before this segment"
        if header.segment > 1 and header.first_sequence > self.position.sequence and not self.position.damaged:
            why = "records missing in the journal (a full disk, or its cap)"
            self.position = self.position._replace(damaged=True)
        if header.segment == 1:
            events.append(header)
        elif self.position.damaged:
            # `EngineStarted` may be among what is missing: each segment repeats it at its head.
            repeated = [event for event in frame.events[1:] if not isinstance(event, Snapshot)]
            events += [header, *repeated[:1], Lost(0, -1, -1, why), *repeated[1:]]
        self._snapshot = _snapshot_of(frame)
        return Anchor(header.monotonic_ns, header.wall_ns)

    def _lose(self, events: list[AnyEvent], why: str) -> None:
        if not self.position.damaged:
            events.append(Lost(0, -1, -1, why))
        self.position = self.position._replace(damaged=True)

    def _after_snapshot(self, sequence: int, events: list[AnyEvent]) -> list[AnyEvent]:
        """What can be used of a frame after damage: the snapshot, if its place is in it, and what follows."""
        snapshot = self._snapshot
        if snapshot is None or not sequence <= snapshot.sequence <= sequence + len(events):
            return []
        self.position = self.position._replace(damaged=False)
        return [snapshot, *events[snapshot.sequence - sequence :]]


def _snapshot_of(head: frames.Frame) -> Snapshot | None:
    return next((event for event in head.events if isinstance(event, Snapshot)), None)


def _unreadable(path: Path, error: OSError) -> JournalError:
    remedy = "The agent must run as the engine's user, or as one who can read its files."
    if error.errno in OUT_OF_DESCRIPTORS:
        remedy = "Raise the limit of open files (`ulimit -n`, or `LimitNOFILE` of the systemd unit)."
    return JournalError(f"cannot read {path}: {error.strerror}. {remedy}")
