"""Follow the journals of a home into a `Pipeline`, where what has been recorded becomes rows."""

import contextlib
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from costtrace.agent.remote_sensors import RemoteSensors
from costtrace.attribution.pipeline import Pipeline
from costtrace.core import clock
from costtrace.core.client_text import is_cut
from costtrace.core.errors import JournalError, failing
from costtrace.core.events import SENSORS, DeviceSeen, EngineStarted, Position, Reading, SegmentHeader, SequenceAdded
from costtrace.core.units import NS_PER_S
from costtrace.journal.reader import EventBatch, JournalReader
from costtrace.journal.writer import segment_path
from costtrace.ledger.store import remedy

HOLD_NS = 5 * NS_PER_S
"""How long a journal without its `EngineStarted` can hold attribution back: its devices are not known yet."""
EVENTS_PER_TURN = 20_000
STILLBORN_S = 60.0
"""An empty journal without a writer counts as given up by its engine once it is this old."""


class Turn(NamedTuple):
    """What one turn did."""

    events: int
    behind: bool
    """More is waiting: turn again at once."""
    changed: bool = False
    """There is something to book: events were read, time was attributed, or an engine has ended."""


class Intake:
    """Reads a home's journals turn by turn. All state that must outlive it is in the pipeline and in `positions`."""

    def __init__(
        self,
        home: Path,
        pipeline: Pipeline,
        positions: dict[str, tuple[Position, bool]],
        remote_homes: Sequence[Path] = (),
        set_aside: Collection[str] = (),
    ) -> None:
        self.pipeline = pipeline
        self.readers: dict[str, JournalReader] = {}
        self.sensor_readers: dict[str, JournalReader] = {}
        """Journals that agents' sensors write: they have no engine."""
        self.problems: dict[str, str] = {}
        """Journals that cannot be read, and why."""
        # Every node may be given the same list of all nodes' homes, this one included.
        self.remote = RemoteSensors(
            [each for each in remote_homes if each.resolve() != home.resolve()], pipeline, positions, set_aside
        )
        self._set_aside = set_aside
        self._root = home / "journal"
        self._known = positions
        self._boot_id = clock.boot_id()
        self._scan_ns = 0
        self._held: dict[str, tuple[int, int]] = {}
        """Journals without their `EngineStarted`: (time of the last scan without them, time of the first with them)."""
        self.cut = 0
        """Sequences with a text of their client's that was too long, and was cut."""
        self.lag_bytes = 0
        """Bytes of journal that had not been read when the turn ended."""

    def turn(self) -> Turn:
        """Find journals, read what is new in each, attribute what is known. Raises: EngineFailed."""
        before_ns, self._scan_ns = self._scan_ns, time.monotonic_ns()
        if not self._discover(before_ns):
            return Turn(0, behind=False, changed=False)
        events = 0
        behind = False
        live_before = self._live_engines()
        readings = self._read_sensors()
        readings += self.remote.turn(self._boot_id, EVENTS_PER_TURN, self.problems)
        for engine_id, reader in list(self.readers.items()):
            try:
                with failing((engine_id,)):
                    count, unfinished = self._read(engine_id, reader)
            except JournalError as error:
                self.problems[engine_id] = str(error)
                continue
            self.problems.pop(engine_id, None)
            events += count
            behind = behind or unfinished
        self.lag_bytes = sum(reader.unread_bytes() for reader in self.readers.values()) if behind else 0
        attributed = self.pipeline.sweep(self._limit_ns(), self._boot_id)
        for boot_id in {e.header.boot_id for e in self.pipeline.engines.values()} - {self._boot_id}:
            attributed += self.pipeline.sweep(1 << 62, boot_id)
        return Turn(
            events, behind, changed=bool(events or readings or attributed or self._live_engines() != live_before)
        )

    def delay_ns(self) -> int:
        """Age of the oldest event of a live engine that has not been read or attributed."""
        seen = [e.timeline.seen_ns for e in self.pipeline.engines.values() if e.timeline.seen_ns and not e.ended]
        return max(0, time.monotonic_ns() - min(seen)) if seen else 0

    def finish(self, engine_id: str) -> None:
        """Close the journal of an engine that is booked to its end: it will not be read again."""
        reader = self.readers.pop(engine_id)
        self._known[engine_id] = (reader.position, True)
        reader.close()

    def drop_finished(self, before_s: float) -> None:
        """Delete the journals that are booked to their end and were last written before *before_s* (epoch seconds)."""
        for engine_id, (_, done) in self._known.items():
            directory = self._root / engine_id
            with contextlib.suppress(OSError):
                if done and directory.stat().st_mtime < before_s:
                    shutil.rmtree(directory)

    def close(self) -> None:
        """Close all journals."""
        for readers in (self.readers, self.sensor_readers, self.remote.readers):
            for reader in readers.values():
                reader.close()

    def alive(self) -> bool:
        """True while a journal that can be read is still being written, or not read to its end."""
        return bool(self.readers.keys() - self.problems.keys())

    def positions(self) -> Iterator[tuple[str, Position]]:
        """The position in every journal that is being read, by the name under which it is kept."""
        for readers in (self.readers, self.sensor_readers, self.remote.readers):
            for name, reader in readers.items():
                yield name, reader.position

    def _live_engines(self) -> int:
        return sum(not engine.ended for engine in self.pipeline.engines.values())

    def _discover(self, before_ns: int) -> bool:
        """Find new journals. False: those of engines that are not booked to their end cannot be seen now.

        Such engines wait, because their state is kept only together with the position in their journal.
        """
        waiting = self.pipeline.engines.keys() - self.readers.keys()
        try:
            names = sorted(path.name for path in self._root.iterdir() if path.is_dir())
        except FileNotFoundError:
            if waiting:  # perhaps its volume is not there yet
                self.problems[str(self._root)] = f"{self._root} is not there, and engines are not booked to their end."
                return False
            names = []
        except OSError as error:
            self.problems[str(self._root)] = f"cannot read {self._root}: {error.strerror}. {remedy(error)}"
            return not waiting
        self.problems.pop(str(self._root), None)
        # An engine whose journal was deleted between two agents is read to its end too: there is no more of it.
        for name in [*names, *(self.pipeline.engines.keys() - names)]:
            position, done = self._known.get(name, (Position(), False))
            if done or name in self.readers or name in self.sensor_readers or name in self._set_aside:
                continue
            if not name.isprintable():
                self.problems[name] = f"the journal {name!a} has a name that no engine gives. Move it away."
                continue
            reader = JournalReader(self._root / name, position, name)
            if name.startswith(f"{SENSORS}-"):
                self.sensor_readers[name] = reader
                continue
            self.readers[name] = reader
            if name not in self.pipeline.engines:
                self._held[name] = (before_ns, self._scan_ns)
        return True

    def _read_sensors(self) -> int:
        """Hand the sensors' readings to the pipeline, before the engines' events of the same time."""
        count = 0
        for name, reader in self.sensor_readers.items():
            try:
                with failing((name,)):
                    count += self._read_sensor(reader)
            except JournalError as error:
                self.problems[name] = str(error)
            else:
                self.problems.pop(name, None)
        return count

    def _read_sensor(self, reader: JournalReader) -> int:
        batch = self._next_batch(reader)
        boot_id = reader.header.boot_id if reader.header is not None else self._boot_id
        for event in batch.events:
            if isinstance(event, DeviceSeen):
                self.pipeline.device_seen(boot_id, event)
        readings = [event for event in batch.events if isinstance(event, Reading)]
        for reading in readings:
            self.pipeline.reading(boot_id, reading)
        return len(readings)

    def _next_batch(self, reader: JournalReader) -> EventBatch:
        batch = reader.read(EVENTS_PER_TURN)
        for number in reader.strays:
            text = (
                f"{segment_path(reader.directory, number)} is not read: it begins before what has been read of this "
                "journal, or it has no head. It is a copy, or was put there. Move it away."
            )
            self.pipeline.notices.append(("journal", text))
        return batch

    def finished_sensors(self) -> list[str]:
        """Sensors' journals that have been read to their end and that nobody writes any more."""
        names = []
        for name, reader in self.sensor_readers.items():
            with contextlib.suppress(JournalError):
                if reader.writer_gone() and not reader.may_live() and not reader.unread_bytes():
                    names.append(name)
        return names

    def finish_sensors(self, names: list[str]) -> None:
        """Close these sensors' journals, which have been booked to their end."""
        for name in names:
            reader = self.sensor_readers.pop(name)
            self._known[name] = (reader.position, True)
            reader.close()

    def _read(self, engine_id: str, reader: JournalReader) -> tuple[int, bool]:
        # Asked before reading: where the writer is gone already, what is read now is all there will be.
        gone = reader.writer_gone() and not reader.may_live()
        batch = self._next_batch(reader)
        for event in batch.events:
            if isinstance(event, SegmentHeader):
                self.pipeline.add(engine_id, event)
            if engine_id in self.pipeline.engines:
                self.pipeline.take(engine_id, event)
            if isinstance(event, EngineStarted):
                self._held.pop(engine_id, None)
            elif isinstance(event, SequenceAdded):
                self.cut += is_cut(event.request_id) or is_cut(event.traceparent) or is_cut(event.model)
        full = len(batch.events) >= EVENTS_PER_TURN
        if gone and not batch.events:
            if engine_id in self.pipeline.engines:
                self._held.pop(engine_id, None)
                self.pipeline.end(engine_id)
            elif _stillborn(reader.directory):
                self._held.pop(engine_id, None)
                self.finish(engine_id)
        return len(batch.events), full or (gone and bool(batch.events))

    def _limit_ns(self) -> int:
        """Until when (monotonic) it is certain that no unknown engine had a device."""
        limit = self._scan_ns
        for before_ns, found_ns in self._held.values():
            if before_ns and self._scan_ns - found_ns < HOLD_NS:
                limit = min(limit, before_ns)
        return limit


def _stillborn(directory: Path) -> bool:
    """Whether an empty journal is given up. While it is new, its writer may just be about to take the lock."""
    try:
        return time.time() - directory.stat().st_mtime > STILLBORN_S
    except FileNotFoundError:
        return True
