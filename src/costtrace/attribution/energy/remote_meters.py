"""Readings of another node's sensors, placed on this node's clock. Pure.

An engine's devices can be on several nodes. Each node's agent reads its own; the agent of the engine's node reads
their journals. Monotonic clocks of different hosts have nothing in common, so a reading travels by wall time:

    here = there + (wall - monotonic, there) - (wall - monotonic, here)

Wrong by as much as the two wall clocks differ. How much that can be is declared, and is on the rows.
"""

import msgspec

from costtrace.core.events import DeviceSeen, Heartbeat, Reading, SegmentHeader
from costtrace.core.wall_time import believable, wall_offset


class RemoteJournal(msgspec.Struct):
    """The journal of another node's sensors."""

    host: str
    wall_offset_ns: int
    """Wall time less monotonic time there."""


class RemoteMeters(msgspec.Struct):
    """What is known of other nodes' sensors. Its fields are all its state."""

    journals: dict[str, RemoteJournal] = {}
    devices: dict[str, dict[str, DeviceSeen]] = {}
    """By host and UUID: what their sensors have found."""
    hosts: dict[str, str] = {}
    """By UUID, the host that reads the device."""
    early: dict[str, Reading] = {}
    """By device, the newest reading (on wall time) of before this node's clock was known: windows begin with it."""

    def open(self, name: str, header: SegmentHeader) -> None:
        """Take in a journal by its header; nothing happens if it is known."""
        if name not in self.journals:
            self.journals[name] = RemoteJournal(header.host, believable(header.wall_ns) - header.monotonic_ns)

    def beat(self, name: str, beat: Heartbeat) -> None:
        """Take a heartbeat of a journal: its host's wall clock may have been set."""
        journal = self.journals[name]
        journal.wall_offset_ns = wall_offset(journal.wall_offset_ns, beat)

    def device_seen(self, name: str, device: DeviceSeen) -> None:
        """The sensors of a journal have found a device."""
        host = self.journals[name].host
        self.devices.setdefault(host, {})[device.uuid] = device
        self.hosts[device.uuid] = host

    def place(self, name: str, reading: Reading, offset_ns: int | None) -> list[Reading]:
        """The readings that can go to their meters now. *offset_ns*: wall less monotonic here; None: not known yet."""
        journal = self.journals[name]
        self.hosts[reading.device] = journal.host
        on_wall = msgspec.structs.replace(reading, at_ns=reading.at_ns + journal.wall_offset_ns)
        if offset_ns is None:
            self.early[reading.device] = on_wall
            return []
        early = self.early.pop(reading.device, None)
        return [
            msgspec.structs.replace(each, at_ns=each.at_ns - offset_ns) for each in (early, on_wall) if each is not None
        ]

    def forget(self, name: str) -> None:
        """Drop a journal that is no longer there."""
        self.journals.pop(name, None)
