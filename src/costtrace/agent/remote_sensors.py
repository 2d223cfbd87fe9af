"""Follow the sensors' journals of other nodes: what their agents read of devices that an engine of this node has.

Another node's home is mounted here as a directory; read-only is enough. Nothing in it is locked, written or deleted.
While it is not there, the energy of its devices is pending.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from costtrace.attribution.pipeline import Pipeline
from costtrace.core.errors import JournalError, failing
from costtrace.core.events import SENSORS, DeviceSeen, Heartbeat, Position, Reading
from costtrace.journal.reader import JournalReader

PREFIX = "remote:"
"""Positions in other nodes' journals are kept under names that begin so."""


class RemoteSensors:
    """Reads the sensors' journals below other nodes' homes, turn by turn."""

    def __init__(
        self,
        homes: Sequence[Path],
        pipeline: Pipeline,
        positions: dict[str, tuple[Position, bool]],
        set_aside: Collection[str] = (),
    ) -> None:
        self.homes = tuple(homes)
        self.readers: dict[str, JournalReader] = {}
        """By the names of their positions."""
        self._pipeline = pipeline
        self._known = positions
        self._set_aside = set_aside

    def turn(self, boot_id: str, max_events: int, problems: dict[str, str]) -> int:
        """Hand new readings to the pipeline, as of this boot; return how many. Updates *problems*, by journal."""
        count = 0
        for home in self.homes:
            subject = f"{PREFIX}{home}"
            try:
                self._discover(home / "journal")
            except OSError as error:
                problems[subject] = (
                    f"cannot read the sensors of another node in {home}: {error.strerror}. The energy of its devices "
                    "is pending, and unknown after `remote_wait_s`. Mount that node's home there."
                )
            else:
                problems.pop(subject, None)
        for name, reader in list(self.readers.items()):
            try:
                with failing((name,)):
                    count += self._read(name, reader, boot_id, max_events)
            except JournalError as error:
                problems[name] = str(error)
            else:
                problems.pop(name, None)
        return count

    def _discover(self, root: Path) -> None:
        journals = {f"{PREFIX}{path.name}": path for path in root.iterdir() if path.name.startswith(f"{SENSORS}-")}
        for name, path in sorted(journals.items()):
            if name not in self.readers and name not in self._set_aside and name.isprintable():
                self.readers[name] = JournalReader(path, self._known.get(name, (Position(), False))[0], path.name)
        # The directory is there and this journal is not in it: it has been deleted, not unmounted.
        for name in [name for name, reader in self.readers.items() if reader.directory.parent == root]:
            if name not in journals:
                self.readers.pop(name).close()
                self._pipeline.remote.forget(name)

    def _read(self, name: str, reader: JournalReader, boot_id: str, max_events: int) -> int:
        batch = reader.read(max_events)
        if reader.header is None:
            return 0
        remote = self._pipeline.remote
        remote.open(name, reader.header)
        count = 0
        for event in batch.events:
            match event:
                case Heartbeat():
                    remote.beat(name, event)
                case DeviceSeen():
                    remote.device_seen(name, event)
                case Reading():
                    self._pipeline.remote_reading(boot_id, name, event)
                    count += 1
                case _:
                    pass
        return count
