"""What an engine's devices gave in the window that is being filled: sums, until it is closed and becomes rows."""

import msgspec

from costtrace.accounts import add, nothing
from costtrace.staging import Energy
from costtrace.usage import Kind, Sensor


class Window(msgspec.Struct):
    """The window that is being filled."""

    window_ns: int = -1
    start_ns: int = 0
    end_ns: int = 0
    device_ns: dict[str, list[int]] = {}
    """Kind -> ns by device."""
    rows: dict[str, dict[str, list[int]]] = {}
    """Kind other than request -> reason -> amounts by meter."""
    device_uj: list[int] = []
    device_gap_ns: list[int] = []
    shared: set[int] = set()
    """Devices (by place) that other engines had at the same time."""
    sensors: list[Sensor | None] = []
    """By device, how its energy was read at the end."""

    def add(self, kind: Kind, reason: str, device_ns: tuple[int, ...], energy: Energy) -> None:
        """Take in what the devices gave."""
        if not self.device_uj:
            self.device_uj = [0] * len(device_ns)
            self.device_gap_ns = [0] * len(device_ns)
        granted = self.device_ns.get(kind)
        if granted is None:
            granted = self.device_ns[kind] = [0] * len(device_ns)
        for place, ns in enumerate(device_ns):
            granted[place] += ns
            self.device_uj[place] += energy.uj[place]
            self.device_gap_ns[place] += energy.gap_ns[place]
        if kind != "request":
            amounts = self.rows.setdefault(kind, {}).setdefault(reason, nothing())
            add(amounts, [sum(device_ns), sum(energy.uj), sum(energy.gap_ns)])
