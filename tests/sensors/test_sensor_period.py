"""When a value that was read was renewed: given where it can be known, and left out where it cannot."""

import random

import pytest

from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace.sensors.sensor_period import PeriodFinder

PERIOD_NS = 100 * NS_PER_MS


def at(ms):
    return round(1_000 * NS_PER_S + ms * NS_PER_MS)


def finder_with_period(skew_ms=0.0):
    """A finder that knows of updates at whole tenths of a second; the sensor's are *skew_ms* later in truth."""
    finder, rng = PeriodFinder(), random.Random(1)
    read_ms = 0.0
    while read_ms < 25_000:
        read_ms += rng.uniform(80, 120)
        finder.see(at(read_ms), at(read_ms), int((read_ms - skew_ms) // 100))
    finder.look(at(read_ms))
    assert finder.period_ns == pytest.approx(PERIOD_NS, rel=5e-4)
    return finder, read_ms


def seen_after(finder, gap_ms, read_ms):
    """What is made of a changed value that is read at *read_ms*, *gap_ms* after the read before."""
    finder.see(at(read_ms - gap_ms), at(read_ms - gap_ms), -1)
    updated_ns = finder.updated(at(read_ms))
    return None if updated_ns is None else (updated_ns - at(0)) / NS_PER_MS


def test_a_value_holds_from_the_update_before_its_read():
    finder, _ = finder_with_period()
    assert seen_after(finder, 95, 26_050) == pytest.approx(26_000, abs=1.5)
    assert seen_after(finder, 95, 26_090) == pytest.approx(26_000, abs=1.5)


@pytest.mark.parametrize("read_ms", [26_099.2, 26_100.8], ids=["just before an update", "just after one"])
def test_a_read_at_an_update_that_may_have_seen_either_value_is_left_out(read_ms):
    finder, _ = finder_with_period()
    assert seen_after(finder, 110, read_ms) is None, "a wrong guess would be a whole period wrong"


def test_where_only_one_update_lies_between_two_reads_it_is_given_however_close_it_is():
    finder, _ = finder_with_period()
    assert seen_after(finder, 60, 26_100.8) == pytest.approx(26_100, abs=2)
    assert seen_after(finder, 60, 26_099.2) == pytest.approx(26_099.2, abs=2), "it came before the read that saw it"


def test_without_a_period_a_value_holds_when_it_was_read():
    finder = PeriodFinder()
    assert seen_after(finder, 95, 50) == pytest.approx(50)


def placed(seed):
    """Of 2,200 irregular reads: how many values were placed, and how many of them by a whole period wrong."""
    finder, rng = PeriodFinder(), random.Random(seed)
    skew_ms, read_ms, last, count, wrong = rng.uniform(0, 100), 0.0, None, 0, 0
    for number in range(2_500):
        read_ms += rng.uniform(80, 120)
        value = int((read_ms - skew_ms) // 100)
        updated_ns = finder.updated(at(read_ms))
        if value != last and number > 300 and updated_ns is not None:
            count, last = count + 1, value
            wrong += abs((updated_ns - at(0)) / NS_PER_MS - value * 100 - skew_ms) > 30 and updated_ns != at(read_ms)
        finder.see(at(read_ms), at(read_ms), value)
        if number % 100 == 0:
            finder.look(at(read_ms))
    return count, wrong


def test_hardly_a_value_is_placed_a_period_wrong_though_the_phase_is_never_exact():
    """Where every read is believed, 1.2 % of these are."""
    counts, wrongs = zip(*(placed(seed) for seed in range(4)), strict=True)
    assert sum(counts) > 7_000
    assert sum(wrongs) < 0.005 * sum(counts)


def test_after_an_hour_of_rare_reads_of_an_idle_device_the_period_is_found_as_soon_as_reads_are_frequent():
    finder, rng, read_ms = PeriodFinder(), random.Random(2), 0.0

    def read(least_ms, most_ms):
        nonlocal read_ms
        read_ms += rng.uniform(least_ms, most_ms)
        finder.see(at(read_ms), at(read_ms), int((read_ms - 37) // 100))
        if finder.due(at(read_ms)):
            finder.look(at(read_ms))

    while read_ms < 3_600_000:
        read(800, 1_200)
    assert finder.period_ns == 0
    while read_ms < 3_618_000:
        read(80, 120)
    assert finder.period_ns == pytest.approx(PERIOD_NS, rel=5e-4)
