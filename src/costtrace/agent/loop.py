"""The agent's loop: turn by turn from journals to ledger to emission.

A row is booked exactly once, whatever dies in between: rows, positions and state are one transaction (`checkpoint`).
"""

import logging
import signal
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

import costtrace
from costtrace.agent.checkpoint import Checkpoint
from costtrace.agent.intake import Intake, Turn
from costtrace.agent.sensing import Sensing
from costtrace.attribution.steps.engine_fit import PPM
from costtrace.capture.node_files.agent_lock import RUNNING, STOPPED, AgentLock
from costtrace.config.settings import Settings
from costtrace.core.errors import MORE_DESCRIPTORS, OUT_OF_DESCRIPTORS, AlreadyRunning, EngineFailed, LedgerError
from costtrace.core.units import NS_PER_S
from costtrace.ledger.backup import back_up
from costtrace.ledger.booking import Booked, Booking
from costtrace.ledger.store import DELETED, LEDGER_NAME, Ledger, remedy
from costtrace.pricing.price_book_file import load_price_book

if TYPE_CHECKING:  # an agent without emission needs no OpenTelemetry, and starts in a fifth of the time
    from costtrace.telemetry import Emission

log = logging.getLogger("costtrace.agent")

TURN_S = 0.2
PAUSE_S = 1.0
COMMIT_SHARE = 0.05
"""Commits take at most this share of the agent's time: the more requests are open, the larger the state to write."""
LONGEST_COMMIT_GAP_S = 2.0
CLEAN_EVERY_S = 30.0
STATUS_EVERY_S = 10.0
LOOK_EVERY_S = 1.0
"""How often the agent looks whether its lock and its ledger are still there."""
OF_ROWS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""Errors of SQLite that are about what is written, and not about the file."""
PATIENCE = 10
"""A spawned agent with unsent records ends after this many times `agent_idle_exit_s`."""


class Agent:
    """The agent of one home.

    Raises: AlreadyRunning, ConfigError, LedgerError, PriceBookError.
    """

    def __init__(
        self,
        settings: Settings,
        emission: "Emission | None" = None,
        *,
        spawned: bool = False,
        sensing: Sensing | None = None,
    ) -> None:
        self.settings = settings
        self._sensing = sensing
        self.home = settings.home
        self.lock = AgentLock(self.home)
        self.ledger = Ledger(self.home / LEDGER_NAME)
        self._spawned = spawned
        self._stop = threading.Event()
        self._warned: set[tuple[str, str]] = set()
        self._dirty = False
        self._unbooked = Booked([], [], [])
        self._notices: list[tuple[str, str]] = []
        self._commit_cost_s = 0.0
        self._committed_s = 0.0
        self._cleaned_s = 0.0
        self._idle_since_s = time.monotonic()
        self._failing = ""
        self._checkpoint = Checkpoint(self.ledger)
        self._set_aside: dict[str, str] = {}
        """Engines, and sensors' journals, whose records met an error, and which: until the next agent."""
        self._lost = (0, 0)
        self._looked_s = time.monotonic()
        self._status_s = -STATUS_EVERY_S
        self._shown: list[str] = []
        self._book = (
            load_price_book(settings.prices, settings.currency, settings.node_pool, settings.region)
            if settings.prices
            else None
        )
        self.emission = emission
        self._begin()

    def _begin(self) -> None:
        """Start from what the ledger holds: everything after it is in the journals, and is read from them."""
        self.pipeline, state = self._checkpoint.load(self.settings)
        for name, text in self._checkpoint.unreadable.items():
            self._set_aside.setdefault(name, text)
            self.warn("journal", text)
        for name in self._set_aside:
            self.pipeline.set_aside(name)
        self.booking = Booking(self._book, state, self.warn)
        self.booking.know(self.pipeline.all_engine_rows())
        homes = self.settings.remote_homes
        self.intake = Intake(self.home, self.pipeline, self.ledger.positions(), homes, self._set_aside)

    def _go_on_without(self, failed: EngineFailed) -> None:
        """Go back to the last transaction and on from there, without the journals whose records met an error.

        What this process has derived of them since may be half done; what it has of others is derived again.
        """
        names = [name for name in failed.names if name not in self._set_aside]
        cause = failed.__cause__ or failed
        if not names:
            raise cause
        reason = f"{type(cause).__name__}: {cause!s:.200}"
        if isinstance(cause, sqlite3.IntegrityError):
            reason = f"rows of it are in the ledger already, which another agent or other journals wrote ({cause})"
        log.error("what met the error below is set aside: %s", ", ".join(names), exc_info=cause)
        for name in names:
            self._set_aside[name] = (
                f"{self.home / 'journal' / name} is set aside, its records met an error ({reason}): from there on it "
                "is on no bill. Other engines are billed. Its position is kept: the next agent tries again, and a "
                "version that can read it books the rest. Please report the lines of the agent's log."
            )
        sensed = self.pipeline.sensed
        self.intake.close()
        self._begin()
        self.pipeline.sensed = sensed  # sensors tell of devices only at their own start
        self.pipeline.lost_steps, self.pipeline.lost_events = self._lost
        self._unbooked = Booked([], [], [])
        for name in names:
            self.warn("journal", self._set_aside[name])

    def run(self) -> None:
        """Turn until stopped, or (spawned) until there has been nothing to do for `agent_idle_exit_s`."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._stop.set())
        self._write_status(RUNNING)
        log.info("agent on %s, ledger %s", self.home, self.ledger.path)
        if self.emission is not None:
            self.emission.start()
        if self._sensing is not None:
            self._sensing.start()
        try:
            while not self._stop.is_set():
                try:
                    turn = self._turn()
                except OSError as error:
                    self._pause(error)
                    continue
                if self._may_end():
                    log.info("nothing to do for %d s: the agent ends", self.settings.agent_idle_exit_s)
                    break
                if not turn.behind:
                    self._stop.wait(TURN_S)
            self._end_sensing()
            self._book_rest()
        finally:
            self._close()

    def stop(self) -> None:
        """End after the present turn."""
        self._stop.set()

    def run_once(self) -> None:
        """Book everything that is in the journals now, send it, and return."""
        try:
            if self.emission is not None:
                self.emission.start()
            while self._turn().changed:
                pass
            self._book_rest()
        finally:
            self._close()

    def warn(self, subject: str, message: str) -> None:
        """Log what an operator has to know, and keep it in the ledger; each message once."""
        if (subject, message) in self._warned:
            return
        self._warned.add((subject, message))
        log.warning("%s", message)
        self._notices.append((subject, message))
        self._dirty = True

    def _pause(self, error: OSError) -> None:
        """Wait after a turn that the system did not let end. Nothing of it is lost: it is booked with the next one."""
        self._dirty = True
        remedy = MORE_DESCRIPTORS if error.errno in OUT_OF_DESCRIPTORS else f"See to the permissions of {self.home}."
        self.warn("agent", f"the agent cannot read the journals for a while: {error}. {remedy}")
        self._stop.wait(PAUSE_S)

    def _end_sensing(self) -> None:
        """Book the last readings, and with them the end of the sensors' journal."""
        if self._sensing is not None:
            self._sensing.stop()
            self._turn()
            self._dirty = True

    def _book_rest(self) -> None:
        """Book what is left. Raises: LedgerError (it could not be written)."""
        while True:
            try:
                self._commit(force=True)
                break
            except EngineFailed as failed:
                self._go_on_without(failed)
                while self._turn().changed:
                    pass
        if self._failing:
            raise LedgerError(f"{self._failing} Nothing is lost: the journals keep what is not booked.")

    def _close(self) -> None:
        if self._sensing is not None:  # still running after an error; a second stop does nothing
            self._sensing.stop()
        if self.emission is not None and not self.emission.stop():
            log.warning("not all spans have been sent: they are in the ledger, and the next agent sends them")
        self._write_status(STOPPED)
        self.ledger.close()
        self.lock.release()

    def _turn(self) -> Turn:
        try:
            return self._one_turn()
        except EngineFailed as failed:
            self._go_on_without(failed)
            return Turn(0, behind=True, changed=True)

    def _one_turn(self) -> Turn:
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self._check_files()
        if self._problems() != self._shown or time.monotonic() - self._status_s >= STATUS_EVERY_S:
            self._write_status(RUNNING)
        if self._failing:  # read nothing more until what has been read is booked
            if self._sensing is not None:
                self._sensing.turn(self.pipeline, self.emission, self.warn)
            self._commit(force=True)
            return Turn(0, behind=False)
        began_s = time.monotonic()
        if self._sensing is not None:
            self._sensing.turn(self.pipeline, self.emission, self.warn)
        turn = self.intake.turn()
        self._dirty = self._dirty or turn.changed
        for subject, message in self.pipeline.take_notices():
            self.warn(subject, message)
        for problem in self.intake.problems.values():
            self.warn("journal", problem)
        if turn.events or self.intake.alive():
            self._idle_since_s = time.monotonic()
        self._commit()
        self._clean()
        self._show_health(time.monotonic() - began_s)
        return turn

    def _check_files(self) -> None:
        """Never book into a file that nobody can read. Raises: AlreadyRunning, ConfigError, LedgerError."""
        self._looked_s = time.monotonic()
        if not self.lock.held():
            self.warn("agent", f"agent.lock in {self.home} was deleted while the agent ran, and is made again")
        lost = self.ledger.lost()
        if not lost:
            return
        self._failing = f"the ledger {self.ledger.path} was {lost} while the agent ran."
        if lost == DELETED:
            self._failing += " It has been put back. To begin a new ledger, stop the agent first."
            self.ledger.notice("ledger", self._failing)
        if self.emission is not None:  # what its threads note goes into the old file's log
            self.emission.stop()
            self.emission = None
        self.ledger.leave(lost)
        if lost == DELETED:
            back_up(self.ledger, self.ledger.path)
        log.error("%s", self._failing)
        raise LedgerError(
            f"{self._failing} This agent ends, and the next one goes on: what is not booked is in the journals. "
            "Nothing more is written into a file that nobody can read."
        )

    def _show_health(self, worked_s: float) -> None:
        if self.emission is None:
            return
        health = self.emission.health
        health.set("agent.loop.time", worked_s)
        health.add("agent.busy.time", worked_s)
        health.set("journal.lag", self.intake.lag_bytes)
        health.set("journal.delay", self.intake.delay_ns() / NS_PER_S)
        health.set("journals.failed", len(self.intake.problems) + len(self._set_aside))
        health.set("recorder.dropped_steps", self.pipeline.lost_steps)
        health.set("recorder.lost_events", self.pipeline.lost_events)
        health.set("client.texts.cut", self.intake.cut)

    def _show_models(self, emission: "Emission") -> None:
        """Set the worst engine's figures of the step models; `costtrace model` shows each engine."""
        rows = self.pipeline.all_fit_rows()
        errors = [error for row in rows if (error := getattr(row, f"{row.method}_error_ppm")) is not None]
        coverages = [row.coverage_ppm for row in rows if row.coverage_ppm is not None]
        if errors:
            emission.health.set("model.error", max(errors) / PPM)
        if coverages:
            emission.health.set("model.coverage", min(coverages) / PPM)

    def _commit(self, *, force: bool = False) -> None:
        """Book what has been attributed, if that is due. What cannot be written is kept and tried again next turn."""
        now = time.monotonic()
        gap = min(LONGEST_COMMIT_GAP_S, self._commit_cost_s / COMMIT_SHARE)
        if not self._dirty or (not force and now - self._committed_s < gap):
            return
        self._check_files()
        try:
            self.booking.know(self.pipeline.all_engine_rows())
            self._unbooked.extend(self.booking.rate(self.pipeline.take_rows()))
            engines, sensors = self._checkpoint.write(self.intake, self.booking, self._unbooked, self._notices)
        except (EngineFailed, AlreadyRunning):
            raise
        except Exception as error:
            if isinstance(error, (OSError, sqlite3.Error)) and not isinstance(error, OF_ROWS):
                self._report_failure(error)
                return
            if names := self._checkpoint.culprits(self.intake, self.booking, self._unbooked):
                raise EngineFailed(names) from error
            raise
        self._report_recovery()
        self._lost = (self.pipeline.lost_steps, self.pipeline.lost_events)
        booked, self._unbooked = self._unbooked, Booked([], [], [])
        self._dirty = False
        self._notices.clear()
        self.intake.finish_sensors(sensors)
        if self.emission is not None:
            self._show_models(self.emission)
        for engine_id in engines:
            self.pipeline.forget(engine_id)
            self.intake.finish(engine_id)
            self.booking.forget(engine_id)
        self._committed_s = time.monotonic()
        self._commit_cost_s = self._committed_s - now
        if self.emission is not None:
            self.emission.publish(booked, self.pipeline.is_open if len(self.pipeline.engines) > 1 else None)

    def _may_end(self) -> bool:
        if not self._spawned or not self.settings.agent_idle_exit_s or self._dirty:
            return False
        idle_s = time.monotonic() - self._idle_since_s
        if idle_s < self.settings.agent_idle_exit_s:
            return False
        # What a collector that is down has not taken stays in the ledger; the next agent sends it.
        sent = self.emission is None or self.emission.drained()
        return sent or idle_s > PATIENCE * self.settings.agent_idle_exit_s

    def _clean(self) -> None:
        """Delete journals that have been rated and kept long enough."""
        now = time.monotonic()
        if not self.settings.journal_delete or now - self._cleaned_s < CLEAN_EVERY_S or self._dirty:
            return
        self._cleaned_s = now
        before_s = time.time() - self.settings.journal_keep_h * 3600
        for reader in (*self.intake.readers.values(), *self.intake.sensor_readers.values()):
            reader.drop_read_segments(before_s)
        self.intake.drop_finished(before_s)

    def _write_status(self, state: str) -> None:
        self._status_s, self._shown = time.monotonic(), self._problems()
        self.lock.write_status(
            state=state,
            version=costtrace.__version__,
            spawned=self._spawned,
            wall_ns=time.time_ns(),
            engines=sorted(self.intake.readers),
            problems=self._shown,
        )

    def _problems(self) -> list[str]:
        return [*self.intake.problems.values(), *self._set_aside.values(), *([self._failing] if self._failing else [])]

    def _report_failure(self, error: Exception) -> None:
        if not self._failing:
            self._failing = f"cannot write the ledger {self.ledger.path}: {error}. {remedy(error)}"
            log.error("%s Nothing is lost: the journals keep everything and the agent tries again.", self._failing)

    def _report_recovery(self) -> None:
        if self._failing:
            log.warning("the ledger can be written again")
            self._failing = ""
