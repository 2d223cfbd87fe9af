"""The readings of a device's first work are held until their times are known; nothing is lost by that."""

import random

import msgspec
import pytest

from costtrace.attribution.energy import counter_windows
from costtrace.attribution.energy.counter_windows import DeviceMeter, piece_of
from costtrace.attribution.energy.first_work import HOLD_NS, HOLDS, BusyStretch, learn, placed
from costtrace.attribution.energy.lag import LONGEST_LAG_NS, LagFinder
from costtrace.attribution.energy.model import Load
from costtrace.core.events import Reading
from costtrace.core.units import NS_PER_MS, NS_PER_S

PERIOD_NS = 100 * NS_PER_MS
SKEW_NS = 37 * NS_PER_MS
LAG_NS = 60 * NS_PER_MS
STEP_NS = 20 * NS_PER_MS
BEGIN_NS = 1_000 * NS_PER_S


def stretches_of_work(until_s, seed=4):
    """Steps of 20 ms in bursts, some of prefill, from `BEGIN_NS` on."""
    rng, busy, stretches = random.Random(seed), True, []
    for start_ns in range(BEGIN_NS, BEGIN_NS + until_s * NS_PER_S, STEP_NS):
        busy = busy if rng.random() < 0.9 else not busy
        load = Load(STEP_NS, 0.0, 0.0, 0.0, 0.0)
        if busy:
            load = Load(STEP_NS, STEP_NS, rng.choice([8.0, 500.0]), 3_000.0 * rng.random(), 0.0, 1.0)
        stretches.append(BusyStretch(start_ns, start_ns + STEP_NS, load))
    return stretches


def drawn_uj(load):
    return 0.1 * load.ns + 0.15 * load.busy_ns + 8_000 * load.tokens + 200 * load.context + 1e6 * load.steps


def upto(stretches, at_ns):
    """What had been drawn by then, in whole millijoules as a counter shows it."""
    whole, rest_ns = divmod(at_ns - BEGIN_NS, STEP_NS)
    total = sum(drawn_uj(each.load) for each in stretches[: max(0, whole)])
    if 0 <= whole < len(stretches):
        total += drawn_uj(stretches[whole].load) * rest_ns / STEP_NS
    return round(total / 1_000) * 1_000


def readings(stretches, *, known_after_s=10, period_ns=PERIOD_NS, seed=1):
    """Irregular reads of a counter that is renewed every 100 ms and 60 ms late; its period is known after a while."""
    rng, at_ns, log, last_uj = random.Random(seed), BEGIN_NS - NS_PER_S // 2, [], -1
    while (at_ns := at_ns + rng.randrange(80 * NS_PER_MS, 120 * NS_PER_MS)) < stretches[-1].end_ns:
        update_ns = at_ns - (at_ns - SKEW_NS) % PERIOD_NS
        uj = upto(stretches, update_ns - LAG_NS)
        known = at_ns - BEGIN_NS > known_after_s * NS_PER_S
        held_ns = update_ns if known and uj != last_uj and update_ns < at_ns else at_ns
        log.append(reading(held_ns, uj, period_ns=period_ns if known else 0, lag_ns=at_ns - held_ns))
        last_uj = uj
    return log


def reading(at_ns, uj, fault="", **fields):
    return Reading("GPU-0", at_ns, uj, None, "nvml_counter", fault=fault, **fields)


def meter_with(stretches):
    meter = DeviceMeter()
    for each in stretches:
        meter.add(piece_of(each.start_ns, each.end_ns, STEP_NS, each.load))
    return meter


def test_readings_of_before_the_period_was_known_are_placed_by_it_afterwards():
    log = readings(stretches_of_work(15))
    moved = 0
    for each in placed(log):
        if each.at_ns < BEGIN_NS + 9 * NS_PER_S and each.period_ns:
            off_ns = (each.at_ns - SKEW_NS + PERIOD_NS // 2) % PERIOD_NS - PERIOD_NS // 2
            moved += abs(off_ns) < NS_PER_MS
    assert moved > 80
    values = [each.energy_uj for each in placed(log)]
    assert set(values) <= {each.energy_uj for each in log}, "no value is made"
    assert values == sorted(values)


def test_readings_with_the_drivers_own_times_or_of_no_known_period_stay_where_they_are():
    log = readings(stretches_of_work(15), known_after_s=99)
    assert placed(log) == log
    stamped = [msgspec.structs.replace(each, lag_ns=5 * NS_PER_MS) for each in readings(stretches_of_work(15))]
    assert placed(stamped) == stamped


def test_a_fault_is_never_moved_and_never_left_out():
    log = readings(stretches_of_work(15))
    faults = [reading(log[n].at_ns + 1, value, fault) for n, value, fault in ((20, None, "lost"), (40, 5, "reset"))]
    both = sorted([*log, *faults], key=lambda each: each.at_ns)
    assert [each for each in placed(both) if each.fault] == faults


def test_the_lag_and_what_power_follows_are_found_in_what_was_held():
    stretches = stretches_of_work(20)
    learned = learn(placed(readings(stretches)), stretches, 0)
    assert learned.lag_ns == pytest.approx(LAG_NS, abs=5 * NS_PER_MS)
    coefficients = learned.model.regression.coefficients()
    assert coefficients[0] == pytest.approx(0.1, rel=0.05)
    assert coefficients[2] == pytest.approx(8_000, rel=0.1)


@pytest.mark.parametrize("lag_ms", [0, 800, 900])
def test_a_lag_at_the_end_of_what_is_looked_for_stays_within_it_and_goes_on_being_looked_for(monkeypatch, lag_ms):
    monkeypatch.setitem(globals(), "LAG_NS", lag_ms * NS_PER_MS)
    stretches = stretches_of_work(30)
    learned = learn(placed(readings(stretches)), stretches, 0)
    assert 0 <= learned.lag_ns <= LONGEST_LAG_NS
    meter = meter_with(stretches)
    for each in readings(stretches, known_after_s=1):
        meter.read(each)
    assert meter.lag.seen > 0
    assert 0 <= meter.lag.lag_ns <= LONGEST_LAG_NS
    # An older agent's state may hold a longer lag.
    finder = LagFinder(LONGEST_LAG_NS + 15 * NS_PER_MS)
    for each in stretches:
        finder.expect(*each)
        finder.window(each.start_ns, each.end_ns, round(drawn_uj(each.load)))
    assert finder.seen > 100


def test_of_few_windows_nothing_is_learned():
    stretches = stretches_of_work(20)
    assert learn(readings(stretches)[:40], stretches, 0) is None
    assert learn([], [], 0) is None


def test_nothing_is_settled_while_readings_are_held_and_then_all_of_it_is():
    stretches = stretches_of_work(30)
    meter, log = meter_with(stretches), readings(stretches)
    for each in log:
        meter.read(each)
        if meter.held:
            assert meter.take(10) is None
            assert meter.heard_ns() == each.at_ns, "the device has not fallen silent"
    assert meter.begun
    assert meter.lag.lag_ns == pytest.approx(LAG_NS, abs=10 * NS_PER_MS)
    results = [meter.take(number) for number in range(28 * 50)]
    assert all(result.energy_unknown_ns == 0 for result in results[5:])
    errors = [abs(r.uj - drawn_uj(w.load)) / drawn_uj(w.load) for r, w in zip(results, stretches, strict=False)]
    assert sorted(errors[5:])[len(errors) // 2] < 0.05
    assert meter.attributed_uj + meter.outside_uj == meter.last_uj - log[0].energy_uj


def test_a_reading_under_load_waits_for_so_long_and_no_longer():
    stretches = stretches_of_work(40)
    meter = meter_with(stretches)
    released = [each.at_ns for each in readings(stretches, known_after_s=99) if meter.read(each) or meter.begun]
    assert released[0] - BEGIN_NS == pytest.approx(HOLD_NS, abs=NS_PER_S // 2)


def test_an_engine_that_ends_within_it_has_its_energy_soon_after():
    stretches = stretches_of_work(8)
    meter, log = meter_with(stretches), readings(stretches)
    for each in log:
        meter.read(each)
    assert meter.take(5) is None
    last = log[-1]
    for n in range(1, 5):
        meter.read(reading(last.at_ns + n * NS_PER_S, last.energy_uj + n * 95_000_000))
    results = [meter.take(number) for number in range(len(stretches))]
    assert all(result is not None and result.energy_unknown_ns == 0 for result in results[5:])
    assert sum(result.uj for result in results) == meter.attributed_uj


def test_where_nobody_reads_the_device_any_more_what_was_held_is_distributed():
    stretches = stretches_of_work(8)
    meter, log = meter_with(stretches), readings(stretches)
    for each in log:
        meter.read(each)
    meter.give_up(BEGIN_NS + 60 * NS_PER_S)
    known = [meter.take(number) for number in range(len(stretches))]
    assert sum(result.uj for result in known) == meter.attributed_uj > 0
    assert not meter.pieces
    assert not meter.under_way


def test_another_gain_ends_it():
    stretches = stretches_of_work(30)
    meter, log = meter_with(stretches), readings(stretches)
    for each in log[:60]:
        meter.read(each)
    assert meter.held
    meter.read(msgspec.structs.replace(log[60], gain="1.05"))
    assert not meter.held
    assert meter.sensor.gain == "1.05"
    assert meter.resets == 1


def test_it_ends_where_there_is_more_than_can_be_kept(monkeypatch):
    monkeypatch.setattr(counter_windows, "HOLD_PIECES", 100)
    stretches = stretches_of_work(30)
    meter = meter_with(stretches)
    most = 0
    for each in readings(stretches)[:100]:
        meter.read(each)
        most = max(most, len(meter.under_way))
    assert meter.begun
    assert most < 120


def test_after_a_warm_up_the_first_real_work_is_held_too_but_not_for_ever():
    meter, uj = DeviceMeter(), 0
    for n in range(900):
        start_ns = BEGIN_NS + n * NS_PER_S // 10
        busy = n % 100 == 5
        load = Load(1e8, 1e8, 8.0, 0.0, 0.0, 1.0) if busy else Load(1e8, 0.0, 0.0, 0.0, 0.0)
        meter.add(piece_of(start_ns, start_ns + NS_PER_S // 10, NS_PER_S // 10, load))
        uj += 30_000_000 if busy else 9_000_000
        meter.read(reading(start_ns + NS_PER_S // 10, uj))
    assert meter.holds == HOLDS
    assert meter.begun


def test_a_state_of_before_pieces_were_ordered_is_read():
    stretches = stretches_of_work(5)
    meter = meter_with(stretches)
    kept = msgspec.to_builtins(meter)
    del kept["coming"], kept["under_way"]
    kept["model"]["regression"]["prior"] = [0.1, 0.35, 0.0, 0.0, 0.0]
    again = msgspec.convert(kept, DeviceMeter)
    assert again.coming == meter.coming
    assert len(again.model.regression.coefficients()) == len(meter.model.regression.coefficients())
