"""Faults of a scenario, as a program sees them through nvidia-ml-py."""

import shutil

import pytest
from nvml_sim_support import double

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

SECOND = 1_000_000_000
CARD = {"preset": "L40S", "power": 100, "sensor": {"phase_ms": 0}}
COUNTERS = """
out = []
for t in params["times"]:
    clock.set(t)
    out.append([attempt(nvml.nvmlDeviceGetTotalEnergyConsumption, h) for h in devices])
"""


def counters(simulated, *seconds):
    return simulated.read(COUNTERS, times=[round(s * SECOND) for s in seconds])


def test_reset_starts_the_counter_again_from_zero_on_its_device_only(tmp_path):
    fault = {"kind": "counter_reset", "device": 0, "at_s": 3}
    simulated = double(tmp_path, {**CARD, "count": 2, "counter": {"start_mj": 5_000}}, faults=[fault])
    shown = counters(simulated, 2.9, 3, 4)
    assert [row[0] for row in shown] == [295_000, 0, 100_000]
    assert [row[1] for row in shown][2] > 400_000


@pytest.mark.parametrize(("afterwards", "later"), [("catch_up", 500_000), ("lost", 300_000)])
def test_frozen_counter_stands_still_and_then_catches_up_or_has_lost_it(tmp_path, afterwards, later):
    fault = {"kind": "counter_frozen", "at_s": 1, "until_s": 3, "afterwards": afterwards}
    simulated = double(tmp_path, CARD, faults=[fault])
    assert counters(simulated, 1, 2, 2.99, 5) == [[100_000], [100_000], [100_000], [later]]


def test_one_unknown_error_happens_once_in_each_process(tmp_path):
    call = "nvmlDeviceGetTotalEnergyConsumption"
    fault = {"kind": "error", "call": call, "code": "UNKNOWN", "at_s": 1, "times": 1}
    simulated = double(tmp_path, CARD, faults=[fault])
    assert counters(simulated, 0.5, 1, 1.1) == [[50_000], ["NVMLError_Unknown"], [110_000]]
    assert counters(simulated, 1, 1.1) == [["NVMLError_Unknown"], [110_000]]


def test_one_error_stays_one_error_when_the_program_starts_nvml_again(tmp_path):
    faults = [
        {"kind": "error", "call": "nvmlDeviceGetPowerUsage", "code": "UNKNOWN", "times": 1},
        {"kind": "error", "call": "nvmlInit", "code": "NO_PERMISSION", "times": 2},
    ]
    simulated = double(tmp_path, CARD, faults=faults)
    script = """
out = [attempt(nvml.nvmlInit) for _ in range(3)]
for _ in range(2):
    out.append(attempt(nvml.nvmlDeviceGetPowerUsage, nvml.nvmlDeviceGetHandleByIndex(0)))
    nvml.nvmlShutdown()
    nvml.nvmlInit()
"""
    denied = "NVMLError_NoPermission"
    assert simulated.read(script, init=False) == [denied, denied, None, "NVMLError_Unknown", 100_000]


def test_a_call_can_be_unsupported_on_one_device_for_a_while(tmp_path):
    fault = {
        "kind": "error",
        "call": "nvmlDeviceGetTotal*",
        "code": "NOT_SUPPORTED",
        "device": 1,
        "at_s": 1,
        "until_s": 2,
    }
    simulated = double(tmp_path, {**CARD, "count": 2, "counter": {"phase_ms": 0}}, faults=[fault])
    assert counters(simulated, 0.5, 1, 2) == [
        [50_000, 50_000],
        [100_000, "NVMLError_NotSupported"],
        [200_000, 200_000],
    ]


def test_one_field_can_fail_while_others_are_read(tmp_path):
    simulated = double(tmp_path, CARD, faults=[{"kind": "error", "call": "field:186", "code": "NO_PERMISSION"}])
    shown = simulated.read(
        "clock.set(10**9)\nboth = nvml.nvmlDeviceGetFieldValues(devices[0], [186, 83])\n"
        "out = [[v.nvmlReturn, v.value.uiVal] for v in both]"
    )
    assert shown[0][0] == 4
    assert shown[1] == [0, 100_000]


def test_permission_denied_is_said_by_every_call_on_the_device(tmp_path):
    fault = {"kind": "error", "call": "*", "code": "NO_PERMISSION", "device": 0}
    simulated = double(tmp_path, CARD, faults=[fault])
    assert simulated.read("out = attempt(nvml.nvmlDeviceGetName, devices[0])") == "NVMLError_NoPermission"


def test_a_lost_gpu_says_so_and_leaves_the_others_alone(tmp_path):
    simulated = double(tmp_path, {**CARD, "count": 2}, faults=[{"kind": "gpu_lost", "device": 0, "at_s": 1}])
    shown = counters(simulated, 0.9, 1)
    assert shown[0][0] == 90_000
    assert shown[1][0] == "NVMLError_GpuIsLost"
    assert isinstance(shown[1][1], int)


def test_a_device_appears_with_the_next_init_and_a_vanished_one_is_lost_at_once(tmp_path):
    faults = [
        {"kind": "absent", "device": 1, "until_s": 5},
        {"kind": "absent", "device": 0, "at_s": 8},
    ]
    simulated = double(tmp_path, {**CARD, "count": 2}, faults=faults)
    script = """
def look(t):
    clock.set(t * 10**9)
    known = [attempt(nvml.nvmlDeviceGetName, h) for h in devices]
    nvml.nvmlShutdown(); nvml.nvmlInit()
    first = nvml.nvmlDeviceGetHandleByIndex(0)
    return [nvml.nvmlDeviceGetCount(), known, attempt(nvml.nvmlDeviceGetMinorNumber, first)]
out = [look(t) for t in (1, 6, 9)]
"""
    name = "NVIDIA L40S"
    assert simulated.read(script) == [[1, [name], 0], [2, [name], 0], [1, ["NVMLError_GpuIsLost"], 1]]


def test_driver_reload_refuses_calls_and_resets_counters(tmp_path):
    simulated = double(tmp_path, CARD, faults=[{"kind": "driver_reload", "at_s": 2, "until_s": 3}])
    assert counters(simulated, 1, 2.5, 4) == [[100_000], ["NVMLError_DriverNotLoaded"], [100_000]]


def test_init_without_a_driver_is_refused(tmp_path):
    simulated = double(tmp_path, CARD, faults=[{"kind": "driver_not_loaded", "until_s": 5}])
    script = "out = [attempt(nvml.nvmlInit)]\nclock.set(6 * 10**9)\nout.append(attempt(nvml.nvmlInit))"
    assert simulated.read(script, init=False) == ["NVMLError_DriverNotLoaded", None]


def test_calls_before_init_and_after_shutdown_are_refused(tmp_path):
    simulated = double(tmp_path, CARD)
    script = """
out = [attempt(nvml.nvmlDeviceGetCount)]
nvml.nvmlInit()
h = nvml.nvmlDeviceGetHandleByIndex(0)
nvml.nvmlInit()
nvml.nvmlShutdown()
out.append(attempt(nvml.nvmlDeviceGetMinorNumber, h))
nvml.nvmlShutdown()
out += [attempt(nvml.nvmlDeviceGetMinorNumber, h), attempt(nvml.nvmlDeviceGetFanSpeed, h), attempt(nvml.nvmlShutdown)]
"""
    refused = "NVMLError_Uninitialized"
    assert simulated.read(script, init=False) == [refused, 0, refused, refused, refused]


def test_injected_latency_is_waited_for_and_told_in_the_field(tmp_path):
    fault = {"kind": "latency", "call": "nvmlDeviceGetFieldValues", "latency_ms": 80, "device": 0}
    simulated = double(tmp_path, CARD, faults=[fault], clock="real")
    script = """
import time
start = time.monotonic()
latency = field(devices[0], 83)["latency"]
out = [latency, time.monotonic() - start]
"""
    latency, waited = simulated.read(script)
    assert latency == 80_000
    assert waited >= 0.08


def test_process_lists_are_slow_as_on_a_real_driver(tmp_path):
    simulated = double(tmp_path, {**CARD, "processes": [{"pid": 7}]}, clock="real", process_list_ms=60)
    script = """
import time
start = time.monotonic()
nvml.nvmlDeviceGetComputeRunningProcesses(devices[0])
out = time.monotonic() - start
"""
    assert simulated.read(script) >= 0.12  # nvidia-ml-py asks twice: for the size, then for the list


def test_a_jump_of_the_wall_clock_moves_timestamps_and_nothing_else(tmp_path):
    fault = {"kind": "wall_clock_jump", "at_s": 2, "by_s": -3600}
    simulated = double(tmp_path, CARD, faults=[fault], start_unix_s=10_000)
    script = """
out = []
for t in (1, 3):
    clock.set(t * 10**9)
    got = field(devices[0], 83)
    out.append([got["timestamp"], got["value"]])
"""
    assert simulated.read(script) == [[10_001_000_000, 100_000], [6_403_000_000, 300_000]]
