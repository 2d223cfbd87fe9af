"""What an engine's devices gave in one window: sums while it is filled, rows when it is closed."""

from collections.abc import Iterator, Sequence

import msgspec

from costtrace.attribution.energy.waiting import Energy
from costtrace.attribution.shares.accounts import add, nothing
from costtrace.core.events import DeviceRef
from costtrace.core.rows import KINDS, EnergyProvenance, Kind, MeterRow, Posting, is_known


class BillingWindow(msgspec.Struct):
    """The window that is being filled."""

    window_ns: int = -1
    start_ns: int = 0
    end_ns: int = 0
    device_ns: dict[str, list[int]] = {}
    """By kind: ns by device."""
    rows: dict[str, dict[str, list[int]]] = {}
    """By kind (other than request) and reason: amounts by meter."""
    device_uj: list[int] = []
    """By device: energy."""
    device_energy_unknown_ns: list[int] = msgspec.field(default_factory=list, name="device_gap_ns")
    """By device: device time whose energy is not known."""
    shared: set[int] = set()
    """Devices (by place) that other engines had at the same time."""
    sensors: list[EnergyProvenance | None] = []
    """By device: how its energy was read at the window's end."""

    def add(self, kind: Kind, reason: str, device_ns: tuple[int, ...], energy: Energy) -> None:
        """Add what the devices gave: *device_ns* by device, with its energy."""
        if not self.device_uj:
            self.device_uj = [0] * len(device_ns)
            self.device_energy_unknown_ns = [0] * len(device_ns)
        granted = self.device_ns.get(kind)
        if granted is None:
            granted = self.device_ns[kind] = [0] * len(device_ns)
        energy_uj, energy_unknown_ns = energy.uj, energy.energy_unknown_ns
        device_uj, device_unknown_ns = self.device_uj, self.device_energy_unknown_ns
        for place, ns in enumerate(device_ns):
            granted[place] += ns
            device_uj[place] += energy_uj[place]
            device_unknown_ns[place] += energy_unknown_ns[place]
        if kind != "request":
            amounts = self.rows.setdefault(kind, {}).setdefault(reason, nothing())
            add(amounts, [sum(device_ns), sum(energy_uj), sum(energy_unknown_ns)])

    def postings(self, engine_id: str, model: str) -> Iterator[Posting]:
        """A posting for each kind and reason of time that served nobody."""
        for kind, by_reason in self.rows.items():
            for reason, amounts in by_reason.items():
                if not any(amounts):
                    continue
                gpu_ns, energy_uj, energy_unknown_ns = amounts
                yield Posting(
                    window_ns=self.window_ns,
                    engine_id=engine_id,
                    kind=next(known for known in KINDS if known == kind),
                    reason=reason,
                    model=model,
                    gpu_ns=gpu_ns,
                    energy_uj=energy_uj if is_known(gpu_ns, energy_uj, energy_unknown_ns) else None,
                    energy_unknown_ns=energy_unknown_ns,
                )

    def meter_rows(
        self, engine_id: str, devices: Sequence[DeviceRef], energy_source: str, energy_scope: str
    ) -> list[MeterRow]:
        """A row for each device: what the window's postings add up to."""
        if self.end_ns == self.start_ns:  # a step without length, and then the wall clock was set
            return []
        by_kind = {kind: self.device_ns.get(kind, [0] * len(devices)) for kind in KINDS}
        return [
            MeterRow(
                window_ns=self.window_ns,
                engine_id=engine_id,
                device=device.uuid,
                start_ns=self.start_ns,
                end_ns=self.end_ns,
                request_ns=by_kind["request"][i],
                idle_ns=by_kind["idle"][i],
                overhead_ns=by_kind["overhead"][i],
                unobserved_ns=by_kind["unobserved"][i],
                shared=i in self.shared,
                energy_uj=self._known_uj(i, sum(by_kind[kind][i] for kind in KINDS)),
                energy_unknown_ns=self.device_energy_unknown_ns[i],
                energy_source=energy_source,
                energy_scope=energy_scope,
                sensor=self.sensors[i] if self.sensors else None,
            )
            for i, device in enumerate(devices)
        ]

    def _known_uj(self, device: int, device_ns: int) -> int | None:
        uj, energy_unknown_ns = self.device_uj[device], self.device_energy_unknown_ns[device]
        return uj if is_known(device_ns, uj, energy_unknown_ns) else None
