"""The agent's loop: turn by turn from journals to ledger to emission, exactly once, whatever dies in between."""

import logging
import signal
import sqlite3
import threading
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

import msgspec

import costtrace
from costtrace.agent.checkpoint import Meters, NodeState, _encode
from costtrace.agent.intake import Intake, Turn
from costtrace.agent.sensing import Sensing
from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import EngineState, Pipeline
from costtrace.attribution.steps.engine_fit import PPM
from costtrace.attribution.time.shared_devices import DeviceGroup
from costtrace.capture.node_files.agent_lock import RUNNING, STOPPED, AgentLock
from costtrace.config.settings import Settings
from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace.ledger.booking import Booked, Booking, BookingState
from costtrace.ledger.store import LEDGER_NAME, Ledger, put_pending
from costtrace.pricing.price_book_file import load_price_book

if TYPE_CHECKING:  # an agent without emission needs no OpenTelemetry, and starts in a fifth of the time
    from costtrace.telemetry.health import Health
    from costtrace.telemetry.metric_state import DeviceReading

log = logging.getLogger("costtrace.agent")

TURN_S = 0.2
COMMIT_SHARE = 0.05
"""At most this share of the agent's time goes into keeping its state: with many open requests it commits less often."""
LONGEST_COMMIT_GAP_S = 2.0
CLEAN_EVERY_S = 30.0
PATIENCE = 10
"""A spawned agent waits this many times its idle time for a collector before it ends with records unsent."""


class Emitter(Protocol):
    """Who shows what has been booked: spans, metrics."""

    @property
    def health(self) -> "Health":
        """Figures of the agent itself, for it to set."""
        ...

    def start(self) -> None:
        """Begin, with what the ledger holds."""

    def publish(self, committed: Booked) -> None:
        """A transaction has been committed."""

    def device(self, reading: "DeviceReading") -> None:
        """A device has been read."""

    def drained(self) -> bool:
        """True when everything has been sent."""
        ...

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Send what can be sent soon, and end; True if all of it was."""
        ...


class Agent:
    """One home's agent. `run` until it is stopped, or until nobody needs it any more."""

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
        self._unsaid: list[tuple[str, str]] = []
        self._groups_kept: set[int] = set()
        self._commit_cost_s = 0.0
        self._committed_s = 0.0
        self._cleaned_s = 0.0
        self._idle_since_s = time.monotonic()
        self._failing = ""
        self.node, booking_state = self._load()
        book = (
            load_price_book(settings.prices, settings.currency, settings.node_pool, settings.region)
            if settings.prices
            else None
        )
        self.booking = Booking(book, booking_state, self.warn)
        self.booking.know(self.node.all_engine_rows())
        self.intake = Intake(self.home, self.node, self.ledger.positions(), settings.remote_homes)
        self.emission = emission

    def run(self) -> None:
        """Turn until told to stop, or (spawned) until there has been nothing to do for `agent_idle_exit_s`."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._stop.set())
        self._say(RUNNING)
        log.info("agent on %s, ledger %s", self.home, self.ledger.path)
        if self.emission is not None:
            self.emission.start()
        if self._sensing is not None:
            self._sensing.start()
        try:
            while not self._stop.is_set():
                turn = self._turn()
                if self._nobody_needs_us():
                    log.info("nothing to do for %d s: the agent ends", self.settings.agent_idle_exit_s)
                    break
                if not turn.behind:
                    self._stop.wait(TURN_S)
            self._end_sensing()
            self._commit(force=True)
        finally:
            self._close(STOPPED)

    def stop(self) -> None:
        """End after the present turn."""
        self._stop.set()

    def run_once(self) -> None:
        """Book everything that is in the journals now, send it, and end."""
        try:
            if self.emission is not None:
                self.emission.start()
            while self._turn().changed:
                pass
            self._commit(force=True)
        finally:
            self._close(STOPPED)

    def warn(self, subject: str, message: str) -> None:
        """Say once, in the log and in the ledger, what an operator has to know."""
        if (subject, message) in self._warned:
            return
        self._warned.add((subject, message))
        log.warning("%s", message)
        self._unsaid.append((subject, message))
        self._dirty = True

    def _end_sensing(self) -> None:
        """Book what was still read, and the end of the sensors' journal with it."""
        if self._sensing is not None:
            self._sensing.stop()
            self._turn()
            self._dirty = True

    def _close(self, state: str) -> None:
        if self._sensing is not None:  # after an error
            self._sensing.stop()
        if self.emission is not None:
            self.emission.stop()
        self._say(state)
        self.ledger.close()
        self.lock.release()

    # -- turns --------------------------------------------------------------------------------------------------

    def _turn(self) -> Turn:
        if self._failing:  # read no further than can be booked
            if self._sensing is not None:
                self._sensing.turn(self.node, self.emission, self.warn)
            self._commit(force=True)
            return Turn(0, behind=False)
        began_s = time.monotonic()
        if self._sensing is not None:
            self._sensing.turn(self.node, self.emission, self.warn)
        turn = self.intake.turn()
        self._dirty = self._dirty or turn.changed
        for subject, message in self.node.take_notices():
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
        health.set("recorder.dropped_steps", self.node.lost_steps)
        health.set("recorder.lost_events", self.node.lost_events)

    def _show_models(self, emission: Emitter) -> None:
        """How well steps are shared; `costtrace model` has each engine."""
        rows = self.node.all_fit_rows()
        errors = [error for row in rows if (error := getattr(row, f"{row.method}_error_ppm")) is not None]
        coverages = [row.coverage_ppm for row in rows if row.coverage_ppm is not None]
        if errors:
            emission.health.set("model.error", max(errors) / PPM)
        if coverages:
            emission.health.set("model.coverage", min(coverages) / PPM)

    def _commit(self, *, force: bool = False) -> None:
        """Book what has been attributed, with the positions and the state that it leaves, in one transaction."""
        now = time.monotonic()
        gap = min(LONGEST_COMMIT_GAP_S, self._commit_cost_s / COMMIT_SHARE)
        if not self._dirty or (not force and now - self._committed_s < gap):
            return
        self.booking.know(self.node.all_engine_rows())
        self._unbooked.extend(self.booking.rate(self.node.take_rows()))
        try:
            sensors = self.intake.finished_sensors()
            finished = self._write(sensors)
        except (OSError, sqlite3.Error) as error:
            self._say_failing(error)
            return
        self._say_recovered()
        booked, self._unbooked = self._unbooked, Booked([], [], [])
        self._dirty = False
        self._unsaid.clear()
        self._groups_kept = set(self.node.groups)
        self.intake.finish_sensors(sensors)
        if self.emission is not None:
            self._show_models(self.emission)
        for engine_id in finished:
            self.node.forget(engine_id)
            self.intake.finish(engine_id)
            self.booking.forget(engine_id)
        self._committed_s = time.monotonic()
        self._commit_cost_s = self._committed_s - now
        if self.emission is not None:
            self.emission.publish(booked)

    def _write(self, sensors: Collection[str]) -> list[str]:
        """The transaction; *sensors* are journals of sensors at their end. Returns the engines that are done with."""
        finished = [engine.engine_id for engine in self.node.engines.values() if engine.attributed()]
        ledger = self.ledger
        with ledger.transaction():
            for row in self.node.all_engine_rows():
                ledger.put_engine(row)
            for fit in self.node.all_fit_rows():
                ledger.put_fit(fit)
            self.booking.write(ledger, self._unbooked)
            for subject, message in self._unsaid:
                ledger.notice(subject, message)
            for engine_id, reader in self.intake.readers.items():
                done = engine_id in finished
                ledger.put_position(engine_id, reader.position, done=done)
                engine = self.node.engines.get(engine_id)
                ledger.put_state(f"engine:{engine_id}", None if done or engine is None else _encode(engine))
            for name, reader in self.intake.sensor_readers.items():
                ledger.put_position(name, reader.position, done=name in sensors)
            for name, reader in self.intake.remote.readers.items():
                ledger.put_position(name, reader.position, done=False)
            put_pending(ledger.connection, self.node.pending_rows())
            for number, group in self.node.groups.items():
                ledger.put_state(f"group:{number}", _encode(group))
            for number in self._groups_kept - self.node.groups.keys():  # merged into another
                ledger.put_state(f"group:{number}", None)
            ledger.put_state("meters", _encode(Meters(self.node.meters)))
            node = self.node
            kept = NodeState(node.group_of_device, node.next_group, node.remote, node.wall_offsets)
            ledger.put_state("node", _encode(kept))
            ledger.put_state("booking", _encode(self.booking.state()))
        return finished

    def _load(self) -> tuple[Pipeline, BookingState]:
        """Where the agent before this one stood at its last transaction."""
        settings = self.settings
        linger_ns = settings.linger_ms * NS_PER_MS
        policy = Policy(settings.attribution, settings.head_fee, settings.prefix_sharing, linger_ns)
        wait_ns = settings.remote_wait_s * NS_PER_S if settings.remote_homes else 0
        clock_ns = round(settings.remote_clock_ms * NS_PER_MS)
        node = Pipeline(policy, settings.window_s * NS_PER_S, remote_wait_ns=wait_ns, remote_clock_ns=clock_ns)
        booking = BookingState()
        for name, value in self.ledger.states().items():
            kind, _, key = name.partition(":")
            if kind == "engine":
                node.engines[key] = msgspec.json.decode(value, type=EngineState)
                node.engines[key].attribution.policy = policy
            elif kind == "group":
                node.groups[int(key)] = msgspec.json.decode(value, type=DeviceGroup)
                self._groups_kept.add(int(key))
            elif kind == "meters":
                node.meters = msgspec.json.decode(value, type=Meters).by_device
            elif kind == "node":
                kept = msgspec.json.decode(value, type=NodeState)
                node.group_of_device, node.next_group = kept.group_of_device, kept.next_group
                node.remote, node.wall_offsets = kept.remote, kept.wall_offsets
            elif kind == "booking":
                booking = msgspec.json.decode(value, type=BookingState)
        return node, booking

    # -- chores -------------------------------------------------------------------------------------------------

    def _nobody_needs_us(self) -> bool:
        if not self._spawned or not self.settings.agent_idle_exit_s or self._dirty:
            return False
        idle_s = time.monotonic() - self._idle_since_s
        if idle_s < self.settings.agent_idle_exit_s:
            return False
        # What a collector that is down has not taken stays in the ledger: the next agent sends it.
        sent = self.emission is None or self.emission.drained()
        return sent or idle_s > PATIENCE * self.settings.agent_idle_exit_s

    def _clean(self) -> None:
        """Delete what has been rated and kept long enough."""
        now = time.monotonic()
        if not self.settings.journal_delete or now - self._cleaned_s < CLEAN_EVERY_S or self._dirty:
            return
        self._cleaned_s = now
        self._say(RUNNING)
        before_s = time.time() - self.settings.journal_keep_h * 3600
        for reader in (*self.intake.readers.values(), *self.intake.sensor_readers.values()):
            reader.drop_read_segments(before_s)
        self.intake.drop_finished(before_s)

    def _say(self, state: str) -> None:
        self.lock.write_status(
            state=state,
            version=costtrace.__version__,
            spawned=self._spawned,
            wall_ns=time.time_ns(),
            engines=sorted(self.intake.readers),
            problems=[*self.intake.problems.values(), *([self._failing] if self._failing else [])],
        )

    def _say_failing(self, error: Exception) -> None:
        if not self._failing:
            self._failing = f"cannot write the ledger {self.ledger.path}: {error}"
            log.error(
                "%s. Nothing is lost: the journals keep everything and the agent tries again. Free some space, or see "
                "to the permissions of the file.",
                self._failing,
            )

    def _say_recovered(self) -> None:
        if self._failing:
            log.warning("the ledger can be written again")
            self._failing = ""
