"""What the agent keeps between two starts, beside the ledger's rows."""

import msgspec

from costtrace.attribution.energy.counter_windows import DeviceMeter
from costtrace.attribution.energy.remote_meters import RemoteMeters


class Meters(msgspec.Struct):
    """Energy of the devices that have a sensor."""

    by_device: dict[str, DeviceMeter]


class NodeState(msgspec.Struct):
    """What of a `Node` is not an engine's and not a group's."""

    group_of_device: dict[str, int]
    next_group: int
    remote: RemoteMeters = msgspec.field(default_factory=RemoteMeters)
    wall_offsets: dict[str, int] = {}


def _encode(state: msgspec.Struct) -> bytes:
    # JSON, because its integers have no limit: virtual-time counters are far beyond 64 bits.
    return msgspec.json.encode(state)
