"""What an agent keeps between two starts: the state beside the ledger's rows, in the transaction that books them."""

from collections.abc import Collection
from typing import TypeVar

import msgspec

from costtrace.agent.intake import Intake
from costtrace.attribution.energy.counter_windows import DeviceMeter
from costtrace.attribution.energy.remote_meters import RemoteMeters
from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import EngineState, Pipeline
from costtrace.attribution.time.shared_devices import DeviceGroup
from costtrace.config.settings import Settings
from costtrace.core.errors import LedgerError
from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace.ledger.booking import Booked, Booking, BookingState
from costtrace.ledger.store import DAMAGED, Ledger, put_pending

State = TypeVar("State")


class Meters(msgspec.Struct):
    """Energy of the devices that have a sensor."""

    by_device: dict[str, DeviceMeter]


class NodeState(msgspec.Struct):
    """What of a `Pipeline` is neither an engine's nor a device group's."""

    group_of_device: dict[str, int]
    next_group: int
    remote: RemoteMeters = msgspec.field(default_factory=RemoteMeters)
    wall_offsets: dict[str, int] = {}


class Checkpoint:
    """Loads and writes the state of one ledger's agent."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._stored_groups: set[int] = set()

    def load(self, settings: Settings) -> tuple[Pipeline, BookingState]:
        """The state after the last transaction, under the policy that *settings* declare now. Raises: LedgerError."""
        linger_ns = settings.linger_ms * NS_PER_MS
        policy = Policy(settings.attribution, settings.head_fee, settings.prefix_sharing, linger_ns)
        wait_ns = settings.remote_wait_s * NS_PER_S if settings.remote_homes else 0
        clock_ns = round(settings.remote_clock_ms * NS_PER_MS)
        pipeline = Pipeline(policy, settings.window_s * NS_PER_S, remote_wait_ns=wait_ns, remote_clock_ns=clock_ns)
        booking = BookingState()
        for name, value in self._ledger.states().items():
            kind, _, key = name.partition(":")
            if kind == "engine":
                pipeline.engines[key] = self._decode(name, value, EngineState)
                pipeline.engines[key].attribution.policy = policy
            elif kind == "group":
                pipeline.groups[int(key)] = self._decode(name, value, DeviceGroup)
            elif kind == "meters":
                pipeline.meters = self._decode(name, value, Meters).by_device
            elif kind == "node":
                node = self._decode(name, value, NodeState)
                pipeline.group_of_device, pipeline.next_group = node.group_of_device, node.next_group
                pipeline.remote, pipeline.wall_offsets = node.remote, node.wall_offsets
            elif kind == "booking":
                booking = self._decode(name, value, BookingState)
        self._stored_groups = set(pipeline.groups)
        return pipeline, booking

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
        Raises: OSError, sqlite3.Error; nothing has been written then.
        """
        ledger, pipeline = self._ledger, intake.pipeline
        engines = [engine.engine_id for engine in pipeline.engines.values() if engine.attributed()]
        sensors = intake.finished_sensors()
        with ledger.transaction():
            for row in pipeline.all_engine_rows():
                ledger.put_engine(row)
            for fit in pipeline.all_fit_rows():
                ledger.put_fit(fit)
            booking.write(ledger, booked)
            for subject, message in notices:
                ledger.notice(subject, message)
            put_pending(ledger.connection, pipeline.pending_rows())
            self._put_positions(intake, engines, sensors)
            self._put_states(intake, engines)
            ledger.put_state("booking", _encode(booking.state()))
        booking.committed()
        self._stored_groups = set(pipeline.groups)
        return engines, sensors

    def _put_positions(self, intake: Intake, engines: Collection[str], sensors: Collection[str]) -> None:
        for engine_id, reader in intake.readers.items():
            self._ledger.put_position(engine_id, reader.position, done=engine_id in engines)
        for name, reader in intake.sensor_readers.items():
            self._ledger.put_position(name, reader.position, done=name in sensors)
        for name, reader in intake.remote.readers.items():
            self._ledger.put_position(name, reader.position, done=False)

    def _put_states(self, intake: Intake, finished: Collection[str]) -> None:
        ledger, pipeline = self._ledger, intake.pipeline
        for engine_id in intake.readers:
            engine = None if engine_id in finished else pipeline.engines.get(engine_id)
            ledger.put_state(f"engine:{engine_id}", None if engine is None else _encode(engine))
        for number, group in pipeline.groups.items():
            ledger.put_state(f"group:{number}", _encode(group))
        for number in self._stored_groups - pipeline.groups.keys():  # groups that were merged into another
            ledger.put_state(f"group:{number}", None)
        ledger.put_state("meters", _encode(Meters(pipeline.meters)))
        node = NodeState(pipeline.group_of_device, pipeline.next_group, pipeline.remote, pipeline.wall_offsets)
        ledger.put_state("node", _encode(node))


def _encode(state: msgspec.Struct) -> bytes:
    # JSON, because its integers have no limit: virtual-time counters are far beyond 64 bits.
    return msgspec.json.encode(state)
