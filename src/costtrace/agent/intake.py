"""Follow the journals of a home into a `Pipeline`: what has been recorded becomes rows."""

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from costtrace.agent.remote_sensors import RemoteSensors
from costtrace.attribution.pipeline import Pipeline
from costtrace.core import clock
from costtrace.core.errors import JournalError
from costtrace.core.events import SENSORS, EngineStarted, Position, Reading, SegmentHeader, Sensed
from costtrace.core.units import NS_PER_S
from costtrace.journal.reader import JournalReader

HOLD_NS = 5 * NS_PER_S
"""How long a journal that has begun and not yet said whose devices it has can hold the others back."""
EVENTS_PER_TURN = 20_000
STILLBORN_S = 60.0
"""A journal that nobody writes and that holds nothing was given up by its engine, once it is this old."""


class Turn(NamedTuple):
    """What one turn did."""

    events: int
    behind: bool
    """More is waiting: turn again at once."""
    changed: bool = False
    """There is something to book: events were read, time was attributed, or an engine has ended."""


class Intake:
    """Reads all journals below a home, turn by turn. Holds no state that is not in the node or in `positions`."""

    def __init__(
        self,
        home: Path,
        node: Pipeline,
        positions: dict[str, tuple[Position, bool]],
        remote_homes: Sequence[Path] = (),
    ) -> None:
        self.node = node
        self.readers: dict[str, JournalReader] = {}
        self.sensor_readers: dict[str, JournalReader] = {}
        """Of the journals that agents' sensors write: they have no engine."""
        self.problems: dict[str, str] = {}
        """Journals that cannot be read, and why."""
        # A list of all nodes' homes may be the same on each of them.
        self.remote = RemoteSensors(
            [each for each in remote_homes if each.resolve() != home.resolve()], node, positions
        )
        self._root = home / "journal"
        self._known = positions
        self._boot_id = clock.boot_id()
        self._scan_ns = 0
        self._held: dict[str, tuple[int, int]] = {}
        """Journals without their engine's beginning: (scan before they were found, when found)."""
        self.lag_bytes = 0
        """Journal that had not been read when the turn ended."""

    def turn(self) -> Turn:
        """Find journals, read what is new in each, attribute what is known."""
        before_ns, self._scan_ns = self._scan_ns, time.monotonic_ns()
        self._discover(before_ns)
        events = 0
        behind = False
        open_before = self._open()
        sensed = self._read_sensors()
        sensed += self.remote.turn(self._boot_id, EVENTS_PER_TURN, self.problems)
        for engine_id, reader in list(self.readers.items()):
            try:
                count, more = self._read(engine_id, reader)
            except JournalError as error:
                self.problems[engine_id] = str(error)
                continue
            self.problems.pop(engine_id, None)
            events += count
            behind = behind or more
        self.lag_bytes = sum(reader.unread_bytes() for reader in self.readers.values()) if behind else 0
        attributed = self.node.sweep(self._limit_ns(), self._boot_id)
        for boot_id in {e.header.boot_id for e in self.node.engines.values()} - {self._boot_id}:
            attributed += self.node.sweep(1 << 62, boot_id)
        return Turn(events, behind, changed=bool(events or sensed or attributed or self._open() != open_before))

    def delay_ns(self) -> int:
        """Age of the oldest thing that has not been read or attributed, of the engines that live."""
        seen = [e.timeline.seen_ns for e in self.node.engines.values() if e.timeline.seen_ns and not e.ended]
        return max(0, time.monotonic_ns() - min(seen)) if seen else 0

    def finish(self, engine_id: str) -> None:
        """An engine is done with: its journal will not be looked at again."""
        reader = self.readers.pop(engine_id)
        self._known[engine_id] = (reader.position, True)
        reader.close()

    def drop_finished(self, before_s: float) -> None:
        """Delete the journals of engines that are done with and were last written before *before_s* (epoch)."""
        for engine_id, (_, done) in self._known.items():
            directory = self._root / engine_id
            with contextlib.suppress(OSError):
                if done and directory.stat().st_mtime < before_s:
                    shutil.rmtree(directory)

    def alive(self) -> bool:
        """True while a journal is still being written, or not read to its end."""
        return bool(self.readers)

    def _open(self) -> int:
        return sum(not engine.ended for engine in self.node.engines.values())

    def _discover(self, before_ns: int) -> None:
        try:
            found = sorted(path.name for path in self._root.iterdir() if path.is_dir())
        except FileNotFoundError:
            return
        for name in found:
            position, done = self._known.get(name, (Position(), False))
            if done or name in self.readers or name in self.sensor_readers:
                continue
            if name.startswith(f"{SENSORS}-"):
                self.sensor_readers[name] = JournalReader(self._root / name, position)
                continue
            self.readers[name] = JournalReader(self._root / name, position)
            if name not in self.node.engines:
                self._held[name] = (before_ns, self._scan_ns)

    def _read_sensors(self) -> int:
        """Hand the sensors' readings to the node, before the engines' events of the same time."""
        count = 0
        for name, reader in self.sensor_readers.items():
            try:
                batch = reader.read(EVENTS_PER_TURN)
            except JournalError as error:
                self.problems[name] = str(error)
                continue
            self.problems.pop(name, None)
            boot_id = reader.header.boot_id if reader.header is not None else self._boot_id
            for event in batch.events:
                if isinstance(event, Sensed):
                    self.node.device_seen(boot_id, event)
            readings = [event for event in batch.events if isinstance(event, Reading)]
            for reading in readings:
                self.node.reading(boot_id, reading)
            count += len(readings)
        return count

    def finished_sensors(self) -> list[str]:
        """Sensors' journals that have been read to their end and that nobody writes any more."""
        found = []
        for name, reader in self.sensor_readers.items():
            with contextlib.suppress(JournalError):
                if reader.writer_gone() and not reader.unread_bytes():
                    found.append(name)
        return found

    def finish_sensors(self, names: list[str]) -> None:
        """These have been booked: they will not be looked at again."""
        for name in names:
            reader = self.sensor_readers.pop(name)
            self._known[name] = (reader.position, True)
            reader.close()

    def _read(self, engine_id: str, reader: JournalReader) -> tuple[int, bool]:
        # Looked at before reading: if nobody writes any more, what is read now is all there will be.
        gone = reader.writer_gone()
        batch = reader.read(EVENTS_PER_TURN)
        for event in batch.events:
            if isinstance(event, SegmentHeader):
                self.node.add(engine_id, event)
            if engine_id in self.node.engines:
                self.node.take(engine_id, event)
            if isinstance(event, EngineStarted):
                self._held.pop(engine_id, None)
        more = len(batch.events) >= EVENTS_PER_TURN
        if gone and not batch.events:
            if engine_id in self.node.engines:
                self._held.pop(engine_id, None)
                self.node.end(engine_id)
            elif time.time() - reader.directory.stat().st_mtime > STILLBORN_S:
                # Not before: its writer may just be between making the directory and taking the lock.
                self._held.pop(engine_id, None)
                self.finish(engine_id)
        return len(batch.events), more or (gone and bool(batch.events))

    def _limit_ns(self) -> int:
        """Until when it is certain that no unknown engine had a device."""
        limit = self._scan_ns
        for before_ns, found_ns in self._held.values():
            if before_ns and self._scan_ns - found_ns < HOLD_NS:
                limit = min(limit, before_ns)
        return limit
