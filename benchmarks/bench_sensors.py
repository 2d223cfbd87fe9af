"""What reading the sensors costs an agent: NVML calls a second and the share of one core, by number of devices.

    .venv/bin/python benchmarks/bench_sensors.py [--devices 1 8 64] [--seconds 20] [--hz 10]

The real sensor thread and journal of an agent, all devices busy, read the NVML double by the real nvidia-ml-py.
Before a figure is shown, what was read is checked against the double: the count that each device's readings add up to
has to lie between what its counter showed before and after. A real driver's calls take their own time, which is the
driver's and not in these figures (NVML: some 10 us to 1 ms a call); the number of calls is the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from costtrace_nvml_sim.runner import prepare
from costtrace_nvml_sim.scenario import parse_scenario
from costtrace_nvml_sim.truth import Truth

from costtrace.core.units import NS_PER_S
from costtrace.journal.reader import JournalReader
from costtrace.sensors.nvml.sensor import NvmlSensor
from costtrace.sensors.sampler import Sampler
from costtrace.sensors.sensor_journal import SensorJournal

TURN_S = 0.2


def child(home: Path, seconds: float, hz: float) -> None:
    """Read for some seconds, as an agent does, and print what it took."""
    sensor = NvmlSensor()
    sampler = Sampler(sensor, hz=hz)
    journal = SensorJournal(home, sampler, cap_bytes=1 << 30)
    journal.start()
    while not journal.devices:
        journal.turn(())
        time.sleep(0.05)
    busy = {each.uuid for each in journal.devices}
    began_ns, process_ns, cost = time.monotonic_ns(), time.process_time_ns(), journal.cost
    while time.monotonic_ns() - began_ns < seconds * NS_PER_S:
        journal.turn(busy)
        time.sleep(TURN_S)
    took_ns = time.monotonic_ns() - began_ns
    used_ns, after = time.process_time_ns() - process_ns, journal.cost
    journal.stop()
    print(
        json.dumps(
            {
                "calls_per_s": (after.calls - cost.calls) / took_ns * NS_PER_S,
                "readings_per_s": (after.readings - cost.readings) / took_ns * NS_PER_S,
                "thread_percent": (after.cpu_ns - cost.cpu_ns) / took_ns * 100,
                "process_percent": used_ns / took_ns * 100,
                "longest_ms": after.longest_ns / 1e6,
            }
        )
    )


def check(home: Path, truth: Truth) -> None:
    """Readings of each device say what its counter showed at that time, neither more nor less."""
    (path,) = (home / "journal").iterdir()
    reader = JournalReader(path)
    values: dict[str, list[tuple[int, int]]] = {}
    while batch := reader.read(10_000).events:
        for event in batch:
            if getattr(event, "energy_uj", None) is not None:
                values.setdefault(event.device, []).append((event.at_ns, event.energy_uj))
    compiled = truth.compiled
    assert set(values) == {device.uuid for device in compiled.devices}
    for index, device in enumerate(compiled.devices):
        for at_ns, energy_uj in (values[device.uuid][0], values[device.uuid][-1]):
            now = at_ns - compiled.t0_monotonic_ns
            # A reading is placed at the counter's update, which is found to a few milliseconds.
            low, high = (truth.counter_mj(index, now + by) * 1_000 for by in (-200_000_000, 200_000_000))
            assert low <= energy_uj <= high, (device.uuid, low, energy_uj, high)


def measure(devices: int, seconds: float, hz: float) -> dict[str, float]:
    """Run a child on so many devices; what it cost."""
    with tempfile.TemporaryDirectory() as folder:
        wave = {"kind": "square", "low_w": 120, "high_w": 640, "period_s": 0.7}
        scenario = parse_scenario({"devices": [{"preset": "H100", "power": wave, "count": devices}]})
        prepared = prepare(scenario, Path(folder))
        home = Path(folder) / "home"
        done = subprocess.run(
            [sys.executable, __file__, "--child", str(home), "--seconds", str(seconds), "--hz", str(hz)],
            env=prepared.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        check(home, Truth(prepared.compiled))
        return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hz", type=float, default=10)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.seconds, given.hz)
        return
    print(f"load at the start {os.getloadavg()[0]:.2f}; {given.hz:g} readings a second and device; SIMULATED devices")
    for devices in given.devices:
        rounds = [measure(devices, given.seconds, given.hz) for _ in range(given.rounds)]
        middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        print(
            f"{devices:4} devices {middle['calls_per_s']:8.1f} NVML calls/s {middle['readings_per_s']:8.1f} readings/s "
            f"sensor thread {middle['thread_percent']:5.2f} % of a core, with journal "
            f"{middle['process_percent']:5.2f} %  longest round {middle['longest_ms']:.1f} ms"
        )


if __name__ == "__main__":
    main()
