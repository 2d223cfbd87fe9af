"""The same journal gives the same bill, release after release: fixed lives, and the digests of their first rows.

If you change on purpose how time is shared, make new digests (a failing run shows them) and say so in the changelog.
A change for speed leaves them alone.
"""

import hashlib
import random

import msgspec
import pytest
from costtrace_lab.engines.random_engine import Profile
from costtrace_lab.engines.schedules import BOOT_ID, SHAPE, header, random_life, started

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.core.events import ModelShape, Reading
from costtrace.core.units import NS_PER_MS, NS_PER_S

QUIET = Profile(
    arrivals=0.06, output_tokens=90, abort=0.002, preempt=0.002, skip=0.0, pause=0.01, speculative=0.0, dummy=0.001
)
"""Mostly steady steps."""
EXPERTS = msgspec.structs.replace(SHAPE, experts=64, experts_per_token=4, expert_bytes=13 * 10**9)
COLUMNS = (
    "window_ns",
    "kind",
    "reason",
    "record_id",
    "gpu_ns",
    "prefill_ns",
    "wasted_ns",
    "energy_uj",
    "energy_unknown_ns",
    "method",
)

LIVES = {
    "mishaps": ("1b6ecb45f619b08b", Profile(), Policy(), SHAPE, 1_500, 0),
    "steady": ("87cbad99a191983d", QUIET, Policy(), SHAPE, 6_000, 0),
    "experts by affine": ("d7dc4275d8370051", QUIET, Policy(method="affine"), EXPERTS, 2_500, 0),
    "asynchronous, by tenant": ("19db050b10b614ce", Profile(depth=2), Policy(head_fee="tenant"), SHAPE, 1_200, 0),
    "by tokens, shape unknown": (
        "ce4161fbb708bde8",
        QUIET,
        Policy(method="tokens", head_fee="sequence"),
        ModelShape(),
        1_500,
        0,
    ),
    "energy": ("c2df76bbef2f9120", QUIET, Policy(), SHAPE, 1_500, 100 * NS_PER_MS),
}


def readings(until_ns, period_ns):
    """A counter that grows unevenly, and is lost once."""
    rng, count = random.Random(5), 0
    for number, at_ns in enumerate(range(NS_PER_S, until_ns + period_ns, period_ns)):
        count += rng.randrange(10_000_000, 70_000_000)
        lost = 40 < number < 80
        yield Reading(
            "GPU-0", at_ns, None if lost else count, None, "none" if lost else "nvml_counter", fault="lost" * lost
        )


def bill(profile, policy, shape, rounds, period_ns):
    """Digest of all rows of a life, and of what its model has learned."""
    life = random_life(11, rounds=rounds, profile=profile)
    events = [header(life.engine_id, 3 * NS_PER_S), started(("GPU-0",), NS_PER_S, shape=shape), *life.events[2:]]
    pipeline = Pipeline(policy, 10 * NS_PER_S)
    pipeline.add(life.engine_id, events[0])
    if period_ns:
        for reading in readings(events[-1].at_ns, period_ns):
            pipeline.reading(BOOT_ID, reading)
    for number, event in enumerate(events):
        pipeline.take(life.engine_id, event)
        if number % 97 == 0 and not period_ns:  # energy before the engine's time is on none of its rows
            pipeline.sweep(1 << 62)
    pipeline.sweep(1 << 62)
    rows = pipeline.take_rows()
    digest = hashlib.sha256()
    for posting in rows.postings:
        digest.update(repr([getattr(posting, name) for name in COLUMNS]).encode())
    for record in rows.records:
        seen = (record.record_id, record.gpu_ns, record.energy_uj, record.head_ns, record.steps, record.batch_milli)
        digest.update(repr(seen).encode())
    for meter in rows.meter:
        seen = (
            meter.window_ns,
            meter.request_ns,
            meter.idle_ns,
            meter.overhead_ns,
            meter.energy_uj,
            meter.energy_unknown_ns,
        )
        digest.update(repr(seen).encode())
    fit = pipeline.all_fit_rows()[0]
    if period_ns:
        assert sum(posting.energy_uj or 0 for posting in rows.postings if posting.kind == "request") > 0
    digest.update(repr((fit.launch_as, fit.token_as, fit.context_as, fit.sequence_as, fit.observations)).encode())
    assert sum(p.gpu_ns for p in rows.postings if p.kind == "request") == sum(m.request_ns for m in rows.meter) > 0
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", LIVES)
def test_a_journal_gives_the_bill_that_it_has_always_given(name):
    expected, *life = LIVES[name]
    assert bill(*life) == expected
