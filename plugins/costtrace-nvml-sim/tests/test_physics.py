"""What sensors and counters of the double show, against figures worked out by hand and against the reference."""

import random
import shutil

import pytest
from costtrace_nvml_sim.presets import PRESETS
from nvml_sim_support import double

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

MS = 1_000_000
SECOND = 1_000 * MS
HOUR = 3_600 * SECOND
FAST_SQUARE = {"kind": "square", "low_w": 100, "high_w": 500, "period_s": 0.1, "duty": 0.5}
READ_ALL = """
out = []
for device, t in params["reads"]:
    clock.set(t)
    h = devices[device]
    out.append({
        "usage": nvml.nvmlDeviceGetPowerUsage(h),
        "instant": field(h, 186),
        "average": field(h, 185),
        "module": field(h, 186, 1),
        "counter": attempt(nvml.nvmlDeviceGetTotalEnergyConsumption, h),
        "field83": field(h, 83),
        "field191": field(h, 191, 0),
        "field191_module": field(h, 191, 1),
    })
"""


def values_at(simulated, script, *times):
    return simulated.read(
        f"out = []\nfor t in params['times']:\n    clock.set(t)\n    out.append({script})", times=times
    )


COUNTER = "nvml.nvmlDeviceGetTotalEnergyConsumption(devices[0])"
USAGE = "nvml.nvmlDeviceGetPowerUsage(devices[0])"
INSTANT = "field(devices[0], 186)['value']"


@pytest.mark.parametrize("mode", ["ideal", "part_time"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_library_and_reference_agree_on_every_reading_of_every_preset(tmp_path, preset, mode):
    waves = [
        {"kind": "square", "low_w": 90, "high_w": 333.333, "period_s": 0.0713, "duty": 0.31},
        {"kind": "sine", "mean_w": 200, "amplitude_w": 150, "period_s": 1.7},
        {"kind": "segments", "segments": [{"for_s": 0.013, "power_w": 50}, {"for_s": 1.1, "power_w": 301}]},
        {"kind": "step", "before_w": 60, "after_w": 250.5, "at_s": 3.1},
    ]
    sensors = [{}, {"gain": 0.953, "lag_ms": 13, "offset_w": 1.5}, {"resolution_mw": 10}, {"gain": 1.07}]
    devices = [
        {
            "preset": preset,
            "power": wave,
            "sensor": sensor,
            "counter": {"mode": mode, "resolution_mj": 1 + 6 * place, "lag_ms": 7 * place, "start_mj": 123 * place},
        }
        for place, (wave, sensor) in enumerate(zip(waves, sensors, strict=True))
    ]
    faults = [
        {"kind": "counter_reset", "device": 1, "at_s": 4.2},
        {"kind": "counter_frozen", "device": 2, "at_s": 2, "until_s": 5, "afterwards": "lost"},
        {"kind": "counter_frozen", "device": 3, "at_s": 2, "until_s": 5},
    ]
    simulated = double(tmp_path, *devices, faults=faults)
    draw = random.Random(preset + mode)
    times = sorted(draw.randrange(0, 9 * SECOND) for _ in range(80)) + [
        draw.randrange(0, 9 * SECOND) for _ in range(20)
    ]
    reads = [(place % 4, t) for place, t in enumerate(times)]
    shown = simulated.read(READ_ALL, reads=reads)
    truth = simulated.truth
    superchip = PRESETS[preset].module_extra_w is not None
    for (device, t), row in zip(reads, shown, strict=True):
        assert row["usage"] == truth.power_usage_mw(device, t)
        assert row["instant"]["value"] == truth.instant_mw(device, t)
        expected = {"value": truth.average_mw(device, t)} if PRESETS[preset].has_average_field else {"error": 3}
        assert expected.items() <= row["average"].items()
        assert row["counter"] == row["field83"]["value"] == row["field191"]["value"] == truth.counter_mj(device, t)
        module = {"value": truth.instant_mw(device, t, scope="module")} if superchip else {"error": 3}
        assert module.items() <= row["module"].items()
        module = {"value": truth.counter_mj(device, t, scope="module")} if superchip else {"error": 3}
        assert module.items() <= row["field191_module"].items()


def test_part_time_sensor_misses_load_outside_its_window_while_an_ideal_counter_does_not(tmp_path):
    # High for 0-50 ms of every 100 ms; the window is 75-100 ms: the sensor never sees it.
    h100 = {"preset": "H100", "power": FAST_SQUARE}
    simulated = double(tmp_path, h100, {**h100, "counter": {"mode": "part_time"}, "sensor": {"phase_ms": 0}})
    assert values_at(simulated, INSTANT, 10 * SECOND) == [100_000]
    assert values_at(simulated, COUNTER, 10 * SECOND) == [3_000_000]
    assert values_at(simulated, COUNTER.replace("[0]", "[1]"), 10 * SECOND) == [1_000_000]
    assert simulated.truth.energy_uj(1, 0, 10 * SECOND) == 3_000_000_000


def test_full_window_sensor_sees_the_same_load_whole(tmp_path):
    simulated = double(tmp_path, {"preset": "L40S", "power": FAST_SQUARE, "counter": {"mode": "part_time"}})
    assert values_at(simulated, INSTANT, 10 * SECOND) == [300_000]
    assert values_at(simulated, COUNTER, 10 * SECOND) == [3_000_000]


def test_power_usage_of_a_hopper_is_a_one_second_average_and_of_an_a100_is_not(tmp_path):
    step = {"kind": "step", "before_w": 100, "after_w": 400, "at_s": 10}
    simulated = double(tmp_path, *({"preset": p, "power": step, "sensor": {"phase_ms": 0}} for p in ("H100", "A100")))
    after = [10 * SECOND + 99 * MS, 10 * SECOND + 100 * MS, 10 * SECOND + 500 * MS, 11 * SECOND]
    assert values_at(simulated, USAGE, *after) == [100_000, 130_000, 250_000, 400_000]
    assert values_at(simulated, USAGE.replace("[0]", "[1]"), *after) == [100_000, 400_000, 400_000, 400_000]


def test_volta_updates_every_20_ms_from_the_last_10(tmp_path):
    step = {"kind": "step", "before_w": 100, "after_w": 200, "at_s": 1.014}
    simulated = double(tmp_path, {"preset": "V100", "power": step})
    times = [1 * SECOND + ms * MS for ms in (19, 20, 39, 40)]
    assert values_at(simulated, INSTANT, *times) == [100_000, 160_000, 160_000, 200_000]


def test_gain_offset_and_resolution_shape_what_is_shown_and_not_the_truth(tmp_path):
    sensor = {"gain": 0.95, "offset_w": -0.5, "resolution_mw": 100}
    simulated = double(tmp_path, {"preset": "L40S", "power": 333.3, "sensor": sensor})
    assert values_at(simulated, INSTANT, SECOND) == [316_100]  # 333.3 x 0.95 - 0.5 = 316.135
    assert values_at(simulated, COUNTER, 10 * SECOND) == [3_161_350]
    assert simulated.truth.energy_uj(0, 0, 10 * SECOND) == 3_333_000_000


def test_lag_delays_what_is_shown(tmp_path):
    step = {"kind": "step", "before_w": 100, "after_w": 400, "at_s": 10}
    simulated = double(tmp_path, {"preset": "L40S", "power": step, "sensor": {"lag_ms": 60}})
    at = [10 * SECOND + 100 * MS, 10 * SECOND + 200 * MS]
    assert values_at(simulated, INSTANT, *at) == [220_000, 400_000]


def test_counter_moves_in_steps_of_its_period_and_resolution(tmp_path):
    counter = {"update_period_ms": 50, "resolution_mj": 1000, "start_mj": 7_500}
    simulated = double(tmp_path, {"preset": "H100", "power": 110, "counter": counter})
    times = [ms * MS for ms in (0, 49, 50, 99, 100, 149)]
    assert values_at(simulated, COUNTER, *times) == [7_000, 7_000, 13_000, 13_000, 18_000, 18_000]


def test_a_missing_counter_is_not_supported_and_never_zero(tmp_path):
    simulated = double(tmp_path, {"preset": "A100", "power": 200, "counter": {"mode": "missing"}})
    shown = simulated.read(
        "clock.set(10**10)\nh = devices[0]\n"
        "out = [attempt(nvml.nvmlDeviceGetTotalEnergyConsumption, h), field(h, 83), field(h, 191)]"
    )
    assert shown == ["NVMLError_NotSupported", {"error": 3}, {"error": 3}]


def test_what_is_shown_does_not_depend_on_how_often_it_was_looked_at(tmp_path):
    device = {"preset": "A100", "power": FAST_SQUARE, "counter": {"mode": "part_time"}, "sensor": {"gain": 0.97}}
    simulated = double(tmp_path, device)
    often = values_at(simulated, COUNTER, *range(0, 5 * SECOND, 3 * MS), 5 * SECOND)
    assert often[-1:] == values_at(simulated, COUNTER, 5 * SECOND)
    assert values_at(simulated, COUNTER, 5 * SECOND, 2 * SECOND, 5 * SECOND)[0::2] == [often[-1]] * 2


def test_a_virtual_day_of_a_part_time_counter_is_exact(tmp_path):
    simulated = double(tmp_path, {"preset": "H200", "power": 512, "counter": {"mode": "part_time"}})
    assert values_at(simulated, COUNTER, 24 * HOUR) == [512 * 24 * 3600 * 1000]


def test_superchip_counts_its_whole_module_and_still_tells_gpu_power(tmp_path):
    simulated = double(tmp_path, {"preset": "GH200", "power": 400, "module_power": 110})
    script = (
        "clock.set(10**10)\nh = devices[0]\n"
        "out = [nvml.nvmlDeviceGetTotalEnergyConsumption(h), field(h, 186, 0)['value'],"
        " field(h, 186, 1)['value'], nvml.nvmlDeviceGetSamples(h, 7, 0)[1][-1].sampleValue.uiVal]"
    )
    assert simulated.read(script) == [5_100_000, 400_000, 510_000, 510_000]


def test_samples_are_the_sensors_updates_after_the_last_seen_one(tmp_path):
    simulated = double(tmp_path, {"preset": "A100", "power": FAST_SQUARE}, start_unix_s=1_000)
    script = (
        "clock.set(2 * 10**9)\n"
        "kind, samples = nvml.nvmlDeviceGetSamples(devices[0], 0, 1_001_700_000)\n"
        "out = [[s.timeStamp, s.sampleValue.uiVal] for s in samples]"
    )
    assert simulated.read(script) == [[1_001_800_000, 100_000], [1_001_900_000, 100_000], [1_002_000_000, 100_000]]


@pytest.mark.parametrize(("stamp", "expected"), [("read", 1_002_345_678), ("update", 1_002_300_000)])
def test_timestamps_are_of_the_read_or_of_the_update_as_declared(tmp_path, stamp, expected):
    device = {"preset": "A100", "power": 100, "sensor": {"field_timestamp": stamp}}
    simulated = double(tmp_path, device, start_unix_s=1_000)
    script = "clock.set(2_345_678_000)\nout = [field(devices[0], 83)['timestamp'], field(devices[0], 186)['timestamp']]"
    assert simulated.read(script) == [expected, expected]


def test_curves_from_csv_are_followed(tmp_path):
    (tmp_path / "curve.csv").write_text("t_s,power_w\n5.0,100\n6.0,300\n7.0,0\n")
    curve = {"kind": "csv", "path": "curve.csv", "repeat": True}
    simulated = double(tmp_path, {"preset": "L40S", "power": curve, "sensor": {"phase_ms": 0}})
    times = [500 * MS, 1_500 * MS, 2_500 * MS, 3_500 * MS, 10 * SECOND]
    assert values_at(simulated, INSTANT, *times) == [100_000, 300_000, 100_000, 300_000, 300_000]
    assert values_at(simulated, COUNTER, 100 * SECOND) == [20_000_000]
