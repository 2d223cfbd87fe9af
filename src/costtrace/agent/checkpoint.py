"""What an agent keeps between two starts: the state beside the ledger's rows, in the transaction that books them."""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import msgspec

from costtrace.agent.intake import Intake
from costtrace.attribution.energy.counter_windows import DeviceMeter
from costtrace.attribution.energy.remote_meters import RemoteMeters
from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import EngineState, Pipeline
from costtrace.attribution.time.shared_devices import DeviceGroup
from costtrace.config.settings import Settings
from costtrace.core.errors import AlreadyRunning, LedgerError
from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace.ledger.booking import Booked, Booking, BookingState
from costtrace.ledger.store import DAMAGED, Ledger, put_pending

State = TypeVar("State")
WRITES = "writes"
"""The state that counts the transactions of agents: by it, two of one ledger notice each other where no lock holds."""


class Meters(msgspec.Struct):
    """Energy of the devices that have a sensor."""

    by_device: dict[str, DeviceMeter]


class NodeState(msgspec.Struct):
    """What of a `Pipeline` is neither an engine's nor a device group's."""

    group_of_device: dict[str, int]
    next_group: int
    remote: RemoteMeters = msgspec.field(default_factory=RemoteMeters)
    wall_offsets: dict[str, int] = {}


class _Undo(Exception):
    pass


class Checkpoint:
    """Loads and writes the state of one ledger's agent."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._stored_groups: set[int] = set()
        self._writes: bytes | None = None
        self.unreadable: dict[str, str] = {}
        """Engines whose state could not be loaded, and why: others go on."""

    def load(self, settings: Settings) -> tuple[Pipeline, BookingState]:
        """The state after the last transaction, under the policy that *settings* declare now. Raises: LedgerError."""
        linger_ns = settings.linger_ms * NS_PER_MS
        policy = Policy(settings.attribution, settings.head_fee, settings.prefix_sharing, linger_ns)
        wait_ns = settings.remote_wait_s * NS_PER_S if settings.remote_homes else 0
        clock_ns = round(settings.remote_clock_ms * NS_PER_MS)
        pipeline = Pipeline(policy, settings.window_s * NS_PER_S, remote_wait_ns=wait_ns, remote_clock_ns=clock_ns)
        booking = BookingState()
        states = self._ledger.states()
        self._writes = states.get(WRITES)
        for name, value in states.items():
            kind, _, key = name.partition(":")
            if kind == "engine":
                with self._setting_aside(key):
                    pipeline.engines[key] = self._decode(name, value, EngineState)
                    pipeline.engines[key].attribution.policy = policy
            elif kind == "group":
                number = int(key) if key.isdecimal() else -1
                pipeline.groups[number] = DeviceGroup(pipeline.window_length_ns)
                pipeline.frozen.add(number)
                with suppress(LedgerError):
                    pipeline.groups[number] = self._decode(name, value, DeviceGroup)
                    pipeline.frozen.remove(number)
            elif kind == "meters":
                pipeline.meters = self._decode(name, value, Meters).by_device
            elif kind == "node":
                node = self._decode(name, value, NodeState)
                pipeline.group_of_device, pipeline.next_group = node.group_of_device, node.next_group
                pipeline.remote, pipeline.wall_offsets = node.remote, node.wall_offsets
            elif kind == "booking":
                booking = self._decode(name, value, BookingState)
        for engine_id, engine in pipeline.engines.items():
            group = pipeline.groups.get(engine.group)
            lost = group is None or (not engine.ended and engine_id not in group.members)
            if engine.group >= 0 and (lost or engine.group in pipeline.frozen):
                self.unreadable[engine_id] = (
                    f"the place of {engine_id} among the engines of its devices is not in {self._ledger.path}, or "
                    "cannot be read: the rest of its journal is not billed. A copy of `costtrace backup` may have it."
                )
        self._stored_groups = set(pipeline.groups)
        return pipeline, booking

    @contextmanager
    def _setting_aside(self, engine_id: str) -> Iterator[None]:
        try:
            yield
        except LedgerError as error:
            self.unreadable[engine_id] = str(error)

    def _decode(self, name: str, value: bytes, kind: type[State]) -> State:
        try:
            return msgspec.json.decode(value, type=kind)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise LedgerError(
                f"the state `{name}` in {self._ledger.path} cannot be read ({error}), and cannot be guessed. {DAMAGED}"
            ) from error

    def write(
        self, intake: Intake, booking: Booking, booked: Booked, notices: Collection[tuple[str, str]]
    ) -> tuple[list[str], list[str]]:
        """Write *booked*, *notices*, the journals' positions and the state that goes with them, in one transaction.

        Returns the engines, and the sensors' journals, that it marks as done: they will not be read again.
        Raises: OSError, sqlite3.Error, AlreadyRunning; nothing has been written then.
        """
        ledger, pipeline = self._ledger, intake.pipeline
        engines = [engine.engine_id for engine in pipeline.engines.values() if engine.attributed()]
        sensors = intake.finished_sensors()
        writes = b"%d" % (int(self._writes or 0) + 1)
        with ledger.transaction():
            if ledger.states(WRITES).get(WRITES) != self._writes:
                raise AlreadyRunning(
                    f"another agent has written {ledger.path} since this one read it: this one ends, and books nothing "
                    "twice. One agent is enough."
                )
            ledger.put_state(WRITES, writes)
            self._put_rows(pipeline, booking, booked)
            for subject, message in notices:
                ledger.notice(subject, message)
            for name, position in intake.positions():
                ledger.put_position(name, position, done=name in engines or name in sensors)
            self._put_states(intake, engines)
            ledger.put_state("booking", _encode(booking.state()))
        self._writes = writes
        booking.committed()
        self._stored_groups = set(pipeline.groups)
        return engines, sensors

    def culprits(self, intake: Intake, booking: Booking, booked: Booked) -> list[str]:
        """Engines and sensors' journals of which a `write` fails, for another reason than the file's or the disk's.

        Raises: OSError, sqlite3.OperationalError.
        """
        names = {name for name, _ in intake.positions()} | intake.pipeline.engines.keys()
        names |= {posting.engine_id for posting, _ in booked.postings}
        return [name for name in sorted(names) if not self._writable(name, intake, booking, booked)]

    def _writable(self, name: str, intake: Intake, booking: Booking, booked: Booked) -> bool:
        engines = {key: engine for key, engine in intake.pipeline.engines.items() if key == name}
        pipeline = msgspec.structs.replace(intake.pipeline, engines=engines)
        postings = [each for each in booked.postings if each[0].engine_id == name]
        records = [each for each in booked.records if each[0].engine_id == name]
        own = Booked(postings, [row for row in booked.meter if row.engine_id == name], records)
        try:
            with self._ledger.transaction():
                self._put_rows(pipeline, booking, own)
                for each, position in intake.positions():
                    if each == name:
                        self._ledger.put_position(name, position, done=False)
                for engine in engines.values():
                    _encode(engine)
                for group in pipeline.groups.values():
                    if name in group.members:
                        _encode(group.members[name])
                raise _Undo  # noqa: TRY301 - it is caught two lines below, to roll back
        except _Undo:
            return True
        except (OSError, sqlite3.OperationalError):
            raise
        except Exception:  # noqa: BLE001 - whatever it is, it is this engine's
            return False

    def _put_rows(self, pipeline: Pipeline, booking: Booking, booked: Booked) -> None:
        for row in pipeline.all_engine_rows():
            self._ledger.put_engine(row)
        for fit in pipeline.all_fit_rows():
            self._ledger.put_fit(fit)
        booking.write(self._ledger, booked)
        put_pending(self._ledger.connection, pipeline.pending_rows())

    def _put_states(self, intake: Intake, finished: Collection[str]) -> None:
        ledger, pipeline = self._ledger, intake.pipeline
        for engine_id in intake.readers:
            engine = None if engine_id in finished else pipeline.engines.get(engine_id)
            ledger.put_state(f"engine:{engine_id}", None if engine is None else _encode(engine))
        for number, group in pipeline.groups.items():
            if number not in pipeline.frozen:
                ledger.put_state(f"group:{number}", _encode(group))
        for number in self._stored_groups - pipeline.groups.keys():  # groups that were merged into another
            ledger.put_state(f"group:{number}", None)
        ledger.put_state("meters", _encode(Meters(pipeline.meters)))
        node = NodeState(pipeline.group_of_device, pipeline.next_group, pipeline.remote, pipeline.wall_offsets)
        ledger.put_state("node", _encode(node))


def _encode(state: msgspec.Struct) -> bytes:
    # JSON, because its integers have no limit: virtual-time counters are far beyond 64 bits.
    return msgspec.json.encode(state)
