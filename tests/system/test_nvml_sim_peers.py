"""Programs that nobody here wrote must start on the double and read from it what it simulates.

They live in an environment of their own (tests/requirements-peers.txt), named by COSTTRACE_PEERS_PYTHON.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from costtrace_nvml_sim.runner import prepare, run_command
from costtrace_nvml_sim.scenario import parse_scenario

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed"),
]
PYTHON = os.environ.get("COSTTRACE_PEERS_PYTHON", sys.executable)
GPUS = [{"preset": "H100", "power": 300, "memory_used_mib": 4096}, {"preset": "H100", "power": 650}]


def need(*modules):
    for module in modules:
        done = subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"{module} is not installed in {PYTHON}: run python tools/setup_others.py peers")


def run_peer(directory: Path, *arguments: str, devices=GPUS) -> str:
    prepared = prepare(parse_scenario({"devices": devices}), directory)
    environment = {**prepared.environment(), "PYTHONWARNINGS": "ignore", "TERM": "dumb", "COLUMNS": "120"}
    done = subprocess.run(
        [PYTHON, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


ZEUS = """
import json, time
from zeus.monitor import ZeusMonitor
monitor = ZeusMonitor()
times = [time.monotonic()]
monitor.begin_window("w", sync_execution=False)
times.append(time.monotonic())
time.sleep(3)
times.append(time.monotonic())
window = monitor.end_window("w", sync_execution=False)
times.append(time.monotonic())
print(json.dumps([window.time, window.gpu_energy, times]))
"""


def test_zeus_measures_the_energy_that_was_drawn(tmp_path):
    need("zeus.monitor", "pynvml")
    _, energy, (before, begun, ending, ended) = json.loads(run_peer(tmp_path, "-c", ZEUS).splitlines()[-1])
    assert set(energy) == {"0", "1"}
    # Each of its two reads is somewhere within a call of Zeus's, and the counter moves every 100 ms.
    for device, watts in (("0", 300), ("1", 650)):
        assert watts * (ending - begun - 0.1) <= energy[device] <= watts * (ended - before + 0.1)


def test_zeus_integrates_power_where_the_counter_is_missing(tmp_path):
    need("zeus.monitor", "pynvml")
    # Zeus keeps a sample only when the power changes: a square, so that there is something to integrate.
    power = {"kind": "square", "low_w": 200, "high_w": 300, "period_s": 0.5}
    devices = [{"preset": "P100", "power": power}]
    took, energy, _ = json.loads(run_peer(tmp_path, "-c", ZEUS, devices=devices).splitlines()[-1])
    assert energy["0"] == pytest.approx(250 * took, rel=0.2)


REFUSED = """
from zeus.device.gpu.common import ZeusGPUNotSupportedError
from zeus.monitor import ZeusMonitor
monitor = ZeusMonitor()
try:
    monitor.begin_window("w", sync_execution=False)
except ZeusGPUNotSupportedError:
    print("not supported")
"""


def test_zeus_says_so_where_a_newer_card_lost_its_counter(tmp_path):
    need("zeus.monitor", "pynvml")
    devices = [{"preset": "H100", "counter": {"mode": "missing"}}]
    assert run_peer(tmp_path, "-c", REFUSED, devices=devices).splitlines()[-1] == "not supported"


def test_nvitop_shows_the_devices(tmp_path):
    need("nvitop")
    table = run_peer(tmp_path, "-m", "nvitop", "-1")
    assert re.search(r"Driver Version: \S+-sim", table)
    assert table.count("H100 80GB HBM3") == 2
    assert "300W / 700W" in table
    assert "650W / 700W" in table
    assert "4096MiB" in table


def test_nvitop_knows_mig_devices(tmp_path):
    need("nvitop")
    mig = [{"profile": "1g.10gb", "memory_mib": 9856}, {"profile": "3g.40gb", "memory_mib": 40192, "slices": 3}]
    script = (
        "from nvitop import Device\n"
        "print([[m.name(), m.uuid(), m.memory_total(), str(m.power_usage())] for m in Device(0).mig_devices()])"
    )
    shown = run_peer(tmp_path, "-c", script, devices=[{"preset": "H100", "power": 300, "mig": mig}])
    assert "MIG 1g.10gb" in shown
    assert "MIG 3g.40gb" in shown
    assert shown.count("MIG-") == 2
    assert shown.count("N/A") == 2


OPENLIT = """
import json
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
from openlit.instrumentation.gpu import GPUInstrumentor
GPUInstrumentor().instrument(application_name="a", environment="e")
values = {}
for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            values[metric.name] = [point.value for point in metric.data.data_points]
print(json.dumps(values))
"""


def test_openlit_publishes_the_power_of_each_device(tmp_path):
    need("openlit", "pynvml")
    values = json.loads(run_peer(tmp_path, "-c", OPENLIT).splitlines()[-1])
    assert values["gpu.power.draw"] == [300, 650]
    assert values["gpu.power.limit"] == [700, 700]
    assert values["gpu.memory.used"][0] > values["gpu.memory.used"][1]


def test_run_command_hands_the_peer_the_devices(tmp_path):
    need("nvitop")
    prepared = prepare(parse_scenario({"devices": GPUS}), tmp_path)
    check = "from nvitop import Device; raise SystemExit(Device.count())"
    assert run_command(prepared, [PYTHON, "-c", check]) == 2
