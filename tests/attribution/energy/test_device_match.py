"""Whose joules does an engine get that names its devices otherwise than NVML? The right device's, or none."""

import pytest
from costtrace_lab.engines.schedules import BOOT_ID, WALL_OFFSET_NS, header

from costtrace.attribution.energy.device_match import meter_of
from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.core.events import DeviceRef, DeviceSeen, EngineReady, EngineStarted, Heartbeat, Reading
from costtrace.core.units import NS_PER_S


def gpu(uuid, index):
    return DeviceSeen(uuid, 0, "NVIDIA H100 80GB HBM3", "gpu", "gpu", "nvml_counter", index)


BOARDS = [gpu("GPU-aaaa-1", 0), gpu("GPU-bbbb-2", 1)]


@pytest.mark.parametrize(
    ("name", "settings", "boards", "uuid"),
    [
        ("GPU-bbbb-2", {}, BOARDS, "GPU-bbbb-2"),
        ("GPU-bb", {}, BOARDS, "GPU-bbbb-2"),
        ("cuda-host-0", {}, BOARDS[1:], ""),
        ("cuda-host-1", {}, BOARDS[1:], "GPU-bbbb-2"),
        ("cuda-host-0", {"cuda_visible_devices": "1"}, BOARDS, "GPU-bbbb-2"),
        ("cuda-host-0", {"cuda_visible_devices": "GPU-bbbb-2,GPU-aaaa-1"}, BOARDS, "GPU-bbbb-2"),
        ("cuda-host-0", {}, BOARDS, ""),
        ("CPU-host", {}, BOARDS, ""),
    ],
)
def test_a_device_is_recognised_only_where_there_is_no_doubt(name, settings, boards, uuid):
    assert meter_of(DeviceRef(name, "H100", "gpu", "host"), boards, settings).uuid == uuid


def engine_on(name, settings, boards, seconds=4):
    """An idle engine's rows, on devices that a sensor reads at 100 W."""
    pipeline = Pipeline(Policy(), 60 * NS_PER_S)
    begin = 10 * NS_PER_S
    for each in boards:
        pipeline.device_seen(BOOT_ID, each)
    pipeline.add("simulator-1", header("simulator-1", begin))
    device = DeviceRef(name, "H100", "gpu", "simulated")
    pipeline.take("simulator-1", EngineStarted(begin, "simulator", "1", "m", (device,), settings=settings))
    pipeline.take("simulator-1", EngineReady(begin))
    for second in range(seconds + 1):
        at = begin + second * NS_PER_S
        for each in boards:
            pipeline.reading(BOOT_ID, Reading(each.uuid, at, second * 10**8, None, "nvml_counter"))
        pipeline.take("simulator-1", Heartbeat(at, at + WALL_OFFSET_NS))
        pipeline.sweep(at)
    pipeline.end("simulator-1")
    pipeline.sweep(begin + (seconds + 200) * NS_PER_S)
    pipeline.sweep(1 << 60)
    return pipeline, pipeline.take_rows()


def test_the_joules_of_a_device_that_is_named_by_index_reach_its_engines_rows():
    pipeline, rows = engine_on("cuda-host-0", {"cuda_visible_devices": "1"}, BOARDS)
    assert sum(row.energy_uj or 0 for row in rows.meter) == 4 * 10**8
    assert pipeline.meters[f"{BOOT_ID}/GPU-bbbb-2"].attributed_uj == 4 * 10**8
    assert pipeline.meters[f"{BOOT_ID}/GPU-aaaa-1"].attributed_uj == 0


def test_where_it_is_not_certain_which_device_is_meant_energy_is_unknown():
    _, rows = engine_on("cuda-host-0", {}, BOARDS)
    assert rows.meter
    assert {row.energy_uj for row in rows.meter} == {None}
