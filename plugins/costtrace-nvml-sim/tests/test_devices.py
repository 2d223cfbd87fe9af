"""The devices that the simulated NVML shows, and the marks by which they are recognised as simulated."""

import shutil

import pytest
from nvml_sim_support import double

from costtrace.sensors.nvml.binding import is_simulated

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

MIG_7 = [{"profile": "1g.10gb", "memory_mib": 9856} for _ in range(6)] + [
    {"profile": "1g.20gb", "memory_mib": 20096, "gpu_instance": 13}
]


def test_a_full_node_of_128_devices_can_be_read(tmp_path):
    simulated = double(tmp_path, {"preset": "H200", "count": 128, "power": 300})
    script = """
clock.set(10**10)
out = [[nvml.nvmlDeviceGetUUID(h), nvml.nvmlDeviceGetIndex(h), nvml.nvmlDeviceGetPciInfo(h).busId,
        nvml.nvmlDeviceGetTotalEnergyConsumption(h)] for h in devices]
for uuid, index, bus, _ in out:
    for again in (nvml.nvmlDeviceGetHandleByUUID(uuid), nvml.nvmlDeviceGetHandleByPciBusId(bus)):
        assert nvml.nvmlDeviceGetIndex(again) == index
"""
    rows = simulated.read(script)
    assert [row[1] for row in rows] == list(range(128))
    assert len({row[0] for row in rows}) == len({row[2] for row in rows}) == 128
    assert [row[3] for row in rows] == [simulated.truth.counter_mj(i, 10**10) for i in range(128)]


def test_uuids_are_the_same_in_every_run_of_a_scenario(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (double(tmp_path / d, {"preset": "T4", "count": 2}) for d in "ab")
    assert [d.uuid for d in first.prepared.compiled.devices] == [d.uuid for d in second.prepared.compiled.devices]


def test_identity_can_be_declared_but_the_marks_stay(tmp_path):
    device = {"preset": "B200", "name": "My GPU", "uuid": "GPU-1234", "memory_mib": 1000, "memory_used_mib": 100}
    simulated = double(tmp_path, device, driver_version="570.01")
    script = """
import ctypes
from costtrace_nvml_sim.detect import loaded_library_version
h = devices[0]
out = {"name": nvml.nvmlDeviceGetName(h), "uuid": nvml.nvmlDeviceGetUUID(h), "serial": nvml.nvmlDeviceGetSerial(h),
       "part": nvml.nvmlDeviceGetBoardPartNumber(h), "driver": nvml.nvmlSystemGetDriverVersion(),
       "symbol": loaded_library_version(), "cc": nvml.nvmlDeviceGetCudaComputeCapability(h),
       "arch": nvml.nvmlDeviceGetArchitecture(h), "limit": nvml.nvmlDeviceGetEnforcedPowerLimit(h),
       "total": nvml.nvmlDeviceGetMemoryInfo(h).total, "used": nvml.nvmlDeviceGetMemoryInfo(h, nvml.nvmlMemory_v2).used}
"""
    shown = simulated.read(script)
    assert shown.pop("symbol")
    assert is_simulated(shown["driver"])
    assert shown == {
        "name": "My GPU",
        "uuid": "GPU-1234",
        "serial": "SIMULATED0000",
        "part": "SIMULATED",
        "driver": "570.01-sim",
        "cc": [10, 0],
        "arch": 10,
        "limit": 1_000_000,
        "total": 1000 << 20,
        "used": 100 << 20,
    }


@pytest.mark.parametrize(("version", "expected"), [("580.95-sim", True), (b"580.95-sim", True), ("580.95.05", False)])
def test_the_driver_version_tells_the_double_from_a_driver(version, expected):
    assert is_simulated(version) is expected


def test_mig_devices_have_names_and_memory_but_no_meter_of_their_own(tmp_path):
    simulated = double(tmp_path, {"preset": "H100", "power": 400, "mig": MIG_7})
    script = """
clock.set(10**10)
board = devices[0]
migs = [nvml.nvmlDeviceGetMigDeviceHandleByIndex(board, i) for i in range(7)]
last = migs[-1]
out = {
    "mode": nvml.nvmlDeviceGetMigMode(board), "max": nvml.nvmlDeviceGetMaxMigDeviceCount(board),
    "no eighth": attempt(nvml.nvmlDeviceGetMigDeviceHandleByIndex, board, 7),
    "uuids": [nvml.nvmlDeviceGetUUID(m) for m in migs],
    "name": nvml.nvmlDeviceGetName(last), "is mig": [nvml.nvmlDeviceIsMigDeviceHandle(h) for h in (board, last)],
    "gi": nvml.nvmlDeviceGetGpuInstanceId(last), "ci": nvml.nvmlDeviceGetComputeInstanceId(last),
    "memory": nvml.nvmlDeviceGetAttributes(last).memorySizeMB,
    "total": nvml.nvmlDeviceGetMemoryInfo(last).total,
    "parent": nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(last)),
    "by uuid": nvml.nvmlDeviceIsMigDeviceHandle(nvml.nvmlDeviceGetHandleByUUID(nvml.nvmlDeviceGetUUID(last))),
    "power": [attempt(f, last) for f in (nvml.nvmlDeviceGetPowerUsage, nvml.nvmlDeviceGetTotalEnergyConsumption)],
    "field": field(last, 186), "board": field(board, 186)["value"],
}
"""
    shown = simulated.read(script)
    assert len(set(shown.pop("uuids"))) == 7
    assert shown == {
        "mode": [1, 1],
        "max": 7,
        "no eighth": "NVMLError_NotFound",
        "name": "NVIDIA H100 80GB HBM3 MIG 1g.20gb",
        "is mig": [0, 1],
        "gi": 13,
        "ci": 0,
        "memory": 20096,
        "total": 20096 << 20,
        "parent": 0,
        "by uuid": 1,
        "power": ["NVMLError_NotSupported"] * 2,
        "field": {"error": 3},
        "board": 400_000,
    }


def test_processes_are_listed_on_their_device_and_mig_device(tmp_path):
    processes = [{"pid": 11, "memory_mib": 5, "gpu_instance": 1}, {"pid": 12, "memory_mib": 6, "gpu_instance": 2}]
    simulated = double(tmp_path, {"preset": "A100", "mig": MIG_7, "processes": processes})
    script = """
mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(devices[0], 1)
out = [[[p.pid, p.usedGpuMemory] for p in nvml.nvmlDeviceGetComputeRunningProcesses(h)] for h in (devices[0], mig)]
out.append([nvml.nvmlDeviceGetGraphicsRunningProcesses(devices[0]), nvml.nvmlDeviceGetMemoryInfo(mig).used])
"""
    assert simulated.read(script) == [[[11, 5 << 20], [12, 6 << 20]], [[12, 6 << 20]], [[], 6 << 20]]


def test_what_is_not_simulated_is_not_supported_and_what_no_driver_has_is_not_found(tmp_path):
    simulated = double(tmp_path, {"preset": "H100"})
    script = """
out = [attempt(nvml.nvmlDeviceGetFanSpeed, devices[0]), attempt(nvml.nvmlDeviceGetNvLinkState, devices[0], 0)]
try:
    nvml._nvmlGetFunctionPointer("nvmlNoSuchFunction")
except nvml.NVMLError as error:
    out.append(type(error).__name__)
"""
    assert simulated.read(script) == ["NVMLError_NotSupported"] * 2 + ["NVMLError_FunctionNotFound"]


def test_arguments_that_the_driver_refuses_are_refused(tmp_path):
    simulated = double(tmp_path, {"preset": "H100"})
    script = """
import ctypes
lib = ctypes.CDLL("libnvidia-ml.so.1")
wild = ctypes.c_void_p(12345)
small = ctypes.create_string_buffer(3)
out = [attempt(nvml.nvmlDeviceGetHandleByIndex, 1), attempt(nvml.nvmlDeviceGetHandleByUUID, "GPU-none"),
       lib.nvmlDeviceGetPowerUsage(wild, ctypes.byref(ctypes.c_uint())), lib.nvmlDeviceGetPowerUsage(devices[0], None),
       lib.nvmlDeviceGetName(devices[0], small, 3), lib.nvmlDeviceGetUUID(None, small, 3)]
"""
    assert simulated.read(script) == ["NVMLError_InvalidArgument", "NVMLError_NotFound", 2, 2, 7, 2]


def test_two_threads_read_what_one_thread_reads(tmp_path):
    device = {"preset": "A100", "power": {"kind": "sine", "mean_w": 200, "amplitude_w": 100, "period_s": 1}}
    simulated = double(tmp_path, {**device, "count": 4, "counter": {"mode": "part_time"}}, clock="real")
    script = """
import threading
wrong, reads = [], [0]
def reader():
    last = [0] * len(devices)
    for turn in range(3000):
        place = turn % len(devices)
        value = nvml.nvmlDeviceGetTotalEnergyConsumption(devices[place])
        nvml.nvmlDeviceGetFieldValues(devices[place], [83, 186])
        if value < last[place]:
            wrong.append([place, last[place], value])
        last[place] = value
        reads[0] += 1
threads = [threading.Thread(target=reader) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
out = [wrong, reads[0] > 0]
"""
    assert simulated.read(script) == [[], True]


def test_a_child_forked_while_another_thread_reads_can_read(tmp_path):
    power = {"kind": "sine", "mean_w": 100, "amplitude_w": 50, "period_s": 1}
    device = {"preset": "A100", "power": power, "sensor": {"average_ms": 500_000}}
    simulated = double(tmp_path, device)
    script = """
import os, signal, threading
stop = threading.Event()
def read():
    while not stop.is_set():
        field(devices[0], 186)
        nvml.nvmlDeviceGetTotalEnergyConsumption(devices[0])
threads = [threading.Thread(target=read) for _ in range(2)]
[t.start() for t in threads]
out = []
for _ in range(40):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        os._exit(0 if nvml.nvmlDeviceGetMinorNumber(devices[0]) == 0 else 1)
    out.append(os.waitpid(pid, 0)[1])
    if out[-1]:
        break
stop.set()
"""
    assert simulated.read(script) == [0] * 40
