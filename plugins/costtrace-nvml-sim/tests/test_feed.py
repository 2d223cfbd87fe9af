"""Live power from files: what engines and simulators write while programs read."""

import shutil

import pytest
from costtrace_nvml_sim.errors import NvmlSimError
from costtrace_nvml_sim.feed import RECORD, PowerFeed, read_feed
from nvml_sim_support import double

MS = 1_000_000
needs_library = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
COUNTER = """
out = []
for t in params["times"]:
    clock.set(t)
    out.append(nvml.nvmlDeviceGetTotalEnergyConsumption(devices[params.get("device", 0)]))
"""


def write(simulated, path, *records):
    with PowerFeed(path) as feed:
        for t_ms, device, power_mw in records:
            feed.write(device, power_mw, t_ns=simulated.prepared.compiled.t0_monotonic_ns + t_ms * MS)


@needs_library
def test_counter_integrates_what_was_fed_exactly_after_the_settling_time(tmp_path):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    device = {"preset": "L40S", "feeds": [{"path": "power.bin"}]}
    simulated = double(tmp_path, {**device, "counter": {"phase_ms": 0}})
    write(simulated, tmp_path / "power.bin", (0, 0, 100_000), (980, 0, 300_000), (1_980, 0, 0), (2_000, 1, 999_000))
    # At 2 s the counter has seen until 1.98 s (20 ms to settle), counted from -20 ms at t0.
    shown = simulated.read(COUNTER, times=[0, 1_000 * MS, 2_000 * MS, 9_000 * MS])
    assert shown == [0, 98_000 + 700, 398_000 + 700, 398_000 + 700]  # 20 ms of 35 W idle before t0
    assert simulated.truth.energy_uj(0, 0, 9_000 * MS) == 398_000_000


@needs_library
def test_reader_sees_records_that_are_appended_while_it_runs(tmp_path):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    simulated = double(tmp_path, {"preset": "H100", "feeds": [{"path": "power.bin"}], "counter": {"mode": "part_time"}})
    script = """
from costtrace_nvml_sim.feed import PowerFeed
out = []
t0 = params["t0"]
with PowerFeed(params["path"]) as feed:
    for turn in range(1, 400):
        feed.write(0, 50_000 + 977 * turn % 400_000, t_ns=t0 + turn * 37_000_000)
        clock.set(turn * 37_000_000 + 11_000_000)
        h = devices[0]
        out.append([clock.now_ns, nvml.nvmlDeviceGetTotalEnergyConsumption(h), nvml.nvmlDeviceGetPowerUsage(h)])
"""
    path = tmp_path / "power.bin"
    rows = simulated.read(script, path=str(path), t0=simulated.prepared.compiled.t0_monotonic_ns)
    truth = simulated.truth
    assert rows == [[t, truth.counter_mj(0, t), truth.power_usage_mw(0, t)] for t, _, _ in rows]
    assert sorted(row[1] for row in rows) == [row[1] for row in rows]


@needs_library
def test_a_record_that_comes_late_is_still_counted_in_full(tmp_path):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    simulated = double(tmp_path, {"preset": "H100", "feeds": [{"path": "power.bin"}], "counter": {"mode": "part_time"}})
    script = """
from costtrace_nvml_sim.feed import PowerFeed
out = []
with PowerFeed(params["path"]) as feed:
    for at, power_mw in ((1, 100_000), (2, 600_000), (9, 50_000)):
        clock.set(at * 10**9 + 5 * 10**9)
        nvml.nvmlDeviceGetTotalEnergyConsumption(devices[0])
        feed.write(0, power_mw, t_ns=params["t0"] + at * 10**9)
    out = nvml.nvmlDeviceGetTotalEnergyConsumption(devices[0])
"""
    path = tmp_path / "power.bin"
    shown = simulated.read(script, path=str(path), t0=simulated.prepared.compiled.t0_monotonic_ns)
    assert shown == simulated.truth.counter_mj(0, 14 * 10**9)
    assert shown == pytest.approx(1 * 70_000 + 1 * 100_000 + 7 * 600_000 + 5 * 50_000, rel=0.03)


@needs_library
def test_feeds_of_engines_that_share_a_device_add_to_its_base_power(tmp_path):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    feeds = [{"path": "a.bin", "device": 7, "settle_ms": 0}, {"path": "b.bin", "device": 7, "settle_ms": 0}]
    simulated = double(tmp_path, {"preset": "A100", "power": 50, "feeds": feeds, "counter": {"phase_ms": 0}})
    write(simulated, tmp_path / "a.bin", (0, 7, 100_000))
    write(simulated, tmp_path / "b.bin", (1_000, 7, 200_000), (2_000, 7, 0))
    assert simulated.read(COUNTER, times=[3_000 * MS]) == [150_000 + 300_000 + 200_000]


@needs_library
def test_an_unwritten_feed_draws_idle_power(tmp_path):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    simulated = double(tmp_path, {"preset": "A100", "feeds": [{"path": "never.bin"}]})
    assert simulated.read("clock.set(10**9)\nout = nvml.nvmlDeviceGetPowerUsage(devices[0])") == 50_000


@needs_library
def test_a_torn_record_waits_for_its_rest(tmp_path):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    path = tmp_path / "power.bin"
    simulated = double(tmp_path, {"preset": "T4", "feeds": [{"path": "power.bin"}], "counter": {"phase_ms": 0}})
    record = RECORD.pack(simulated.prepared.compiled.t0_monotonic_ns, 0, 70_000)
    path.write_bytes(record[:9])
    script = """
clock.set(10**9)
out = [nvml.nvmlDeviceGetPowerUsage(devices[0])]
with open(params["path"], "ab") as file:
    file.write(bytes.fromhex(params["rest"]))
out.append(nvml.nvmlDeviceGetPowerUsage(devices[0]))
"""
    assert simulated.read(script, path=str(path), rest=record[9:].hex()) == [10_000, 70_000]
    assert [r.power_mw for r in read_feed(path)] == [70_000]


def test_a_feed_refuses_time_that_runs_backwards_and_impossible_power(tmp_path):
    with PowerFeed(tmp_path / "f") as feed:
        feed.write(0, 1, t_ns=100)
        feed.write(1, 1, t_ns=50)
        with pytest.raises(NvmlSimError, match="device 0: 99 ns is before"):
            feed.write(0, 1, t_ns=99)
        with pytest.raises(NvmlSimError, match="-1 mW"):
            feed.write(0, -1)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert [r.device for r in read_feed(tmp_path / "f")] == [0, 1]
