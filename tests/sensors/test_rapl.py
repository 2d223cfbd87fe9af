"""RAPL's packages: each once, whatever names the kernel gives to its dies."""

from itertools import count

import pytest

from costtrace.core.clock import Anchor
from costtrace.core.units import NS_PER_S
from costtrace.sensors.rapl import RaplSensor

RANGE_UJ = 262_143_328_850


class Powercap:
    """A folder as the kernel's, and a clock that one reading takes on by a second."""

    def __init__(self, root):
        self.root, self.paths, self.seconds = root, {}, count(1)

    def add(self, folder, name, energy_uj=0, range_uj=RANGE_UJ):
        path = self.root / folder
        path.mkdir()
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self.paths[folder] = path
        self.set(**{folder: energy_uj})

    def set(self, **values):
        for folder, energy_uj in values.items():
            (self.paths[folder] / "energy_uj").write_text(f"{energy_uj}\n")

    def clock(self):
        return Anchor(next(self.seconds) * NS_PER_S // 4, 0)

    def sensor(self):
        sensor = RaplSensor(root=self.root, clocks=self.clock)
        sensor.open()
        return sensor


def used(cap, sensor, *states):
    """uJ that the sensor counts from the first to the last of *states*: values by folder."""
    totals = []
    for values in states:
        cap.set(**values)
        (reading,) = sensor.read()
        totals.append(reading.energy_uj)
    return totals[-1] - totals[0]


@pytest.fixture
def cap(tmp_path):
    return Powercap(tmp_path)


A, B = "intel-rapl:0", "intel-rapl:1"


@pytest.fixture
def dies(cap):
    cap.add(A, "package-0-die-0")
    cap.add(B, "package-0-die-1")
    return cap


def test_dies_that_mirror_one_counter_count_once(dies):
    sensor = dies.sensor()
    assert used(dies, sensor, {A: 0, B: 0}, {A: 68_000_000, B: 68_000_000}) == 68_000_000
    ((_, notice),) = sensor.take_notices()
    assert notice == "package-0 shows one counter under 2 names: it is counted once."
    assert used(dies, sensor, {A: 70_000_000, B: 70_000_000}, {A: 75_000_000, B: 75_000_000}) == 5_000_000
    assert sensor.take_notices() == []


def test_dies_with_counters_of_their_own_add_up(dies):
    sensor = dies.sensor()
    assert used(dies, sensor, {A: 100, B: 7}, {A: 140, B: 35}) == 68
    assert sensor.take_notices() == []


def test_dies_that_begin_alike_add_up_from_their_first_difference(dies):
    assert used(dies, dies.sensor(), {A: 0, B: 0}, {A: 40, B: 28}, {A: 80, B: 56}) == 136


def test_a_mirror_that_moves_while_it_is_read_is_one_counter(dies, monkeypatch):
    sensor = dies.sensor()
    moving = count(RANGE_UJ - 20, 7)  # wraps around on the way
    monkeypatch.setattr(sensor, "_value", lambda _: next(moving) % (RANGE_UJ + 1))
    readings = [sensor.read()[0].energy_uj for _ in range(8)]
    assert readings[-1] - readings[0] == 7 * 3 * 7  # three values are read each time


def test_a_counter_that_wraps_around_goes_on(dies):
    late = RANGE_UJ - 10
    assert used(dies, dies.sensor(), {A: late, B: late}, {A: 57, B: 57}) == 68


def test_dies_with_different_ranges_are_not_one_counter(cap):
    cap.add(A, "package-0-die-0")
    cap.add(B, "package-0-die-1", range_uj=RANGE_UJ - 1)
    assert used(cap, cap.sensor(), {A: 0, B: 0}, {A: 5, B: 5}) == 10


def test_two_packages_add_up_even_if_they_use_the_same(cap):
    cap.add(A, "package-0")
    cap.add(B, "package-1")
    assert used(cap, cap.sensor(), {A: 0, B: 0}, {A: 68, B: 68}) == 136


@pytest.mark.parametrize("name", ["package-0", "package-0-die-0"])
def test_a_package_that_is_shown_by_msr_and_by_mmio_counts_once(cap, name):
    cap.add(A, name)
    cap.add("intel-rapl-mmio:0", "package-0")
    cap.add("intel-rapl:0:0", "core")
    cap.add("intel-rapl:2", "psys")
    state = {"intel-rapl:0:0": 9, "intel-rapl:2": 9}
    assert used(cap, cap.sensor(), {A: 0, "intel-rapl-mmio:0": 3}, {A: 68, "intel-rapl-mmio:0": 90, **state}) == 68


def test_a_package_that_only_mmio_shows_is_read_there(cap):
    cap.add("intel-rapl-mmio:0", "package-0")
    assert used(cap, cap.sensor(), {"intel-rapl-mmio:0": 3}, {"intel-rapl-mmio:0": 90}) == 87
