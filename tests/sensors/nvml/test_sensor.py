"""The real NVML sensor on the double, by the real nvidia-ml-py: what it reads, and what it says when it cannot."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from sensor_support import SECOND, look, simulate, times

from costtrace.sensors.nvml.sensor import device_files

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def counted_uj(readings):
    """Energy of the stretches that continue, and how often the count started again."""
    total, begun, last = 0, 0, None
    for each in readings:
        if each.energy_uj is None:
            continue
        if last is not None and each.continues(last):
            total += each.energy_uj - last.energy_uj
        elif last is not None:
            begun += 1
        last = each
    return total, begun


def test_the_counter_is_read_with_its_source_scope_and_label(tmp_path):
    seen = look(simulate(tmp_path, {"preset": "H100", "power": 400}), times(10))
    readings = [each for each in seen.of() if each.energy_uj is not None]
    assert {(each.source, each.scope, each.gain, each.simulated) for each in readings} == {
        ("nvml_counter", "gpu", "1", True)
    }
    total, begun = counted_uj(readings)
    span_ns = readings[-1].at_ns - readings[0].at_ns
    assert begun == 0
    assert total == pytest.approx(400 * span_ns / 1_000, rel=0.03)
    assert "SIMULATED" in seen.messages


def test_the_period_of_the_counter_is_found(tmp_path):
    counter = {"counter": {"update_period_ms": 100}}
    seen = look(simulate(tmp_path, {"preset": "H100", "power": 400, **counter}), times(30, 0.03))
    assert seen.of()[-1].period_ns == pytest.approx(100_000_000, rel=0.02)


def test_without_a_counter_power_is_integrated_and_says_so(tmp_path):
    device = {"preset": "H100", "power": 300, "counter": {"mode": "missing"}}
    seen = look(simulate(tmp_path, device), times(10))
    readings = seen.of()
    assert {each.source for each in readings} == {"power_integral"}
    total, _ = counted_uj(readings)
    assert total == pytest.approx(300 * (readings[-1].at_ns - readings[0].at_ns) / 1_000, rel=0.02)
    assert "no energy counter" in seen.messages


def test_a_device_that_offers_neither_is_unknown_and_not_zero(tmp_path):
    device = {"preset": "H100", "counter": {"mode": "missing"}, "sensor": {"instant_field": False}}
    power = [{"kind": "error", "call": "nvmlDeviceGetPowerUsage", "code": "NOT_SUPPORTED"}]
    seen = look(simulate(tmp_path, device, faults=power), times(3))
    assert {(each.energy_uj, each.source) for each in seen.of()} == {(None, "none")}
    assert "its energy is unknown" in seen.messages


def test_a_declared_gain_is_in_the_readings_exactly_and_recorded_with_them(tmp_path):
    plain = look(simulate(tmp_path, {"preset": "H100", "power": 400}), times(5))
    gained = look(simulate(tmp_path, {"preset": "H100", "power": 400}), times(5), gains={"NVIDIA H100*": "1.05"})
    pairs = [
        (a.energy_uj, b.energy_uj) for a, b in zip(plain.of(), gained.of(), strict=True) if a.energy_uj is not None
    ]
    assert pairs
    assert all(b == a * 105 // 100 for a, b in pairs)
    assert {each.gain for each in gained.of()} == {"1.05"}


def test_the_energy_of_a_superchip_is_that_of_its_module(tmp_path):
    seen = look(simulate(tmp_path, {"preset": "GH200", "power": 500, "module_power": 800}), times(5))
    assert {each.scope for each in seen.of()} == {"module"}
    assert "CPU and memory included" in seen.messages


def test_the_instances_of_a_board_add_up_to_it_and_are_labelled_as_estimated(tmp_path):
    mig = [{"profile": "1g.10gb", "memory_mib": 9856}, {"profile": "3g.40gb", "memory_mib": 40192, "slices": 3}]
    seen = look(simulate(tmp_path, {"preset": "H100", "power": 400, "mig": mig}), times(5))
    board, small, large = (seen.of(n) for n in range(3))
    assert {each.scope for each in (*small, *large)} == {"board_shared_by_mig"}
    assert ({each.share for each in small}, {each.share for each in large}) == ({"1/4"}, {"3/4"})
    for whole, one, other in zip(board, small, large, strict=True):
        assert one.energy_uj + other.energy_uj == whole.energy_uj
        assert (one.power_mw, other.power_mw) == (None, None)
    assert "estimate" in seen.messages


def at(seconds):
    return round(seconds * SECOND)


def test_a_reset_in_the_middle_begins_a_new_count_and_nothing_is_negative(tmp_path):
    faults = [{"kind": "counter_reset", "at_s": 5}]
    seen = look(simulate(tmp_path, {"preset": "H100", "power": 400}, faults=faults), times(10))
    readings = seen.of()
    total, begun = counted_uj(readings)
    assert begun == 1
    assert [each.fault for each in readings if each.fault] == ["fell", "reset"]
    assert 0 < total < 400 * 10 * 1_000_000


def test_an_unknown_error_once_costs_one_reading_and_no_energy(tmp_path):
    faults = [{"kind": "error", "call": "nvmlDeviceGetFieldValues", "code": "UNKNOWN", "at_s": 5, "until_s": 5.15}]
    seen = look(simulate(tmp_path, {"preset": "H100", "power": 400}, faults=faults), times(10))
    readings = seen.of()
    total, begun = counted_uj(readings)
    assert begun == 0
    assert any(each.energy_uj is None for each in readings)
    known = [each for each in readings if each.energy_uj is not None]
    assert total == known[-1].energy_uj - known[0].energy_uj


def test_a_lost_gpu_is_unknown_and_there_is_a_notice_with_the_remedy(tmp_path):
    faults = [{"kind": "gpu_lost", "at_s": 3}]
    devices = [{"preset": "H100", "power": 400}, {"preset": "H100", "power": 200}]
    seen = look(simulate(tmp_path, *devices, faults=[{**faults[0], "device": 0}]), times(10))
    lost, other = seen.of(0), seen.of(1)
    assert lost[-1].energy_uj is None
    assert lost[-1].fault
    assert other[-1].energy_uj is not None
    assert "Xid" in seen.messages


def test_a_frozen_counter_is_not_believed_for_long(tmp_path):
    faults = [{"kind": "counter_frozen", "at_s": 3, "until_s": 12}]
    seen = look(simulate(tmp_path, {"preset": "H100", "power": 400}, faults=faults), times(15))
    assert "frozen" in seen.faults()
    assert seen.of()[-1].energy_uj is not None
    assert counted_uj(seen.of())[1] == 1


def test_a_jump_of_the_wall_clock_moves_no_reading(tmp_path):
    seen = look(simulate(tmp_path, {"preset": "H100", "power": 400}), times(10), jumps=[(at(5), -3_600 * SECOND)])
    readings = seen.of()
    assert all(a.at_ns < b.at_ns for a, b in pairwise(readings))
    assert counted_uj(readings)[1] == 0


def test_a_driver_that_is_reloaded_is_found_again_with_a_new_count(tmp_path):
    faults = [{"kind": "driver_reload", "at_s": 3, "until_s": 6}]
    seen = look(simulate(tmp_path, {"preset": "H100", "power": 400}, faults=faults), times(20))
    readings = seen.of()
    total, begun = counted_uj(readings)
    assert begun == 1
    assert readings[-1].energy_uj is not None
    assert 0 < total < 400 * 17.5 * 1_000_000
    assert "can be read again" in seen.messages


def test_without_permission_energy_is_unknown_and_there_is_a_notice_with_the_remedy(tmp_path):
    denied = [{"kind": "error", "call": "nvmlDeviceGet*", "code": "NO_PERMISSION"}]
    seen = look(simulate(tmp_path, {"preset": "H100", "power": 400}, faults=denied), times(3))
    assert all(each.energy_uj is None for moment in seen.readings for each in moment)
    assert "device files" in seen.messages


def test_without_a_driver_there_are_no_readings_and_there_is_a_notice(tmp_path):
    faults = [{"kind": "driver_not_loaded"}]
    seen = look(simulate(tmp_path, {"preset": "H100", "power": 400}, faults=faults), times(3))
    assert [each for each in seen.readings if each] == []
    assert "GPU energy is unknown, not 0" in seen.messages


def test_a_device_that_appears_later_is_read_from_then_on(tmp_path):
    faults = [{"kind": "absent", "device": 1, "until_s": 5}]
    devices = [{"preset": "H100", "power": 400}, {"preset": "H100", "power": 200}]
    seen = look(simulate(tmp_path, *devices, faults=faults), times(15), rescan_s=2)
    later = seen.of(1)
    assert later
    assert "has appeared" in seen.messages
    assert counted_uj(later)[0] > 0


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError])
def test_a_list_of_devices_that_cannot_be_read_is_left_out(monkeypatch, error):
    def entries(path):
        if path.name == "gpus":
            raise error(path)
        return iter([path / "config"])

    monkeypatch.setattr(Path, "iterdir", entries)
    assert "config" in device_files()
