"""The agent's side of the journal: follow it from a stored position, through rotation, damage and loss."""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import NamedTuple

from costtrace.core import clock
from costtrace.core.clock import Anchor
from costtrace.core.errors import MORE_DESCRIPTORS, OUT_OF_DESCRIPTORS, JournalError, SchemaTooNew
from costtrace.core.events import JOURNAL_SCHEMA, AnyEvent, Lost, Position, SegmentHeader, Snapshot
from costtrace.journal import frames
from costtrace.journal.writer import LOCK_NAME, segment_path, segments_in

READ_BYTES = 1024 * 1024
GRACE_S = 10.0
"""How long a journal of this boot without a lock file is taken for one whose writer lives."""
COMES_AGAIN = "records that were read before come again"
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""Without waiting for a writer, where somebody has put a pipe."""


class EventBatch(NamedTuple):
    """Events in order, and the position after them."""

    events: list[AnyEvent]
    position: Position
    anchor: Anchor | None
    """From the newest segment header in this batch; None: the batch has none."""


class JournalReader:
    """Reads one engine's journal, a batch at a time; never blocks, never changes a file."""

    def __init__(self, directory: Path, position: Position = Position(), engine_id: str = "") -> None:  # noqa: B008 - immutable
        """*engine_id*: whose journal it must be; '' for any."""
        self.directory = directory
        self._engine_id = engine_id
        self.position = position
        self.header: SegmentHeader | None = None
        self._file = -1
        self._file_segment = 0
        self._snapshot: Snapshot | None = None
        """The snapshot at the head of the present segment."""
        self._resumed = False
        self._lock_seen_s = -GRACE_S
        self.strays: set[int] = set()
        """Numbers of files that begin before the position, or nowhere: copies, or out of their order. Not read."""

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
        """True where no process holds the writer's lock: nothing more will be written, unless it `may_live`."""
        try:
            lock = os.open(self.directory / LOCK_NAME, _READ)
            self._lock_seen_s = time.monotonic()
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

    def may_live(self) -> bool:
        """Whether the lock was deleted under a writer, which makes it again in a second or two, if it lives."""
        self._resume()
        if self.header is None or self.header.boot_id != clock.boot_id() or (self.directory / LOCK_NAME).exists():
            return False
        written_s = 0.0
        with contextlib.suppress(OSError):
            written_s = max((path.stat().st_mtime for path in self._seen_segments().values()), default=0.0)
        return time.time() - written_s < GRACE_S or time.monotonic() - self._lock_seen_s < GRACE_S

    def drop_read_segments(self, before_s: float) -> None:
        """Delete segments that lie wholly before the position and were last written before *before_s* (epoch)."""
        for number, path in self._seen_segments().items():
            with contextlib.suppress(OSError):
                if number < self.position.segment and path.stat().st_mtime < before_s:
                    path.unlink()

    def unread_bytes(self) -> int:
        """Bytes of the journal after the position."""
        total = 0
        for number, path in self._seen_segments().items():
            if number >= self.position.segment and number not in self.strays:
                with contextlib.suppress(OSError):
                    size = path.stat().st_size
                    total += size - (self.position.offset if number == self.position.segment else 0)
        return total

    def close(self) -> None:
        """Close the open segment."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _segments(self) -> dict[int, Path]:
        try:
            return segments_in(self.directory)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _unreadable(self.directory, error) from error

    def _seen_segments(self) -> dict[int, Path]:
        """The segments; none where the directory cannot be read. For chores, which must not fail."""
        with contextlib.suppress(JournalError):
            return self._segments()
        return {}

    def _bytes(self) -> tuple[bytes, int]:
        if self.position.segment == 0:
            return b"", 0
        try:
            if self._file_segment != self.position.segment or self._file < 0:
                self.close()
                self._file = os.open(segment_path(self.directory, self.position.segment), _READ)
                self._file_segment = self.position.segment
            want = READ_BYTES
            while True:
                data = os.pread(self._file, want, self.position.offset)
                if not data:  # where the file was cut, its writer goes on at the new end
                    end = min(self.position.offset, os.fstat(self._file).st_size)
                    self.position = self.position._replace(offset=end)
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
        later = [number for number in self._segments() if number > self.position.segment]
        number = next((each for each in later if self._continues(each)), 0)
        if not number:
            return False
        # The writer may have added to this segment before it began the next: read once more.
        data, _ = self._bytes()
        if data and frames.unpack(data, 0) is not None:
            return True
        if torn and data:
            self._lose(events, "journal torn")
        self.close()
        self._snapshot = None
        self.position = self.position._replace(segment=number, offset=0)
        return True

    def _continues(self, number: int) -> bool:
        """Whether reading goes on with that segment: not with what begins before the position. Raises: JournalError."""
        path = segment_path(self.directory, number)
        try:
            file = os.open(path, _READ)
            try:
                data = os.pread(file, READ_BYTES, 0)
            finally:
                os.close(file)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unreadable(path, error) from error
        head = frames.unpack(data, 0)
        if isinstance(head, frames.Frame) and head.events and isinstance(header := head.events[0], SegmentHeader):
            self._check_owner(header, path)
            continues = header.first_sequence >= self.position.sequence
        else:
            # Of the next segment nothing else is known. One further on is useless without its head.
            continues = number == self.position.segment + 1 or len(data) == READ_BYTES
        (self.strays.discard if continues else self.strays.add)(number)
        return continues

    def _check_owner(self, header: SegmentHeader, path: Path) -> None:
        owner = self._engine_id or (header if self.header is None else self.header).engine_id
        if header.engine_id != owner:
            self.close()  # it may be moved away, and another put in its place
            raise JournalError(
                f"{path} belongs to the journal of {header.engine_id[:64]!r}: a copy is not billed again. Move it "
                "away or, if it is none, give its directory that name."
            )

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
            if isinstance(head, frames.Frame) and head.events and isinstance(head.events[0], SegmentHeader):
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
        if frame.first_sequence < self.position.sequence:
            self._lose(events, COMES_AGAIN)
            return None
        if frame.first_sequence > self.position.sequence and not self.position.damaged:
            self._lose(events, "records missing in the journal")
        sequence = frame.first_sequence
        taken = frame.events
        if self.position.damaged:
            taken = self._after_snapshot(sequence, taken)
        events.extend(taken)
        self.position = self.position._replace(sequence=sequence + len(frame.events))
        return None

    def _take_header(self, header: SegmentHeader, frame: frames.Frame, events: list[AnyEvent]) -> Anchor | None:
        if header.schema > JOURNAL_SCHEMA:
            raise SchemaTooNew(
                f"the journal {self.directory} has schema {header.schema}, this costtrace reads up to "
                f"{JOURNAL_SCHEMA}. Update costtrace-core where the agent runs; nothing is lost meanwhile."
            )
        self._check_owner(header, segment_path(self.directory, self.position.segment))
        if header.first_sequence < self.position.sequence:
            # The position stays: from the snapshot here, what is booked would be booked once more.
            self._lose(events, COMES_AGAIN)
            self._snapshot = None
            return None
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
        remedy = MORE_DESCRIPTORS
    return JournalError(f"cannot read {path}: {error.strerror}. {remedy}")
