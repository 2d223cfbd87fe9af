"""The tiers below T1 that run on the executor, on its double: upstream's own events, and its statistics."""

from collections import defaultdict
from fractions import Fraction
from types import SimpleNamespace

import pytest
from costtrace_tensorrt_llm.contract.hooks_by_version import COLUMNS
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.rank_side import native
from double.executor import Plan
from double.loops import random_plans
from double_journal import Rank, assert_closed_after_the_last_batch, bill
from trial_balance import sums

from costtrace.core import guard
from costtrace.core.events import Lost, SequenceFinished, Step

LOOPS = {
    "plain": {"loop": "plain"},
    "overlap": {"loop": "overlap"},
    "pipeline": {"loop": "pipeline", "stages": 2, "stage": 1},
}


@pytest.fixture(autouse=True)
def _no_swallowed_errors():
    guard.strict()
    yield
    guard.strict(on=False)


def assert_wall_time(rank, rows):
    """Whatever a tier knows: all kinds together are the wall time, and nobody made the host wait."""
    assert sum(sums(rows).values()) == rank.ended_ns - rank.started_ns
    assert rank.gpu.synchronised == 0


# -- T1-native -----------------------------------------------------------------------------------------------------


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


def test_a_batch_whose_forward_pass_failed_is_told_by_nobody_and_is_unobserved(monkeypatch):
    rank = Rank(monkeypatch, random_plans(3, 10), tier="T1-native", stats=True, fail_at=7).serve()
    rows = bill(rank)
    assert_wall_time(rank, rows)
    assert {event.reason for event in rank.events if isinstance(event, Lost)} == {"its forward pass failed"}
    assert sums(rows)["unobserved"] > 0


def test_a_batch_that_is_not_done_when_upstream_tells_of_it_is_unobserved_and_nothing_waits(monkeypatch):
    tell, late = native.UpstreamMeter.told, []

    def too_early(self, state):
        if len(late) < 3:
            late.append(state)
            state.gpu_forward_end_event = SimpleNamespace(query=lambda: False)
        tell(self, state)

    monkeypatch.setattr(native.UpstreamMeter, "told", too_early)
    rank = Rank(monkeypatch, [Plan(1_000_000_000, 20, 12)], tier="T1-native", stats=True).serve()
    assert_wall_time(rank, bill(rank))
    lost = [event.reason for event in rank.events if isinstance(event, Lost)]
    assert lost == ["it was not done when upstream told of it"] * 3
    assert sum(isinstance(event, Step) for event in rank.events) == len(rank.executor.batches) - 3


def test_where_upstream_does_not_time_its_batches_the_meter_says_so(monkeypatch):
    meter = native.UpstreamMeter(Rank(monkeypatch, []).recorder, SimpleNamespace(of=lambda *_: ""))
    empty = SimpleNamespace(context_requests=[], generation_requests=[])
    for _ in range(native.UNTOLD):
        batch = SimpleNamespace(context_requests=[], generation_requests=[])
        meter.begin(SimpleNamespace(), batch)
        meter.told(SimpleNamespace(scheduled_requests=batch))
    with pytest.raises(native.Untold):
        meter.begin(SimpleNamespace(), empty)


# -- T2 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("seed", [2, 3])
def test_by_statistics_nothing_is_made_or_lost_and_everybody_is_closed(monkeypatch, loop, seed):
    plans = [*random_plans(seed, 12, drafts=2), Plan(3_000_000_000, 9, 3)]
    rank = Rank(monkeypatch, plans, tier="T2", stats=True, seed=seed, **LOOPS[loop]).serve()
    rows = bill(rank)
    assert_wall_time(rank, rows)
    brackets = rank.executor.timing.brackets
    assert 0 < sums(rows)["request"] <= sum(ns for ns, members in brackets if members)
    ended = {event.slot for event in rank.events if isinstance(event, SequenceFinished)}
    assert ended == {event.slot for event in rank.events if hasattr(event, "sequence_id")}


@pytest.mark.parametrize("column", [column for column in COLUMNS if column != "main"])
def test_statistics_without_a_gpu_time_are_not_tapped_and_all_is_idle(monkeypatch, column):
    rank = Rank(monkeypatch, random_plans(2, 6), column=column, tier="T2", stats=True).serve()
    assert "stats" not in process.status.installed
    assert sums(bill(rank))["idle"] == rank.ended_ns - rank.ready_ns


def test_statistics_know_a_prompt_by_the_executors_request_and_who_left_without_a_last_record(monkeypatch):
    plans = [Plan(1_000_000_000, 150, 6, fail_after=3), Plan(1_000_000_000, 5, 20)]
    rank = Rank(monkeypatch, plans, tier="T2", stats=True).serve()
    record, _ = bill(rank).records
    assert (record.input_tokens, record.finish_reasons) == (150, ("stop",))
    assert record.prefill_ns > 0
    assert record.decode_ns > 0
