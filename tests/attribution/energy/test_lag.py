"""The lag of a counter is found from what the device was given to do, and none is invented where there is none."""

import random

import pytest

from costtrace.attribution.energy.counter_windows import DeviceMeter, piece_of
from costtrace.attribution.energy.lag import LagFinder
from costtrace.attribution.energy.model import Load
from costtrace.core.events import Reading
from costtrace.core.units import NS_PER_MS

IDLE_W, BUSY_W = 90, 410


def loads(count, seed=3):
    """Steps of 20 ms in bursts: (start, end, busy)."""
    rng, at, busy = random.Random(seed), 1_000 * NS_PER_MS, False
    for _ in range(count):
        busy = busy if rng.random() < 0.85 else not busy
        yield at, at + 20 * NS_PER_MS, busy
        at += 20 * NS_PER_MS


def drawn_uj(steps, until_ns):
    """Energy up to a time."""
    return sum(
        (BUSY_W if busy else IDLE_W) * (min(end, until_ns) - start) // 1_000
        for start, end, busy in steps
        if start < until_ns
    )


def metered(lag_ms, *, steady=False, count=2_000):
    """A meter that has read every 100 ms a counter that is late by *lag_ms*."""
    meter, steps = DeviceMeter(), [(s, e, b or steady) for s, e, b in loads(count)]
    energy, total = {}, 0
    for start, end, busy in steps:
        total += (BUSY_W if busy else IDLE_W) * (end - start) // 1_000
        energy[end] = total
    due_ns = steps[0][0] + 500 * NS_PER_MS
    numbers = []
    for start, end, busy in steps:
        load = Load(end - start, end - start, 10.0, 0.0, 0.0) if busy else Load(end - start, 0.0, 0.0, 0.0, 0.0)
        numbers.append((meter.add(piece_of(start, end, end - start, load)), busy))
        if end >= due_ns:
            due_ns += 100 * NS_PER_MS
            meter.read(Reading("GPU-0", end, energy.get(end - lag_ms * NS_PER_MS, 0), None, "nvml_counter"))
    return meter, numbers


@pytest.mark.parametrize("lag_ms", [0, 60, 100, 600])
def test_the_lag_of_a_counter_is_found(lag_ms):
    meter, _ = metered(lag_ms)
    assert meter.lag.lag_ns == pytest.approx(lag_ms * NS_PER_MS, abs=12 * NS_PER_MS)


def test_with_its_lag_a_late_counter_gives_each_step_what_it_drew():
    meter, numbers = metered(100)
    settled = [(meter.take(number), busy) for number, busy in numbers[1_200:1_900]]
    for busy, watts in ((True, BUSY_W), (False, IDLE_W)):
        energies_uj = [result.uj for result, was in settled if was is busy]
        assert sum(energies_uj) / len(energies_uj) == pytest.approx(watts * 20 * 1_000, rel=0.05)


def test_under_a_steady_load_no_lag_is_imagined():
    meter, _ = metered(100, steady=True)
    assert meter.lag.lag_ns == 0


def test_a_lag_that_is_found_creates_and_loses_no_energy():
    meter, _ = metered(600)
    first = drawn_uj(list(loads(40)), 0)
    assert meter.lag.lag_ns > 0
    assert meter.attributed_uj + meter.outside_uj == meter.last_uj - first


def test_long_windows_tell_nothing_of_a_lag():
    finder = LagFinder()
    finder.expect(0, 5_000 * NS_PER_MS, Load(5e9, 5e9, 100.0, 0.0, 0.0))
    assert finder.window(1_000 * NS_PER_MS, 4_000 * NS_PER_MS, 10**9) is False
    assert finder.seen == 0


def test_what_was_seen_before_the_sensors_period_was_known_does_not_count_in_its_lag():
    """Until then readings hold when they were made, on average half a period late: another lag than they have later."""
    meter, steps = DeviceMeter(begun=True), list(loads(1_600))
    total, energy = 0, {}
    for start, end, busy in steps:
        total += (BUSY_W if busy else IDLE_W) * (end - start) // 1_000
        energy[end] = total
    due_ns = steps[0][0] + 500 * NS_PER_MS
    known_ns = due_ns + 9_000 * NS_PER_MS
    for start, end, busy in steps:
        load = Load(end - start, end - start, 10.0, 0.0, 0.0) if busy else Load(end - start, 0.0, 0.0, 0.0, 0.0)
        meter.add(piece_of(start, end, end - start, load))
        if end >= due_ns:
            due_ns += 100 * NS_PER_MS
            known = end >= known_ns
            shown = energy.get(end - (60 if known else 140) * NS_PER_MS, 0)
            meter.read(Reading("GPU-0", end, shown, None, "nvml_counter", period_ns=100 * NS_PER_MS if known else 0))
            if end == known_ns - 100 * NS_PER_MS:
                assert meter.lag.lag_ns == pytest.approx(140 * NS_PER_MS, abs=15 * NS_PER_MS)
    assert meter.lag.lag_ns == pytest.approx(60 * NS_PER_MS, abs=12 * NS_PER_MS)
