"""Whatever engines do and sensors suffer: the energy of the rows is the counter's, to the microjoule."""

import random
from collections import defaultdict

import msgspec
from attributed import check, in_order
from costtrace_lab.engines import Profile, random_life
from costtrace_lab.engines.schedules import BOOT_ID
from hypothesis import given
from hypothesis import strategies as st

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.core.events import Reading, SegmentHeader
from costtrace.core.rows import Rows
from costtrace.core.units import NS_PER_S

FAULTS = ("", "", "", "", "", "", "", "", "lost", "unknown", "stalled", "reset", "fell to 5", "frozen", "late")


def sensor_log(device, until_ns, rng, faults):
    """Readings of one device, about ten a second; with *faults*, some are missing, late or of a reset counter."""
    at_ns, uj, log = NS_PER_S // 2, rng.randrange(10**9), []
    while at_ns < until_ns + NS_PER_S:
        fault = rng.choice(FAULTS) if faults else ""
        step_ns = rng.randrange(50_000_000, 150_000_000) * (40 if fault == "late" else 1)
        at_ns += step_ns
        uj += 0 if fault == "frozen" else step_ns * rng.randrange(50, 700) // 1_000
        if fault == "fell to 5":
            uj = 5
        value = None if fault in {"lost", "unknown", "stalled"} else uj
        log.append(Reading(device, at_ns, value, None, "nvml_counter", fault=fault if value is None else ""))
        if fault == "reset":
            log[-1] = msgspec.structs.replace(log[-1], fault="reset")
    return log


def run(lives, logs, rng, *, save=False):
    """Rows, engines and the pipeline, fed as an agent feeds it: readings and events in the order of their times."""
    pipeline, rows = Pipeline(Policy("roofline", "request"), NS_PER_S), Rows([], [], [])
    merged = [(at, 0, engine, event) for at, engine, event in in_order(lives)]
    merged += [(each.at_ns, 1, "", each) for log in logs.values() for each in log]

    def take():
        for kept, new in zip(rows, pipeline.take_rows(), strict=True):
            kept.extend(new)

    for reached, _, engine_id, event in sorted(merged, key=lambda row: row[:2]):
        if isinstance(event, Reading):
            pipeline.reading(BOOT_ID, event)
        else:
            if isinstance(event, SegmentHeader):
                pipeline.add(engine_id, event)
            pipeline.take(engine_id, event)
        if rng.random() < 0.05:
            pipeline.sweep(reached - 1)
            take()
            if save:
                pipeline = msgspec.json.decode(msgspec.json.encode(pipeline), type=Pipeline)
    for engine_id in lives:
        pipeline.end(engine_id)
    pipeline.sweep(1 << 60)
    pipeline.sweep(1 << 60)
    take()
    return rows, pipeline.all_engine_rows(), pipeline


def check_energy(rows, pipeline):
    posted, metered = defaultdict(int), defaultdict(int)
    for p in rows.postings:
        posted[p.engine_id, p.window_ns] += p.energy_uj or 0
        # Time, energy and the gap are each rounded to whole units with a carry of their own: 1 ns apart at most.
        assert 0 <= p.energy_unknown_ns <= p.gpu_ns + 1
        assert p.energy_uj is not None or p.energy_unknown_ns >= p.gpu_ns - 1, "unknown energy is a gap"
        for part in (p.energy_uj, p.prefill_uj, p.decode_uj, p.wasted_uj):
            assert part is None or part >= 0
        if p.kind == "request" and p.energy_uj is not None:
            assert p.energy_uj == p.prefill_uj + p.decode_uj
    for m in rows.meter:
        metered[m.engine_id, m.window_ns] += m.energy_uj or 0
        assert m.energy_uj is None or m.energy_uj >= 0
    assert {k: v for k, v in posted.items() if v} == {k: v for k, v in metered.items() if v}
    assert sum(posted.values()) == sum(meter.attributed_uj for meter in pipeline.meters.values())
    by_record = defaultdict(int)
    for p in rows.postings:
        by_record[p.record_id] += p.energy_uj or 0
    for record in rows.records:
        assert (record.energy_uj or 0) == by_record[record.record_id]


def counted_uj(log):
    """What the counter says was drawn, between readings that continue each other and are not too far apart to know."""
    last, total = None, 0
    for each in log:
        if each.energy_uj is None:
            continue
        if last is not None and not each.fault and each.energy_uj > last:
            total += each.energy_uj - last
        last = each.energy_uj
    return total


seeds = st.integers(0, 100_000)
profiles = st.sampled_from([Profile(), Profile(depth=2, arrivals=1.5, preempt=0.2, abort=0.1), Profile(pause=0.5)])


@given(seeds, profiles, st.sampled_from([1, 2]), st.randoms(use_true_random=False))
def test_with_a_good_sensor_every_microjoule_is_on_a_row_or_the_devices_own(seed, profile, devices, rng):
    names = tuple(f"GPU-{n}" for n in range(devices))
    life = random_life(seed, rounds=40, profile=profile, devices=names)
    logs = {name: sensor_log(name, life.events[-1].at_ns, rng, faults=False) for name in names}
    rows, engines, pipeline = run({life.engine_id: life.events}, logs, rng)
    check(rows, engines)
    check_energy(rows, pipeline)
    for name, log in logs.items():
        (meter,) = (meter for key, meter in pipeline.meters.items() if key.endswith(f"/{name}"))
        assert meter.attributed_uj + meter.outside_uj == counted_uj(log)


@given(seeds, profiles, st.randoms(use_true_random=False))
def test_whatever_a_sensor_suffers_time_and_energy_still_add_up(seed, profile, rng):
    lives = [random_life(seed + n, rounds=30, profile=profile) for n in range(2)]  # two engines share the device
    lives[1].engine_id = "another"
    until_ns = max(life.events[-1].at_ns for life in lives)
    logs = {"GPU-0": sensor_log("GPU-0", until_ns, rng, faults=True)}
    rows, engines, pipeline = run({life.engine_id: life.events for life in lives}, logs, rng)
    check(rows, engines)
    check_energy(rows, pipeline)
    (meter,) = pipeline.meters.values()
    assert meter.attributed_uj + meter.outside_uj <= counted_uj(logs["GPU-0"])


@given(seeds, profiles)
def test_an_agent_that_is_killed_anywhere_goes_on_to_the_same_joules(seed, profile):
    life = random_life(seed, rounds=30, profile=profile)
    logs = {"GPU-0": sensor_log("GPU-0", life.events[-1].at_ns, random.Random(seed), faults=True)}
    results = [
        run({life.engine_id: life.events}, logs, random.Random(seed + 1), save=save)[0] for save in (False, True)
    ]
    assert results[0] == results[1]
