"""Tier T1-native: batches by upstream's own events."""

from collections import defaultdict
from fractions import Fraction
from types import SimpleNamespace

import pytest
from attributed import sums
from costtrace_tensorrt_llm.rank_side import native
from double.executor import Plan
from double.loops import random_plans
from double_journal import LOOPS, Rank, assert_closed_after_the_last_batch, assert_wall_time, bill

from costtrace.core.events import Lost, Step


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_by_upstreams_events_everybody_pays_for_exactly_what_they_bracket(monkeypatch, loop, seed):
    rank = Rank(
        monkeypatch, random_plans(seed, 12, drafts=seed % 2), tier="T1-native", stats=True, seed=seed, **LOOPS[loop]
    )
    rank.serve()
    rows = bill(rank, method="equal")
    assert_wall_time(rank, rows)
    assert_closed_after_the_last_batch(rank)
    brackets = rank.executor.timing.brackets
    assert len(brackets) > 20
    assert sums(rows)["request"] == sum(ns for ns, members in brackets if members)
    assert sums(rows)["unobserved"] == 0
    shares, paid = defaultdict(Fraction), defaultdict(int)
    keys = {event.sequence_id: event.request_key for event in rank.events if hasattr(event, "sequence_id")}
    for ns, members in brackets:
        for member in members:
            shares[keys[str(member)]] += Fraction(ns, len(members))
    for record in rows.records:
        paid[record.request_key] += record.gpu_ns
    slack = 2 + len(brackets) // 100
    assert paid.keys() == shares.keys()
    assert {key: paid[key] for key, share in shares.items() if abs(paid[key] - share) > slack} == {}


def test_upstreams_events_are_read_before_they_are_taken_back(monkeypatch):
    rank = Rank(monkeypatch, random_plans(4, 8), tier="T1-native", stats=True, loop="overlap").serve()
    assert rank.executor.timing.taken_back == len(rank.executor.timing.brackets) > 10
    assert not rank.meter._flying


def test_a_batch_whose_forward_pass_failed_is_not_reported_and_is_unobserved(monkeypatch):
    rank = Rank(monkeypatch, random_plans(3, 10), tier="T1-native", stats=True, fail_at=7).serve()
    rows = bill(rank)
    assert_wall_time(rank, rows)
    assert {event.reason for event in rank.events if isinstance(event, Lost)} == {"its forward pass failed"}
    assert sums(rows)["unobserved"] > 0


def test_a_batch_that_is_not_done_when_upstream_reports_it_is_unobserved_and_nothing_waits(monkeypatch):
    report, late = native.UpstreamMeter.reported, []

    def too_early(self, state):
        if len(late) < 3:
            late.append(state)
            state.gpu_forward_end_event = SimpleNamespace(query=lambda: False)
        report(self, state)

    monkeypatch.setattr(native.UpstreamMeter, "reported", too_early)
    rank = Rank(monkeypatch, [Plan(1_000_000_000, 20, 12)], tier="T1-native", stats=True).serve()
    assert_wall_time(rank, bill(rank))
    lost = [event.reason for event in rank.events if isinstance(event, Lost)]
    assert lost == ["it was not done when upstream told of it"] * 3
    assert sum(isinstance(event, Step) for event in rank.events) == len(rank.executor.batches) - 3


def test_where_upstream_does_not_time_its_batches_the_meter_raises(monkeypatch):
    meter = native.UpstreamMeter(Rank(monkeypatch, []).recorder, SimpleNamespace(of=lambda *_: ""))
    empty = SimpleNamespace(context_requests=[], generation_requests=[])
    for _ in range(native.UNTIMED):
        batch = SimpleNamespace(context_requests=[], generation_requests=[])
        meter.begin(SimpleNamespace(), batch)
        meter.reported(SimpleNamespace(scheduled_requests=batch))
    with pytest.raises(native.NotTimed):
        meter.begin(SimpleNamespace(), empty)
