"""The agent's loop: turn by turn from journals to ledger to emission.

A row is booked exactly once, whatever dies in between: rows, positions and state are one transaction (`checkpoint`).
"""

import logging
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import costtrace
from costtrace.agent.checkpoint import Checkpoint
from costtrace.agent.intake import Intake, Turn
from costtrace.agent.sensing import Sensing
from costtrace.attribution.steps.engine_fit import PPM
from costtrace.capture.node_files.agent_lock import RUNNING, STOPPED, AgentLock
from costtrace.config.settings import Settings
from costtrace.core.units import NS_PER_S
from costtrace.ledger.booking import Booked, Booking
from costtrace.ledger.store import LEDGER_NAME, Ledger
from costtrace.pricing.price_book_file import load_price_book

if TYPE_CHECKING:  # an agent without emission needs no OpenTelemetry, and starts in a fifth of the time
    from costtrace.telemetry.health import Health
    from costtrace.telemetry.metric_state import DeviceReading

log = logging.getLogger("costtrace.agent")

TURN_S = 0.2
COMMIT_SHARE = 0.05
"""Commits take at most this share of the agent's time: the more requests are open, the larger the state to write."""
LONGEST_COMMIT_GAP_S = 2.0
CLEAN_EVERY_S = 30.0
PATIENCE = 10
"""A spawned agent with unsent records ends after this many times `agent_idle_exit_s`."""


class Emitter(Protocol):
    """Emits what has been booked, as spans and metrics."""

    @property
    def health(self) -> "Health":
        """The agent's own metrics, for it to set."""
        ...

    def start(self) -> None:
        """Start from what the ledger holds."""

    def publish(self, committed: Booked, is_open: Callable[[str], bool] | None = None) -> None:
        """A transaction has been committed. *is_open*: with several engines, whether one works on a request key."""

    def device(self, reading: "DeviceReading") -> None:
        """A device has been read."""

    def drained(self) -> bool:
        """True when everything has been sent."""
        ...

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Stop, after sending what can be sent within *timeout_s*. Returns whether everything was sent."""
        ...


class Agent:
    """The agent of one home.

    Raises: AlreadyRunning, ConfigError, LedgerError, PriceBookError.
    """

    def __init__(
        self,
        settings: Settings,
        emission: Emitter | None = None,
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
        self.pipeline, booking_state = self._checkpoint.load(settings)
        book = (
            load_price_book(settings.prices, settings.currency, settings.node_pool, settings.region)
            if settings.prices
            else None
        )
        self.booking = Booking(book, booking_state, self.warn)
        self.booking.know(self.pipeline.all_engine_rows())
        self.intake = Intake(self.home, self.pipeline, self.ledger.positions(), settings.remote_homes)
        self.emission = emission

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
                turn = self._turn()
                if self._may_end():
                    log.info("nothing to do for %d s: the agent ends", self.settings.agent_idle_exit_s)
                    break
                if not turn.behind:
                    self._stop.wait(TURN_S)
            self._end_sensing()
            self._commit(force=True)
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
            self._commit(force=True)
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

    def _end_sensing(self) -> None:
        """Book the last readings, and with them the end of the sensors' journal."""
        if self._sensing is not None:
            self._sensing.stop()
            self._turn()
            self._dirty = True

    def _close(self) -> None:
        if self._sensing is not None:  # still running after an error; a second stop does nothing
            self._sensing.stop()
        if self.emission is not None:
            self.emission.stop()
        self._write_status(STOPPED)
        self.ledger.close()
        self.lock.release()

    def _turn(self) -> Turn:
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

    def _show_health(self, worked_s: float) -> None:
        if self.emission is None:
            return
        health = self.emission.health
        health.set("agent.loop.time", worked_s)
        health.add("agent.busy.time", worked_s)
        health.set("journal.lag", self.intake.lag_bytes)
        health.set("journal.delay", self.intake.delay_ns() / NS_PER_S)
        health.set("recorder.dropped_steps", self.pipeline.lost_steps)
        health.set("recorder.lost_events", self.pipeline.lost_events)
        health.set("client.texts.cut", self.intake.cut)

    def _show_models(self, emission: Emitter) -> None:
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
        self.booking.know(self.pipeline.all_engine_rows())
        self._unbooked.extend(self.booking.rate(self.pipeline.take_rows()))
        try:
            engines, sensors = self._checkpoint.write(self.intake, self.booking, self._unbooked, self._notices)
        except (OSError, sqlite3.Error) as error:
            self._report_failure(error)
            return
        self._report_recovery()
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
        self._write_status(RUNNING)
        before_s = time.time() - self.settings.journal_keep_h * 3600
        for reader in (*self.intake.readers.values(), *self.intake.sensor_readers.values()):
            reader.drop_read_segments(before_s)
        self.intake.drop_finished(before_s)

    def _write_status(self, state: str) -> None:
        self.lock.write_status(
            state=state,
            version=costtrace.__version__,
            spawned=self._spawned,
            wall_ns=time.time_ns(),
            engines=sorted(self.intake.readers),
            problems=[*self.intake.problems.values(), *([self._failing] if self._failing else [])],
        )

    def _report_failure(self, error: Exception) -> None:
        if not self._failing:
            self._failing = f"cannot write the ledger {self.ledger.path}: {error}"
            log.error(
                "%s. Nothing is lost: the journals keep everything and the agent tries again. Free some space, or see "
                "to the permissions of the file.",
                self._failing,
            )

    def _report_recovery(self) -> None:
        if self._failing:
            log.warning("the ledger can be written again")
            self._failing = ""
