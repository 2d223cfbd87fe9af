"""The step hooks on the double of TensorRT-LLM: every nanosecond of the fake GPU is on the right row."""

from itertools import pairwise

import pytest
from attributed import sums
from costtrace_lab.engines.schedules import header
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.rank_side import batches, translate
from costtrace_tensorrt_llm.rank_side.metering import StepMeter
from costtrace_tensorrt_llm.request_context import RequestContext, encode
from costtrace_tensorrt_llm.server_side import requests
from costtrace_tensorrt_llm.server_side.contexts import Contexts
from double.cuda import Host
from double.executor import Plan, RequestQueueItem
from double.loops import random_plans, run_attention_dp
from double.signatures import COLUMNS
from double_journal import (
    Rank,
    assert_books_balance,
    assert_closed_after_the_last_batch,
    assert_everybody_pays_for_his_batches,
    bill,
)

from costtrace.core.events import Overhead, SequenceAdded, SequenceFinished, Step

LOOPS = {
    "plain": {"loop": "plain"},
    "overlap": {"loop": "overlap"},
    "first stage": {"loop": "stage", "stages": 2, "stage": 0},
    "last stage": {"loop": "pipeline", "stages": 2, "stage": 1},
}


def all_hold(rank):
    assert_books_balance(rank)
    assert_books_balance(rank, method="roofline")
    assert_everybody_pays_for_his_batches(rank)
    assert_closed_after_the_last_batch(rank)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("seed", [1, 2])
def test_billed_idle_and_overhead_are_the_wall_time_of_the_fake_gpu(monkeypatch, column, loop, seed):
    rank = Rank(monkeypatch, random_plans(seed, 12), column=column, seed=seed, **LOOPS[loop]).serve()
    assert len(rank.executor.batches) > 20
    all_hold(rank)


@pytest.mark.parametrize("loop", LOOPS)
def test_drafts_are_paid_by_their_request_and_the_books_balance(monkeypatch, loop):
    rank = Rank(monkeypatch, random_plans(5, 12, drafts=3), **LOOPS[loop]).serve()
    all_hold(rank)
    assert any(tokens > 1 and context for e in rank.events if isinstance(e, Step) for _, tokens, context in e.items)


@pytest.mark.parametrize("loop", ["plain", "overlap"])
@pytest.mark.parametrize("column", ["1.0", "main"])
def test_a_forward_pass_that_fails_is_paid_by_those_who_were_in_it(monkeypatch, loop, column):
    rank = Rank(monkeypatch, random_plans(3, 10), column=column, fail_at=7, loop=loop).serve()
    all_hold(rank)
    assert "error" in {event.reason for event in rank.events if isinstance(event, SequenceFinished)}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("column", [column for column in COLUMNS if column != "1.0"])
def test_a_request_that_fails_alone_ends_alone(monkeypatch, loop, column):
    plans = [Plan(1_000_000_000, 30, 12, fail_after=3 * (n == 1)) for n in range(3)]
    rank = Rank(monkeypatch, plans, column=column, **LOOPS[loop]).serve()
    all_hold(rank)
    reasons = sorted(event.reason for event in rank.events if isinstance(event, SequenceFinished))
    assert reasons == ["error", "length", "length"]


def test_both_stages_of_a_pipeline_are_two_devices_and_one_request_each(monkeypatch):
    plans = random_plans(6, 8)
    ranks = [Rank(monkeypatch, plans, seed=6, **LOOPS[name]).serve() for name in ("first stage", "last stage")]
    for rank in ranks:
        rank.engine_id += f"-{rank.executor.loop}"
        rank.events[0] = header(rank.engine_id, rank.started_ns)
    rows = bill(*ranks)
    assert sum(sums(rows).values()) == sum(rank.ended_ns - rank.started_ns for rank in ranks)
    assert sums(rows)["request"] == sum(rank.truth()["request"] for rank in ranks)


def test_the_gpu_time_of_overlapping_batches_is_counted_once(monkeypatch):
    plans = [Plan(1_000_000_000, 32, 40) for _ in range(4)]
    rank = Rank(monkeypatch, plans, loop="overlap").serve()
    all_hold(rank)
    steps = [event for event in rank.events if isinstance(event, Step)]
    assert any(after.scheduled_ns < before.done_ns for before, after in pairwise(steps))


def test_a_paused_request_is_no_end_and_what_it_computes_again_is_shown_as_wasted(monkeypatch):
    rank = Rank(monkeypatch, [Plan(1_000_000_000, 100, 8, pause_after=3)]).serve()
    all_hold(rank)
    assert sum(isinstance(event, SequenceFinished) for event in rank.events) == 1
    (record,) = bill(rank).records
    assert 0 < record.wasted_ns < record.gpu_ns


def test_a_steady_batch_costs_a_few_bytes(monkeypatch):
    rank = Rank(monkeypatch, [Plan(1_000_000_000, 10, 30) for _ in range(3)]).serve()
    steady = [e for e in rank.events if isinstance(e, Step) and not (e.items or e.enters or e.leaves)]
    assert len(steady) > 20


def test_a_cancelled_request_is_an_abort_and_what_it_used_was_wasted(monkeypatch):
    rank = Rank(monkeypatch, [Plan(1_000_000_000, 10, 9, cancel_after=4)]).serve()
    (record,) = bill(rank).records
    assert record.finish_reasons == ("abort",)
    assert record.wasted_ns == record.gpu_ns > 0


def test_tokens_are_those_of_the_request(monkeypatch):
    rank = Rank(monkeypatch, [Plan(1_000_000_000, 100, 9)]).serve()
    (record,) = bill(rank).records
    assert (record.input_tokens, record.output_tokens, record.finish_reasons) == (100, 9, ("length",))
    assert record.prefill_ns > 0
    assert record.decode_ns > 0


def test_a_later_stage_of_a_pipeline_has_time_and_no_tokens_of_its_own(monkeypatch):
    plans = [Plan(1_000_000_000, 100, 9)]
    (first,) = bill(Rank(monkeypatch, plans, **LOOPS["first stage"]).serve()).records
    (last,) = bill(Rank(monkeypatch, plans, **LOOPS["last stage"]).serve()).records
    assert (first.input_tokens, first.output_tokens, first.role) == (100, 9, "aggregated")
    assert (last.input_tokens, last.output_tokens, last.role) == (0, 0, "stage")
    assert last.prefill_ns > 0
    assert first.request_key == last.request_key


# -- attention data parallelism ------------------------------------------------------------------------------------


def test_with_attention_dp_every_rank_bills_its_own_requests_and_padding_is_overhead(monkeypatch):
    host, contexts = Host(), Contexts()
    ranks = [Rank(monkeypatch, [], host=host, contexts=contexts, place=place, seed=place) for place in range(3)]
    run_attention_dp([rank.executor for rank in ranks], random_plans(4, 14))
    for rank in ranks:
        rank.end()
        all_hold(rank)
        assert any(isinstance(event, Overhead) and event.reason == "dummy batch" for event in rank.events)
    served = [{r.py_request_id for r in rank.executor.seen} for rank in ranks]
    assert all(served)
    assert not set.intersection(*served)


def test_with_attention_dp_the_tenant_reaches_every_rank_on_the_item_that_is_broadcast(monkeypatch):
    host, contexts = Host(), Contexts()
    item = RequestQueueItem
    monkeypatch.setattr(item, "__init__", requests.wrap_queue_item(item.__init__))
    monkeypatch.setattr(item, "__setstate__", requests.unpack_queue_item, raising=False)
    monkeypatch.setattr(process, "contexts", contexts)
    ranks = [Rank(monkeypatch, [], host=host, contexts=contexts, place=place) for place in range(2)]
    first = ranks[0].executor
    submit = first.submit

    def submit_for_a_tenant(plan):
        requests._queueing.text = encode(RequestContext(f"key-{plan.prompt}", f"tenant-{plan.prompt % 2}", "header"))
        try:
            return submit(plan)
        finally:
            requests._queueing.text = ""

    first.submit = submit_for_a_tenant

    def broadcast(sent):
        for name in (sent.id, *sent.child_req_ids):  # rank 0 knows it anyway: here only what was pickled counts
            del contexts._by_id["executor", name]
        return sent

    plans = [Plan(1_000_000_000 + n, 10 + n, 5, answers=1 + n % 2) for n in range(6)]
    run_attention_dp([rank.executor for rank in ranks], plans, broadcast)
    for rank in ranks:
        rank.end()
    added = [event for event in ranks[1].events if isinstance(event, SequenceAdded)]
    assert added
    assert all(event.tenant == f"tenant-{event.prompt_tokens % 2}" for event in added)
    assert all(event.request_key == f"key-{event.prompt_tokens}" for event in added)


def test_a_rank_that_does_not_know_the_tenant_bills_nobodys_name(monkeypatch):
    rank = Rank(monkeypatch, [Plan(1_000_000_000, 10, 5)], place=1).serve()
    (record,) = bill(rank).records
    assert record.tenant == "__unobserved__"


# -- planted faults ------------------------------------------------------------------------------------------------


def overlapped(monkeypatch, seed=1):
    return Rank(monkeypatch, random_plans(seed, 12), loop="overlap").serve()


def test_the_fault_close_at_finish_is_caught(monkeypatch):
    close = StepMeter._close

    def close_at_finish(self, name, reason, generated, cached):
        index, self.recorder.index = self.recorder.index, self.recorder.done_index
        close(self, name, reason, generated, cached)
        self.recorder.index = index

    monkeypatch.setattr(StepMeter, "_close", close_at_finish)
    rank = overlapped(monkeypatch)
    with pytest.raises(AssertionError):
        assert_closed_after_the_last_batch(rank)


def test_the_fault_generation_requests_left_out_is_caught(monkeypatch):
    freeze = StepMeter._freeze

    def prompts_only(self, scheduled):
        batch = freeze(self, scheduled)
        return batch._replace(generation=[], drafts=[], accepted=[], reason="" if batch.context else batches.DUMMY)

    monkeypatch.setattr(StepMeter, "_freeze", prompts_only)
    rank = overlapped(monkeypatch)
    with pytest.raises(AssertionError):
        assert_books_balance(rank)
    with pytest.raises(AssertionError):
        assert_everybody_pays_for_his_batches(rank)


def test_the_fault_batch_counted_per_request_is_caught(monkeypatch):
    step = translate.Translator._step

    def once_for_each(self, index, scheduled_ns, done_ns, batch):
        count = max(1, len(batch.generation) + len(batch.context))
        step(self, index, scheduled_ns, scheduled_ns + count * (done_ns - scheduled_ns), batch)

    monkeypatch.setattr(translate.Translator, "_step", once_for_each)
    rank = overlapped(monkeypatch)
    with pytest.raises(AssertionError):
        assert_books_balance(rank)


def test_a_meter_that_waits_for_the_gpu_is_caught(monkeypatch):
    poll = StepMeter.poll

    def wait_then_poll(self):
        if self._flying:
            self._flying[-1].end.synchronize()
        poll(self)

    monkeypatch.setattr(StepMeter, "poll", wait_then_poll)
    rank = overlapped(monkeypatch)
    with pytest.raises(AssertionError):
        assert_books_balance(rank)
    assert sums(bill(rank))["unobserved"] == 0
