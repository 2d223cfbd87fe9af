"""Tier T2: what the executor's own statistics yield."""

from types import SimpleNamespace

import pytest
from attributed import sums
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.rank_side.stats import StatsMeter
from costtrace_tensorrt_llm.rank_side.translate import Translator
from costtrace_tensorrt_llm.server_side.contexts import Contexts
from double.executor import Plan
from double.hooked import of
from double.loops import random_plans
from double.signatures import COLUMNS
from double_journal import LOOPS, Rank, assert_wall_time, bill

from costtrace.capture.recorder import Recorder
from costtrace.core.events import SequenceFinished, Step


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
def test_statistics_without_a_gpu_time_are_not_read_and_all_is_idle(monkeypatch, column):
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


def test_statistics_without_a_gpu_time_price_nothing():
    recorder = Recorder()
    meter = StatsMeter(recorder, Contexts())
    meter.record([SimpleNamespace(id=1, scheduled=True)], None)
    meter.record(None, 3.0)
    assert (recorder.drain(), meter.unpriced) == ([], 2)


def test_statistics_yield_prompts_generation_and_ends():
    recorder, translator = Recorder(), Translator("m")
    meter = StatsMeter(recorder, Contexts())
    for position, generated, stage in ((5, 1, "GENERATION"), (5, 2, "GENERATION"), (5, 3, "GENERATION_COMPLETE")):
        row = SimpleNamespace(
            id=7, scheduled=True, context_prefill_position=position, num_generated_tokens=generated, stage=stage
        )
        meter.record([row], 1.0)
    events = translator.translate(recorder.drain())
    assert [(s.items, s.enters) for s in of(events, Step)] == [(((1, 5, 0),), ()), ((), ((1, 5),)), ((), ())]
    (end,) = of(events, SequenceFinished)
    assert (end.output_tokens, end.last_step) == (3, 2)
