"""The engine's side of the journal: append frames, rotate segments, survive a full disk, stay under a cap."""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from costtrace.core import clock
from costtrace.core.errors import JournalError
from costtrace.core.events import JOURNAL_SCHEMA, EngineReady, EngineStarted, Event, Lost, SegmentHeader, Snapshot, Step
from costtrace.core.guard import log, swallow
from costtrace.core.units import NS_PER_S
from costtrace.journal import frames

SEGMENT_BYTES = 8 * 1024 * 1024
SEGMENT_NS = 300 * NS_PER_S
WARN_NS = 60 * NS_PER_S
BACKLOG_BYTES = 16 * 1024 * 1024
"""What may wait in memory while the disk cannot be written."""
LOCK_NAME = "writer.lock"
LOCK_TRIES = 20
LOCK_PAUSE_S = 0.01
SEGMENT_SUFFIX = ".ctj"


def new_engine_id(engine: str) -> str:
    """A unique name for a journal: the engine, the time in ms (hex, so that names sort by it), the pid."""
    return f"{engine}-{time.time_ns() // 1_000_000:x}-{os.getpid()}-{secrets.token_hex(2)}"


def segment_path(directory: Path, number: int) -> Path:
    """Path of segment *number* of a journal."""
    return directory / f"{number:08d}{SEGMENT_SUFFIX}"


class JournalWriter:
    """Appends events to one engine's journal. Used by one thread.

    Only the constructor raises (JournalError). What cannot be written waits in a bounded backlog; what does not fit
    there is counted, and recorded with a `Lost` event as soon as writing works again.

    *snapshot*: gives, for a sequence number, the state that a reader goes on from at the head of a segment.
    *fsync* False: the kernel decides when to write to the disk; a crash of the host may take the last seconds.
    """

    def __init__(
        self,
        home: Path,
        engine_id: str,
        snapshot: Callable[[int], Snapshot],
        *,
        cap_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        version: str = "",
        fsync: bool = True,
    ) -> None:
        self.directory = home / "journal" / engine_id
        self.engine_id = engine_id
        self.lost_events = 0
        self._snapshot = snapshot
        self._cap_bytes = cap_bytes
        self._segment_bytes = segment_bytes
        self._version = version
        self._fsync = fsync
        self._sequence = 0
        self._segment = 0
        self._file = -1
        self._size = 0
        self._head_bytes = 0
        self._full = False
        """The next frame begins a new segment."""
        self._opened_ns = 0
        self._given_up = 0
        self._warned_ns = 0
        self._backlog: list[tuple[int, bytes]] = []
        self._backlog_bytes = 0
        self._lost_from_ns = 0
        self._lost_count = 0
        self._failing = ""
        self._begin: list[Event] = []
        """Events that every segment repeats at its head: the first segment may be missing for a reader."""
        try:
            for part in (home, home / "journal", self.directory):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.directory / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            self._take_lock()
        except OSError as error:
            raise JournalError(
                f"cannot write a journal in {self.directory}: {error.strerror}. "
                "Set COSTTRACE_HOME to a directory that this user can write."
            ) from error

    def append(self, events: Sequence[Event]) -> None:
        """Write *events* as one frame, now or as soon as the disk can be written again."""
        if not events:
            return
        self._begin += [event for event in events if isinstance(event, (EngineStarted, EngineReady))]
        if self._backlog_bytes > BACKLOG_BYTES:
            self._lose(events)
        else:
            packed = self._packed(self._sequence, events)
            self._backlog += packed
            self._backlog_bytes += sum(len(frame) for _, frame in packed)
        # Lost events use up their numbers too: the gap shows in the journal itself.
        self._sequence += len(events)
        self.flush()

    def _packed(self, first: int, events: Sequence[Event]) -> list[tuple[int, bytes]]:
        """Frames of *events*: one; more where a record that cannot be packed is among them, which becomes a `Lost`."""
        try:
            return [(first, frames.pack(first, events))]
        except Exception as error:  # noqa: BLE001 - one record must not cost the others
            half = len(events) // 2
            if half:
                return [*self._packed(first, events[:half]), *self._packed(first + half, events[half:])]
            swallow("journal.pack", error)
        self.lost_events += 1
        self._begin = [event for event in self._begin if event is not events[0]]
        if isinstance(events[0], Step):
            # Who entered or left with it is lost as well: its number is missing, and a reader goes on from a snapshot.
            self._full = True
            return []
        return [(first, frames.pack(first, [Lost(time.monotonic_ns(), 0, 1, "unwritable record")]))]

    def flush(self) -> bool:
        """Write the backlog. False while the disk cannot be written."""
        try:
            while self._backlog:
                sequence, frame = self._backlog[0]
                self._ensure_segment(sequence)
                self._write(frame)
                self._backlog_bytes -= len(frame)
                del self._backlog[0]
        except OSError as error:
            self._report_failure(error)
            return False
        self._report_recovery()
        return True

    def sync(self) -> None:
        """Put what is written on the disk, against a crash of the host. A crash of the process loses nothing."""
        if self._file >= 0 and self._fsync:
            with contextlib.suppress(OSError):
                os.fdatasync(self._file)

    def close(self) -> None:
        """Flush, sync and release the lock, by which a reader knows that nothing more comes."""
        self.flush()
        self.sync()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        os.close(self._lock)

    def _take_lock(self) -> None:
        # `JournalReader.writer_gone` holds the lock for an instant.
        for _ in range(LOCK_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(LOCK_PAUSE_S)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _write(self, frame: bytes) -> None:
        view = memoryview(frame)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            # A frame is whole or not there.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(frame)

    def _ensure_segment(self, first_sequence: int) -> None:
        now = time.monotonic_ns()
        # By what came after the head: a head with much in it would make each segment full as soon as it is begun.
        full = self._full or self._size - self._head_bytes >= max(self._segment_bytes, self._head_bytes)
        if self._file >= 0 and not full and now - self._opened_ns < SEGMENT_NS:
            return
        number = self._segment + 1
        head = self._header(number, first_sequence)
        path = segment_path(self.directory, number)
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        previous, previous_size, self._file, self._size = self._file, self._size, file, 0
        try:
            self._write(head)
        except OSError:
            os.close(file)
            with contextlib.suppress(OSError):
                path.unlink()
            self._file, self._size, self._full = previous, previous_size, True
            raise
        self._segment, self._opened_ns, self._head_bytes, self._full = number, now, len(head), False
        if previous >= 0:
            if self._fsync:
                with contextlib.suppress(OSError):
                    os.fdatasync(previous)
            os.close(previous)
        self._enforce_cap()

    def _header(self, number: int, first_sequence: int) -> bytes:
        anchor = clock.anchor()
        head: list[Event] = [
            SegmentHeader(
                schema=JOURNAL_SCHEMA,
                engine_id=self.engine_id,
                segment=number,
                first_sequence=first_sequence,
                host=clock.host_name(),
                boot_id=clock.boot_id(),
                pid=os.getpid(),
                monotonic_ns=anchor.monotonic_ns,
                wall_ns=anchor.wall_ns,
                writer=self._version,
            )
        ]
        if number > 1:
            head += self._begin
            try:
                # The state after all events so far, those that still wait in the backlog included: hence its number.
                return frames.pack(-1, [*head, self._snapshot(self._sequence)])
            except Exception as error:  # noqa: BLE001 - a reader without damage needs no snapshot
                swallow("journal.snapshot", error)
        return frames.pack(-1, head)

    def _enforce_cap(self) -> None:
        """Delete the oldest segments above the cap. The agent books the time that is missing as `unobserved`."""
        sizes = {}
        for path in sorted(self.directory.glob(f"*{SEGMENT_SUFFIX}")):
            with contextlib.suppress(FileNotFoundError):  # the agent deletes what it has read
                sizes[path] = path.stat().st_size
        total = sum(sizes.values())
        for path in list(sizes)[:-1]:
            if total <= self._cap_bytes:
                return
            total -= sizes[path]
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            self._given_up += 1
            now = time.monotonic_ns()
            if now - self._warned_ns < WARN_NS and self._warned_ns:
                continue
            self._warned_ns = now
            log.warning(
                "costtrace: the journal %s has reached its cap of %d bytes: %s is given up (%d segments so far). What "
                "no agent had read of it becomes `unobserved`. See that `costtrace agent` runs and keeps up, or raise "
                "COSTTRACE_JOURNAL_CAP_BYTES.",
                self.directory,
                self._cap_bytes,
                path.name,
                self._given_up,
            )

    def _lose(self, events: Sequence[Event]) -> None:
        self.lost_events += len(events)
        self._lost_count += len(events)
        if not self._lost_from_ns:
            self._lost_from_ns = time.monotonic_ns()

    def _report_failure(self, error: OSError) -> None:
        if not self._failing:
            self._failing = error.strerror or str(error)
            log.error(
                "costtrace: cannot write to the journal %s: %s. Serving goes on; up to %d MB wait in memory, and what "
                "does not fit becomes `unobserved` time. Free some space or set COSTTRACE_HOME to another disk.",
                self.directory,
                self._failing,
                BACKLOG_BYTES // 1024 // 1024,
            )

    def _report_recovery(self) -> None:
        if not self._failing:
            return
        log.warning("costtrace: the journal %s can be written again (it was: %s)", self.directory, self._failing)
        self._failing = ""
        if self._lost_from_ns:
            now = time.monotonic_ns()
            lost = Lost(now, -1, self._lost_count, "disk", from_ns=self._lost_from_ns, to_ns=now)
            self._lost_from_ns = self._lost_count = 0
            # Begin a new segment: a reader goes on from its snapshot.
            self._full = True
            self.append([lost])
