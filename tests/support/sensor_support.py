"""Runs the real NVML sensor on the double, in a process of its own, on the double's own clock."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from nvml_sim_support import Double, double

from costtrace.core.events import Reading

SECOND = 10**9
BEGIN = 1_000 * SECOND
"""Where the monotonic clock of the tests stands at t0."""

SCRIPT = """
from costtrace.core.clock import Anchor
from costtrace.sensors.nvml.sensor import NvmlSensor
import msgspec

jumps = params["jumps"]

def clocks():
    now = clock.now_ns
    moved = sum(by for at, by in jumps if now >= at)
    return Anchor(params["begin"] + now, params["unix"] + now + moved)

sensor = NvmlSensor(params["gains"], mig_rule=params["mig_rule"], clocks=clocks, files=lambda: (),
                    rescan_ns=params["rescan"])
clock.set(params["times"][0])
sensor.open()
out = {"readings": [], "notices": [], "devices": []}
for t in params["times"]:
    clock.set(t)
    sensor.upkeep()
    out["readings"].append([msgspec.structs.asdict(r) for r in sensor.read()])
    out["notices"].append([text for _, text in sensor.take_notices()])
out["devices"] = [
    [d.uuid, d.name, d.kind, d.scope, d.source, d.parent, str(d.share), dict(d.details)] for d in sensor.devices()
]
out["calls"] = sensor.calls
sensor.close()
"""


class Seen(NamedTuple):
    """What the sensor gave."""

    readings: list[list[Reading]]
    """By time of read."""
    notices: list[list[str]]
    devices: list[list[Any]]
    calls: int

    def of(self, device: int = 0) -> list[Reading]:
        """One device's readings: by its place in the first round that showed all."""
        uuids = list(dict.fromkeys(reading.device for each in self.readings for reading in each))
        return [reading for each in self.readings for reading in each if reading.device == uuids[device]]

    def faults(self, device: int = 0) -> list[str]:
        """One device's faults, without repetitions."""
        faults = [reading.fault for reading in self.of(device)]
        return [word for word, before in zip(faults, [None, *faults], strict=False) if word != before]

    @property
    def messages(self) -> str:
        """All notices."""
        return "\n".join(text for each in self.notices for text in each)


def times(until_s: float, every_s: float = 0.1, from_s: float = 0.0) -> list[int]:
    """Moments at which to read, a little irregular."""
    count = int((until_s - from_s) / every_s)
    return [round((from_s + (i + ((i * 7) % 5 - 2) * 0.04) * every_s) * SECOND) for i in range(1, count + 1)]


def look(
    simulated: Double,
    moments: list[int],
    *,
    gains: dict[str, str] | None = None,
    mig_rule: str = "slices",
    rescan_s: float = 300,
    jumps: list[tuple[int, int]] | None = None,
) -> Seen:
    """Read all devices at these moments (ns since t0)."""
    out = simulated.read(
        SCRIPT,
        init=False,
        times=moments,
        begin=BEGIN,
        unix=simulated.prepared.compiled.t0_unix_ns,
        gains=gains or {},
        mig_rule=mig_rule,
        rescan=round(rescan_s * SECOND),
        jumps=jumps or [],
    )
    readings = [[Reading(**each) for each in moment] for moment in out["readings"]]
    return Seen(readings, out["notices"], out["devices"], out["calls"])


def simulate(directory: Path, *devices: dict[str, Any], **scenario: Any) -> Double:
    """A double on a virtual clock."""
    return double(directory, *devices, **scenario)


def dump(seen: Seen) -> str:
    """For a person who looks at a failure."""
    return json.dumps([[list(r) for r in each] for each in seen.readings], default=str)
