"""The journal beside one engine of this process: opened when the engine can serve, closed when it ends."""

import atexit
import os
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from costtrace.capture.journal_thread import Pump, Translator
from costtrace.capture.node_files.agent_keeper import AgentKeeper
from costtrace.capture.node_files.process_status import HookStatus
from costtrace.capture.recorder import Recorder
from costtrace.config.settings import Settings
from costtrace.core.events import Event
from costtrace.core.guard import guard
from costtrace.journal.writer import JournalWriter, new_engine_id


def _nothing() -> None:
    """Do nothing."""


class EngineJournal:
    """One engine's: its recorder, and the writer thread with its journal."""

    def __init__(self, engine: str, role: str, settings: Settings, status: HookStatus) -> None:
        """*engine*: as its id begins. *role*: of this process, as its status file is called."""
        self.engine_id = new_engine_id(engine)
        self.recorder = Recorder(settings.ring_capacity)
        self._role = role
        self._settings = settings
        self._status = status
        self._keeper = AgentKeeper(settings.home)
        self._pid = os.getpid()
        self._pump: Pump | None = None
        self._status_fields: Callable[[], dict[str, Any]] = dict
        self._before_close: Callable[[], None] = _nothing

    def open(
        self,
        first: Sequence[Event],
        translator: Translator,
        status_fields: Callable[[], dict[str, Any]],
        before_close: Callable[[], None] = _nothing,
    ) -> None:
        """Start to write. Raises: JournalError.

        *first*: events before any other. *status_fields*: for the status file. *before_close*: called before the last
        records are drained.
        """
        self._status_fields, self._before_close = status_fields, before_close
        self._pump = Pump(
            self.recorder,
            translator,
            lambda snapshot: JournalWriter(
                self._settings.home,
                self.engine_id,
                snapshot,
                cap_bytes=int(self._settings.journal_cap_bytes),
                version=own_version(),
                fsync=self._settings.journal_fsync,
            ),
            first=first,
            chores=self._chores,
        )
        self._pump.start()
        atexit.register(self.close)

    def close(self, reason: str = "shutdown") -> bool:
        """Write what is left, and `EngineStopped`. Returns whether the journal was open.

        Safe to call twice; does nothing in a forked child.
        """
        atexit.unregister(self.close)
        pump, self._pump = self._pump, None
        if pump is None or os.getpid() != self._pid:
            return False
        with guard("journal.close"):
            self._before_close()
            pump.stop(reason)
            self._status.remove(self._settings.home, self._role)
        return True

    def _chores(self) -> None:
        """Every two seconds, on the writer thread."""
        if self._settings.agent == "spawn":
            self._keeper.ensure_running()
        self._status.write(self._settings.home, self._role, engine_id=self.engine_id, **self._status_fields())


def own_version() -> str:
    """Version of costtrace; '' where it is not installed."""
    try:
        return version("costtrace-core")
    except PackageNotFoundError:
        return ""
