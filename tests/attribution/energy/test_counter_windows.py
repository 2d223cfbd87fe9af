"""What each row says when a meter misbehaves: the fault matrix, and that every window adds up to the counter."""

from fractions import Fraction

import msgspec
import pytest

from costtrace.attribution.energy.counter_windows import DeviceMeter, piece_of
from costtrace.attribution.energy.model import Load
from costtrace.core.events import Reading
from costtrace.core.units import NS_PER_S

WATTS = 500
UJ_PER_S = WATTS * 1_000_000


def reading(at_s, uj, fault="", **fields):
    return Reading("GPU-0", round(at_s * NS_PER_S), uj, None, "nvml_counter", fault=fault, **fields)


def busy(start_s, end_s):
    start, end = round(start_s * NS_PER_S), round(end_s * NS_PER_S)
    return piece_of(start, end, end - start, Load(end - start, end - start, 100.0, 1_000.0, 0.0))


def idle(start_s, end_s):
    start, end = round(start_s * NS_PER_S), round(end_s * NS_PER_S)
    return piece_of(start, end, end - start)


def seconds_of(meter, length_s, until_s, readings):
    """Pieces of *length_s* up to *until_s*, the readings, and what each piece is given."""
    results = taken(meter, length_s, until_s, readings)
    held = DeviceMeter()
    later = taken(held, length_s, until_s, readings)
    assert [result.energy_unknown_ns for result in later] == [result.energy_unknown_ns for result in results], (
        "held first, the same is known"
    )
    assert held.attributed_uj + held.outside_uj == meter.attributed_uj + meter.outside_uj
    return results


def taken(meter, length_s, until_s, readings):
    count = round(until_s / length_s)
    numbers = [meter.add(busy(i * length_s, (i + 1) * length_s)) for i in range(count)]
    for each in readings:
        meter.read(each)
    meter.give_up(-1)
    return [meter.take(number) for number in numbers]


def counter(from_s, until_s, every_s=0.1, base_uj=1_000_000):
    """A counter that moves by 500 W, read a little irregularly."""
    count = round((until_s - from_s) / every_s)
    times = [from_s + every_s * (i + 0.05 * (i * 7 % 5)) for i in range(count + 1)]
    return [reading(at, base_uj + round(at * UJ_PER_S)) for at in times]


def test_a_window_goes_to_its_pieces_to_the_microjoule():
    meter = DeviceMeter(begun=True)
    pieces = [idle(0, 0.7), busy(0.7, 1.0), busy(1.0, 2.0)]
    numbers = [meter.add(piece) for piece in pieces]
    meter.read(reading(0, 7))
    meter.read(reading(2, 7 + 800_000_001))
    results = [meter.take(number) for number in numbers]
    assert sum(result.uj for result in results) == 800_000_001 == meter.attributed_uj
    assert [result.energy_unknown_ns for result in results] == [0, 0, 0]
    assert results[0].uj < results[2].uj, "idle time draws less than busy time"
    assert not meter.pieces


def test_what_no_engine_had_is_the_devices_own():
    meter = DeviceMeter(begun=True)
    number = meter.add(busy(0, 1))
    meter.read(reading(0, 0))
    meter.read(reading(4, 4 * UJ_PER_S))
    assert meter.take(number).uj + meter.outside_uj == 4 * UJ_PER_S
    assert meter.outside_uj > 0


def test_before_the_first_reading_energy_is_unknown_and_not_zero():
    results = seconds_of(DeviceMeter(begun=True), 0.5, 3, counter(1, 3))
    assert [result.energy_unknown_ns for result in results[:2]] == [NS_PER_S // 2] * 2
    assert [result.energy_unknown_ns for result in results[2:]] == [0] * 4


def test_a_piece_waits_for_a_reading_beyond_its_end():
    meter = DeviceMeter(begun=True)
    number = meter.add(busy(0, 1))
    meter.read(reading(0, 0))
    meter.read(reading(0.9, 100))
    assert meter.take(number) is None
    meter.read(reading(1.1, 200))
    assert meter.take(number).energy_unknown_ns == 0


@pytest.mark.parametrize("reset_seen", ["it falls", "it says so"])
def test_a_driver_reset_leaves_its_window_unknown_and_nothing_negative(reset_seen):
    meter = DeviceMeter(begun=True)
    after = [reading(2, 500, "" if reset_seen == "it falls" else "reset"), reading(3, 500 + UJ_PER_S)]
    before = [reading(0, 10**9), reading(1, 10**9 + UJ_PER_S)]
    results = seconds_of(meter, 1, 3, [*before, *after])
    assert [result.uj for result in results] == [UJ_PER_S, 0, UJ_PER_S]
    assert [result.energy_unknown_ns for result in results] == [0, NS_PER_S, 0]
    assert meter.resets == 1


def test_a_counter_that_stands_still_is_not_believed():
    meter = DeviceMeter(begun=True)
    stuck = [reading(at, 1_000) for at in range(1, 10)]
    results = seconds_of(
        meter, 1, 12, [reading(0, 0), *stuck, reading(10, 1_000, "reset"), reading(12, 1_000 + UJ_PER_S)]
    )
    assert results[0].uj == 1_000
    assert all(result.energy_unknown_ns == NS_PER_S and result.uj == 0 for result in results[1:10])
    assert sum(result.uj for result in results[10:]) == UJ_PER_S


def test_a_counter_that_has_not_moved_yet_keeps_its_window_open():
    meter = DeviceMeter(begun=True)
    number = meter.add(busy(0, 2))
    for each in (reading(0, 0), reading(1, 0), reading(2, UJ_PER_S)):
        meter.read(each)
    assert meter.take(number)[:2] == (UJ_PER_S, 0)


def test_a_short_fault_is_bridged_by_the_next_value():
    results = seconds_of(
        DeviceMeter(begun=True),
        1,
        3,
        [reading(0, 0), reading(1, UJ_PER_S), reading(1.5, None, "unknown"), reading(3, 3 * UJ_PER_S)],
    )
    assert [result.energy_unknown_ns for result in results] == [0, 0, 0]
    assert sum(result.uj for result in results) == 3 * UJ_PER_S


@pytest.mark.parametrize("fault", ["lost", "gone", "driver", "not_supported", "denied", "stalled"])
def test_a_device_that_cannot_be_read_for_long_has_unknown_energy(fault):
    meter = DeviceMeter(begun=True)
    away = [reading(at, None, fault) for at in range(1, 10)]
    results = seconds_of(meter, 1, 12, [reading(0, 0), *away, reading(10, 10**12, "reset"), reading(12, 10**12 + 77)])
    assert all(result.energy_unknown_ns == NS_PER_S for result in results[:9])
    assert all(result.uj == 0 for result in results[:10])
    assert sum(result.uj for result in results[10:]) == 77


def test_a_stalled_sensor_thread_loses_time_and_not_the_counters_energy():
    """It hangs for ten seconds and the counter then goes on: the even share of the time given up is nobody's."""
    meter = DeviceMeter(begun=True)
    stalled = [reading(at, None, "stalled") for at in (3, 4, 5, 6, 7, 8, 9, 10)]
    results = seconds_of(meter, 1, 12, [reading(0, 0), *stalled, reading(12, 12 * UJ_PER_S)])
    known = sum(result.uj for result in results)
    assert known + meter.outside_uj == 12 * UJ_PER_S
    assert [result.energy_unknown_ns for result in results] == [NS_PER_S] * 10 + [0, 0]
    assert known == 2 * UJ_PER_S


def test_a_reading_of_the_past_after_a_jump_of_the_clock_is_left_out():
    meter = DeviceMeter(begun=True)
    results = seconds_of(
        meter, 1, 3, [reading(0, 0), reading(2, 2 * UJ_PER_S), reading(1, 5), reading(3, 3 * UJ_PER_S)]
    )
    assert sum(result.uj for result in results) == 3 * UJ_PER_S
    assert meter.resets == 0


def test_a_device_that_nobody_reads_any_more_is_given_up():
    meter = DeviceMeter(begun=True)
    meter.read(reading(0, 0))
    number = meter.add(busy(0, 1))
    assert meter.take(number) is None
    meter.give_up(5 * NS_PER_S)
    assert meter.take(number)[:2] == (0, NS_PER_S)


def test_pieces_that_reach_over_several_windows_get_their_part_of_each():
    meter = DeviceMeter(begun=True)
    results = seconds_of(meter, 0.73, 7.3, counter(0, 8))
    assert all(result.energy_unknown_ns == 0 for result in results)
    last = counter(0, 8)[-1].energy_uj - counter(0, 8)[0].energy_uj
    assert sum(result.uj for result in results) + meter.outside_uj == last
    exact = Fraction(UJ_PER_S) * 73 / 100
    assert all(abs(result.uj - exact) < exact / 50 for result in results)


def test_idle_watts_are_found_from_windows_with_and_without_work():
    meter, at, uj = DeviceMeter(begun=True), 0, 0
    meter.read(reading(0, 0))
    for n in range(400):
        working = n % 3 == 0
        meter.add(busy(at / 10, (at + 1) / 10) if working else idle(at / 10, (at + 1) / 10))
        at, uj = at + 1, uj + (60_000_000 if working else 8_000_000)
        meter.read(reading(at / 10, uj))
    assert meter.model.idle_watts() == pytest.approx(80, rel=0.02)
    assert meter.model.mape() < 0.05


def test_the_label_of_a_simulated_sensor_stays_with_its_meter():
    meter = DeviceMeter(begun=True)
    meter.read(reading(0, 0, simulated=True))
    assert meter.simulated


def test_integrated_power_is_held_against_the_counter():
    meter = DeviceMeter(begun=True)
    for n in range(300):
        meter.read(msgspec.structs.replace(reading(n / 10, n * UJ_PER_S // 10), power_mw=WATTS * 950))
        assert (meter.check.residual() is None) == (n <= 99)
    assert meter.check.residual() == pytest.approx(-0.05, abs=1e-6)


def test_readings_that_are_far_apart_or_have_no_power_are_not_compared():
    meter = DeviceMeter(begun=True)
    for n in range(20):
        meter.read(msgspec.structs.replace(reading(3 * n, 3 * n * UJ_PER_S), power_mw=1))
    for n in range(600, 900):
        meter.read(reading(n / 10, n * UJ_PER_S // 10))
    assert meter.check.residual() is None
    assert DeviceMeter(begun=True).model.idle_watts() is None


@pytest.mark.parametrize("changed", [{"gain": "1.05"}, {"scope": "module"}, {"share": "2/7"}])
def test_a_count_of_another_gain_or_scope_is_a_new_one(changed):
    before = [reading(0, 10**9), reading(1, 10**9 + UJ_PER_S)]
    after = [reading(2, 3 * 10**9, **changed), reading(3, 3 * 10**9 + UJ_PER_S, **changed)]
    meter = DeviceMeter(begun=True)
    results = seconds_of(meter, 1, 3, [*before, *after])
    assert [result.uj for result in results] == [UJ_PER_S, 0, UJ_PER_S], "the step between the counts was never drawn"
    assert [result.energy_unknown_ns for result in results] == [0, NS_PER_S, 0]
    assert {name: getattr(meter.sensor, name) for name in changed} == changed


def test_a_part_of_a_board_by_rule_is_labelled_as_estimated_wherever_its_source_is_shown():
    meter = DeviceMeter(begun=True)
    meter.read(reading(0, 0, share="2/7"))
    assert (meter.source, meter.sensor.source, meter.sensor.share) == ("estimated:nvml_counter", "nvml_counter", "2/7")
