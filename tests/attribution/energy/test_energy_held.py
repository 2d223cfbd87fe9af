"""A device's first work is held: the same rows however often the agent swept, and wherever it was killed."""

import random

import msgspec
import pytest
from attributed import in_order
from costtrace_lab.engines import Profile, random_life
from costtrace_lab.engines.schedules import BOOT_ID

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.core.events import EngineStarted, Reading, SegmentHeader
from costtrace.core.units import NS_PER_MS, NS_PER_S

PERIOD_NS = 100 * NS_PER_MS
BUSY = Profile(arrivals=0.5, pause=0.02)


def late_counter(until_ns, seed, *, known_after_s=10, faults=False):
    """Readings of a counter that is renewed every 100 ms and 60 ms late, placed once its period is known."""
    rng, at_ns, log = random.Random(seed), NS_PER_S // 2, []
    last_uj = -1
    while at_ns < until_ns + 4 * NS_PER_S:
        at_ns += rng.randrange(80 * NS_PER_MS, 120 * NS_PER_MS)
        update_ns = at_ns // PERIOD_NS * PERIOD_NS + 7 * NS_PER_MS
        update_ns -= PERIOD_NS if update_ns > at_ns else 0
        true_ns = update_ns - 60 * NS_PER_MS
        uj = true_ns * 300 // 1_000 + rng.randrange(1_000_000)
        uj = max(uj, last_uj)
        known = at_ns > known_after_s * NS_PER_S
        fault = rng.choice(["", "", "", "", "", "", "", "lost", "reset"]) if faults else ""
        held_ns = update_ns if known and uj != last_uj else at_ns
        log.append(
            Reading(
                "GPU-0",
                held_ns,
                None if fault == "lost" else uj,
                None,
                "nvml_counter",
                fault=fault,
                period_ns=PERIOD_NS if known else 0,
                lag_ns=at_ns - held_ns,
            )
        )
        last_uj = uj
    return log


def rows_of(lives, log, rng, *, often, save=False):
    """Postings, energy of the records, and the pipeline; it is swept after a share *often* of all events and readings.

    All engines have started, and their device has been read once, before the first sweep.
    """
    pipeline, postings, records = Pipeline(Policy("roofline", "request"), NS_PER_S), [], []
    merged = [(at, 0, engine_id, event) for at, engine_id, event in in_order(lives)]
    merged += [(each.at_ns + each.lag_ns, 1, "", each) for each in log]
    merged.sort(key=lambda row: (not isinstance(row[3], SegmentHeader | EngineStarted), *row[:2]))

    def look(until_ns):
        pipeline.sweep(until_ns)
        rows = pipeline.take_rows()
        postings.extend(rows.postings)
        records.extend((record.record_id, record.energy_uj) for record in rows.records)

    for reached_ns, _, engine_id, event in merged:
        if isinstance(event, Reading):
            pipeline.reading(BOOT_ID, event)
            continue
        if isinstance(event, SegmentHeader):
            pipeline.add(engine_id, event)
        pipeline.take(engine_id, event)
        if pipeline.meters and rng.random() < often:
            look(reached_ns - 1)
            if save:
                pipeline = msgspec.json.decode(msgspec.json.encode(pipeline), type=Pipeline)
    look(1 << 60)
    look(1 << 60)
    return postings, records, pipeline


def by_window(postings):
    """In an order that does not depend on which engine's rows were taken first."""
    return sorted(postings, key=lambda each: (each.engine_id, each.window_ns, each.kind, each.reason, each.record_id))


@pytest.mark.parametrize("faults", [False, True])
@pytest.mark.parametrize(
    ("rounds", "engines"), [(400, 1), (1_700, 1), (400, 2)], ids=["ends while it is held", "goes on", "two engines"]
)
def test_the_same_rows_however_often_the_agent_looked_and_wherever_it_was_killed(rounds, engines, faults):
    lives = {str(n): random_life(rounds + n, rounds=rounds, profile=BUSY).events for n in range(engines)}
    log = late_counter(max(events[-1].at_ns for events in lives.values()), 5, faults=faults)
    ways = [
        rows_of(lives, log, random.Random(3), often=often, save=save)
        for often, save in ((0.1, False), (0.01, True), (0.001, False))
    ]
    assert by_window(ways[0][0]) == by_window(ways[1][0]) == by_window(ways[2][0])
    assert sorted(ways[0][1]) == sorted(ways[1][1]) == sorted(ways[2][1])
    for postings, _, pipeline in ways:
        (meter,) = pipeline.meters.values()
        assert meter.holds > 0, "there was something to hold"
        assert sum(posting.energy_uj or 0 for posting in postings) == meter.attributed_uj > 0
        if not faults:
            assert meter.attributed_uj + meter.outside_uj == log[-1].energy_uj - log[0].energy_uj
