"""Policy `tenant`: the head fee is split by tenant, then by request, whichever requests come and go, in O(1)."""

from collections import defaultdict
from fractions import Fraction

import pytest
from attributed import check
from costtrace_lab.engines.schedules import header, started
from hypothesis import given
from hypothesis import strategies as st

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.attribution.steps.cost_model import Coefficients
from costtrace.core.events import EngineReady, EngineStopped, SequenceAdded, SequenceFinished, Step

S = 1_000_000_000
T0 = 10 * S
FEE_ONLY = Coefficients(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
TENANTS = ("ant", "bee", "cat")
scripts = st.lists(
    st.tuples(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), max_size=3), st.integers(0, 3)), max_size=12
)
"""By step: requests that come (tenant, sequences), and how many of the oldest sequences end after it."""


def live(script):
    """Events of a life of pure decoding, and what each request owes by the definition, in seconds."""
    events, running, owed, slot, index = [], {}, defaultdict(Fraction), 0, 0
    for arrivals, leavers in script:
        at, enters = T0 + index * S, []
        for tenant, sequences in arrivals:
            key = f"r{slot}"
            for _ in range(sequences):
                events.append(SequenceAdded(slot, at, f"s{slot}", key, key, key, 10, "m", TENANTS[tenant], "header"))
                enters.append((slot, 10))
                running[slot] = (key, tenant)
                slot += 1
        if not running:
            continue
        events.append(Step(index, at, at + S, (), tuple(enters), ()))
        tenants = {tenant for _, tenant in running.values()}
        for key in {key for key, _ in running.values()}:
            tenant = next(t for k, t in running.values() if k == key)
            requests = {k for k, t in running.values() if t == tenant}
            owed[key] += Fraction(1, len(tenants) * len(requests))
        for gone in list(running)[:leavers]:
            events.append(SequenceFinished(gone, at + S, index, "stop", 1))
            del running[gone]
        index += 1
    return [*events, EngineStopped(T0 + index * S)], owed


def bill(events, policy):
    pipeline = Pipeline(policy, 3_600 * S)
    pipeline.add("e", header("e", T0))
    for event in (header("e", T0), started(("GPU-0",), T0), EngineReady(T0)):
        pipeline.take("e", event)
    pipeline.sweep(T0)
    pipeline.engines["e"].attribution.coefficients = FEE_ONLY
    for event in events:
        pipeline.take("e", event)
    pipeline.sweep(1 << 62)
    rows = pipeline.take_rows()
    check(rows, pipeline.all_engine_rows())
    return {record.request_key: record for record in rows.records}, pipeline.engines["e"].attribution.accounts


@given(scripts)
def test_each_tenant_pays_one_part_and_each_of_its_requests_one_of_that(script):
    events, owed = live(script)
    used, accounts = bill(events, Policy("roofline", "tenant"))
    for key, seconds in owed.items():
        # Weights are whole parts of 2**20: with k requests a tenant's part is short by less than k of them.
        assert used[key].gpu_ns == pytest.approx(float(seconds * S), rel=1e-4, abs=4)
        assert used[key].head_ns == pytest.approx(used[key].gpu_ns, rel=1e-4, abs=4)
    assert accounts.fees.groups == {}
    assert accounts.cohort.weight == 0


def test_a_tenant_with_three_requests_pays_as_much_as_one_with_one():
    events, _ = live([([(0, 1), (0, 1), (0, 1), (1, 1)], 0), ([], 1), ([], 0)])
    used, _ = bill(events, Policy("roofline", "tenant"))
    assert sum(used[f"r{n}"].gpu_ns for n in range(3)) == pytest.approx(used["r3"].gpu_ns, rel=1e-4)
    by_request, _ = bill(events, Policy("roofline", "request"))
    assert by_request["r3"].gpu_ns == pytest.approx(S / 4 + S / 4 + S / 3, rel=1e-6)


def test_of_a_thousand_requests_of_a_tenant_one_that_comes_or_goes_touches_no_other():
    """The others are not settled: their marks stay where they were."""
    pipeline = Pipeline(Policy("roofline", "tenant"), 3_600 * S)
    pipeline.add("e", header("e", T0))
    for event in (header("e", T0), started(("GPU-0",), T0), EngineReady(T0)):
        pipeline.take("e", event)
    for slot in range(1_001):
        key = f"r{slot}"
        pipeline.take("e", SequenceAdded(slot, T0, key, key, key, key, 10, "m", "ant", "header"))
    pipeline.take("e", Step(0, T0, T0 + S, (), tuple((slot, 10) for slot in range(1_000)), ()))
    pipeline.sweep(T0 + S)
    accounts = pipeline.engines["e"].attribution.accounts
    before = [accounts.open[slot].marks for slot in range(1_000)]
    pipeline.take("e", Step(1, T0 + S, T0 + 2 * S, (), ((1_000, 10),), ()))
    pipeline.take("e", SequenceFinished(1_000, T0 + 2 * S, 1, "stop", 1))
    pipeline.take("e", Step(2, T0 + 2 * S, T0 + 3 * S, (1_000,), (), ()))
    pipeline.sweep(T0 + 3 * S)
    assert [accounts.open[slot].marks for slot in range(1_000)] == before
