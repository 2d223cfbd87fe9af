"""The simulated server serves what was offered as a real one would, and what it records adds up like a real journal."""

import random
from collections import defaultdict

import pytest
from trial_balance import attribute, check

from costtrace.events import SegmentHeader, SequenceAdded, SequenceFinished, Step
from costtrace.simulator import Limits, Offered, RooflineTime, Server
from costtrace.step_model import Coefficients
from costtrace.testing.schedules import header

TIMES = RooflineTime(Coefficients(6e-4, 2e-5, 4e-3, 3e-8, 1e-9, 5e-6))


def workload(count=60, seed=1, gap_ns=40_000_000, *, shared=False):
    rng, at_ns = random.Random(seed), 0
    for n in range(count):
        at_ns += rng.randrange(gap_ns)
        prompt = rng.randrange(1, 3_000)
        blocks = tuple([1, 2, 3] if shared else [n * 10 + i for i in range(3)])
        yield Offered(at_ns, f"t{n % 3}", prompt, rng.randrange(1, 80), blocks)


def serve(offered, **limits):
    batches = []
    server = Server(TIMES, limits=Limits(**limits), on_batch=lambda batch, ns: batches.append((batch, ns)))
    head: list = [header("sim", 1)]
    return [*head, *server.events(offered)], batches


@pytest.mark.parametrize(
    "limits", [{}, {"max_running": 4}, {"kv_tokens": 9_000}, {"drafts": 3}, {"token_budget": 100}], ids=str
)
def test_everybody_is_served_to_the_end_and_the_books_balance(limits):
    offered = list(workload())
    events, batches = serve(offered, **limits)
    finished = {e.slot: e for e in events if isinstance(e, SequenceFinished)}
    added = {e.slot: e for e in events if isinstance(e, SequenceAdded)}
    assert [added[n].prompt_tokens for n in range(1, 61)] == [o.prompt_tokens for o in offered]
    assert [finished[n].output_tokens for n in range(1, 61)] == [o.output_tokens for o in offered]
    rows, engines = attribute({"sim": events})
    check(rows, engines)
    assert sum(p.gpu_ns for p in rows.postings if p.kind == "request") == sum(ns for _, ns in batches)
    assert len(rows.records) == 60


@pytest.mark.parametrize("limits", [{}, {"kv_tokens": 9_000}, {"drafts": 2}], ids=str)
def test_the_steps_say_who_was_in_the_batch(limits):
    """Read back from the differences: the cohort and the items of each step are the batch's members."""
    events, batches = serve(list(workload()), **limits)
    cohort: dict[int, int] = {}
    steps = [e for e in events if isinstance(e, Step)]
    for step, (batch, _) in zip(steps, batches, strict=True):
        for slot in step.leaves:
            cohort.pop(slot)
        cohort |= dict(step.enters)
        found = {(slot, 1, at) for slot, at in cohort.items()} | set(step.items)
        assert found == {(m.slot, m.tokens, m.context) for m in batch.members}
        cohort = {slot: at + 1 for slot, at in cohort.items()}


def test_no_step_goes_beyond_its_limits():
    _, batches = serve(list(workload(gap_ns=1_000_000)), max_running=7, token_budget=256, kv_tokens=12_000)
    for batch, _ in batches:
        assert len(batch.members) <= 7
        assert sum(m.tokens for m in batch.members) <= 256
        assert sum(m.context for m in batch.members) <= 12_000


def test_a_prefix_that_was_computed_is_not_computed_again():
    fresh, _ = serve(list(workload()))
    shared, _ = serve(list(workload(shared=True)))
    cached = [sum(e.cached_tokens for e in events if isinstance(e, SequenceFinished)) for events in (fresh, shared)]
    assert cached[0] == 0 < cached[1]
    computed = [sum(t for e in events if isinstance(e, Step) for _, t, _ in e.items) for events in (fresh, shared)]
    assert computed[0] - computed[1] == cached[1]


def test_what_finds_no_room_is_preempted_and_computed_again():
    events, _ = serve(list(workload(gap_ns=1_000_000)), kv_tokens=8_000)
    assert sum(e.preemptions for e in events if isinstance(e, SequenceFinished)) > 0
    rows, _ = attribute({"sim": events})
    assert sum(record.wasted_ns for record in rows.records) > 0


def test_the_same_seed_serves_the_same():
    assert serve(list(workload()), drafts=3)[0] == serve(list(workload()), drafts=3)[0]


def test_requests_wait_for_their_time():
    events, _ = serve([Offered(0, "a", 10, 2), Offered(5_000_000_000, "b", 10, 2)])
    at = defaultdict(int)
    for event in events:
        if isinstance(event, Step):
            for slot, _, _ in event.items:
                at[slot] = event.scheduled_ns
    assert at[2] - at[1] >= 5_000_000_000
    assert not isinstance(events[1], SegmentHeader)
