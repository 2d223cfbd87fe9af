"""Who pays for what: the rules of docs/method/rules.md section 4, each with figures that can be checked by hand.

The engine's one device works in steps of round lengths; the method is `tokens` (each computed token pays the same), so
a step's price list is its token counts. `test_worked_example.py` has the full price list.
"""

import msgspec
import pytest
from attributed import attribute, beat, check, sums
from costtrace_lab.engines.schedules import header, started

from costtrace.attribution.engine import Policy
from costtrace.core.events import (
    COUNTED_PROMPT,
    COUNTED_REQUEST,
    HANDS_OVER,
    Delivered,
    EngineReady,
    EngineStopped,
    Lost,
    Overhead,
    SequenceAdded,
    SequenceFinished,
    Snapshot,
    Step,
)

S = 1_000_000_000
T0 = 10 * S
"""The engine is ready at T0; windows are an hour, so nothing is cut unless a test wants it."""
TOKENS = Policy(method="tokens")


def added(slot, prompt=10, key="", tenant="ant", at=T0, **fields):
    key = key or f"req-{slot}"
    return SequenceAdded(slot, at, f"seq-{slot}", key, key, key, prompt, "m", tenant, "header", **fields)


def finished(slot, at, last_step, reason="stop", output=1, **fields):
    return SequenceFinished(slot, at, last_step, reason, output, **fields)


def step(index, begin_s, end_s, *, leaves=(), enters=(), items=()):
    return Step(index, T0 + int(begin_s * S), T0 + int(end_s * S), tuple(leaves), tuple(enters), tuple(items))


def bill(*events, policy=TOKENS, devices=("GPU-0",), stopped_s=None, window_ns=3_600 * S, ready=True):
    """Rows of an engine that lives through *events*, and its usage records by request id (and by tenant)."""
    life = [header("e", T0), started(devices, T0, model="m")]
    life += [EngineReady(T0)] if ready else []
    life += [*events, *([EngineStopped(T0 + int(stopped_s * S))] if stopped_s else [])]
    rows, engines = attribute({"e": life}, policy=policy, window_ns=window_ns)
    check(rows, engines)
    return rows, {record.request_id: record for record in rows.records}


def test_a_step_is_paid_by_its_tokens_and_what_is_between_steps_is_idle():
    rows, used = bill(
        added(1, prompt=30),
        added(2, prompt=10),
        step(0, 1, 5, items=[(1, 30, 0), (2, 10, 0)]),
        finished(1, T0 + 5 * S, 0),
        finished(2, T0 + 5 * S, 0),
        stopped_s=6,
    )
    assert used["req-1"].gpu_ns == 3 * S
    assert used["req-2"].gpu_ns == 1 * S
    assert sums(rows) == {"request": 4 * S, "idle": 2 * S, "overhead": 0, "unobserved": 0}


@pytest.mark.parametrize("metering", ["estimated:trtllm.batch-times", "estimated:trtllm.request-times"])
def test_the_journal_of_an_engine_whose_steps_were_estimates_is_split_by_tokens_and_its_rows_say_so(metering):
    engine = msgspec.structs.replace(started(("GPU-0",), T0, model="m"), settings={"metering": metering})
    life = [header("e", T0), engine, EngineReady(T0), added(1, prompt=30), added(2, prompt=10)]
    life += [step(0, 1, 5, items=[(1, 30, 0), (2, 10, 0)])]
    life += [finished(1, T0 + 5 * S, 0), finished(2, T0 + 5 * S, 0), EngineStopped(T0 + 6 * S)]
    rows, engines = attribute({"e": life}, policy=Policy(method="roofline"), window_ns=3_600 * S)
    check(rows, engines)
    assert sorted(record.gpu_ns for record in rows.records) == [1 * S, 3 * S]
    assert {record.method for record in rows.records} == {metering}
    assert {posting.method for posting in rows.postings if posting.kind == "request"} == {metering}


def test_an_engine_of_two_devices_pays_with_two_nanoseconds_a_nanosecond():
    rows, used = bill(
        added(1), step(0, 0, 2, items=[(1, 10, 0)]), finished(1, T0 + 2 * S, 0), devices=("GPU-0", "GPU-1"), stopped_s=3
    )
    assert used["req-1"].gpu_ns == 4 * S
    assert [(m.device, m.request_ns, m.idle_ns) for m in rows.meter] == [("GPU-0", 2 * S, S), ("GPU-1", 2 * S, S)]


def test_phases_are_prompt_and_output():
    _, used = bill(
        added(1, prompt=10),
        step(0, 0, 2, items=[(1, 10, 0)]),
        step(1, 2, 3, enters=[(1, 10)]),
        step(2, 3, 4),
        finished(1, T0 + 4 * S, 2, output=3),
        stopped_s=4,
    )
    record = used["req-1"]
    assert (record.prefill_ns, record.decode_ns) == (2 * S, 2 * S)
    assert (record.steps, record.computed_tokens, record.output_tokens, record.batch_milli) == (3, 12, 3, 1000)
    assert record.decode_ns_at - record.scheduled_ns == 2 * S


def test_the_mean_batch_is_over_the_steps_that_it_took_part_in():
    _, used = bill(
        added(1, prompt=10),
        added(2, prompt=10),
        step(0, 0, 1, items=[(1, 10, 0)]),
        step(1, 1, 2, enters=[(1, 10)], items=[(2, 10, 0)]),
        step(2, 2, 3, enters=[(2, 10)]),
        finished(1, T0 + 3 * S, 2),
        finished(2, T0 + 3 * S, 2),
        stopped_s=3,
    )
    assert used["req-1"].batch_milli == 5_000 // 3
    assert used["req-2"].batch_milli == 2_000


def test_n_2_is_one_record_whose_prompt_counts_once():
    _, used = bill(
        added(1, prompt=10, key="two"),
        added(2, prompt=10, key="two"),
        step(0, 0, 2, items=[(1, 10, 0), (2, 1, 9)]),
        finished(1, T0 + 2 * S, 0, output=5),
        finished(2, T0 + 2 * S, 0, output=7, reason="length"),
        stopped_s=3,
    )
    assert list(used) == ["two"]
    record = used["two"]
    assert (record.input_tokens, record.output_tokens, record.sequences, record.gpu_ns) == (10, 12, 2, 2 * S)
    assert record.finish_reasons == ("stop", "length")
    # The second found in the cache what the first had computed: to the client, nothing of the prompt was cached.
    assert record.cached_tokens == 0


@pytest.mark.parametrize(("policy", "share"), [("request", 1 / 2), ("sequence", 2 / 3)])
def test_the_sequences_of_a_request_pay_one_head_fee_together(policy, share):
    # Equal sequences but for the head fee: with one head a request, `two` pays as much of it as `one`.
    _, used = bill(
        added(1, key="two"),
        added(2, key="two"),
        added(3, key="one"),
        step(0, 0, 1, enters=[(1, 100), (2, 100), (3, 100)]),
        finished(1, T0 + S, 0),
        finished(2, T0 + S, 0),
        finished(3, T0 + S, 0),
        policy=Policy(method="affine", head_fee=policy),
        stopped_s=2,
    )
    # The simulated model's weights are read in 4.8 ms; tokens and context are under 1 % of that.
    assert used["two"].gpu_ns / S == pytest.approx(share, abs=0.01)


def test_when_one_of_two_sequences_ends_the_other_pays_the_whole_head_fee():
    _, used = bill(
        added(1, key="two"),
        added(2, key="two"),
        added(3, key="one"),
        step(0, 0, 1, enters=[(1, 100), (2, 100), (3, 100)]),
        finished(1, T0 + S, 0),
        step(1, 1, 2, leaves=[1]),
        finished(2, T0 + 2 * S, 1),
        finished(3, T0 + 2 * S, 1),
        policy=Policy(method="affine"),
        stopped_s=2,
    )
    assert used["two"].gpu_ns / S == pytest.approx(1.0, abs=0.02)


def test_a_prefix_hit_costs_its_reader_nothing_and_is_told():
    _, used = bill(
        added(1, prompt=10),
        added(2, prompt=10),
        step(0, 0, 3, items=[(1, 10, 0), (2, 2, 8)]),
        finished(1, T0 + 3 * S, 0),
        finished(2, T0 + 3 * S, 0),
        stopped_s=3,
    )
    assert used["req-1"].gpu_ns == 3 * S * 10 // 12
    assert (used["req-2"].cached_tokens, used["req-2"].gpu_ns) == (8, 3 * S * 2 // 12)


def test_what_is_computed_again_after_a_preemption_is_wasted_and_paid_by_who_was_preempted():
    _, used = bill(
        added(1, prompt=10),
        step(0, 0, 10, items=[(1, 10, 0)]),
        step(1, 10, 11, enters=[(1, 10)]),
        step(2, 11, 12),
        # Preempted with 12 tokens in the cache; it has 13, and starts over with all of them.
        step(3, 12, 25, leaves=[1], items=[(1, 13, 0)]),
        finished(1, T0 + 25 * S, 3, output=4, preemptions=1),
        stopped_s=25,
    )
    record = used["req-1"]
    assert record.gpu_ns == 25 * S
    assert record.wasted_ns == 12 * S  # 12 of the 13 tokens had been computed before
    assert record.preemptions == 1


def test_rejected_drafts_are_paid_and_are_not_taken_for_a_preemption():
    _, used = bill(
        added(1, prompt=10),
        step(0, 0, 1, items=[(1, 10, 0)]),
        step(1, 1, 2, items=[(1, 5, 10)]),  # four drafts, one token accepted
        step(2, 2, 3, items=[(1, 5, 11)]),
        finished(1, T0 + 3 * S, 2, output=7),
        stopped_s=3,
    )
    record = used["req-1"]
    assert (record.gpu_ns, record.wasted_ns, record.computed_tokens) == (3 * S, 0, 20)
    assert (record.prefill_ns, record.decode_ns) == (1 * S, 2 * S)


def test_a_step_in_flight_when_its_sequence_ended_is_late_and_wasted():
    _, used = bill(
        added(1, prompt=10),
        step(0, 0, 1, items=[(1, 10, 0)]),
        step(1, 1, 2, enters=[(1, 10)]),
        finished(1, T0 + 2 * S, 2, output=2),  # step 2 had been dispatched
        step(2, 2, 3),
        stopped_s=4,
    )
    record = used["req-1"]
    assert (record.gpu_ns, record.wasted_ns) == (3 * S, 1 * S)


def test_a_late_step_that_never_happened_does_not_keep_a_request_open():
    rows, used = bill(
        added(1, prompt=10),
        step(0, 0, 1, items=[(1, 10, 0)]),
        finished(1, T0 + S, 1),
        beat(T0 + 2 * S, 0, done_index=1),
        beat(T0 + 3 * S, 0, done_index=1),
    )
    assert used["req-1"].finish_reasons == ("stop",)
    assert sums(rows)["idle"] == 2 * S


def test_all_that_an_aborted_request_used_was_wasted_also_what_was_posted_before():
    rows, used = bill(
        added(1, prompt=10),
        step(0, 0, 1, items=[(1, 10, 0)]),
        step(1, 1, 2, enters=[(1, 10)]),
        finished(1, T0 + 2 * S, 1, reason="abort", output=2),
        stopped_s=3,
        window_ns=S,
    )
    assert (used["req-1"].gpu_ns, used["req-1"].wasted_ns) == (2 * S, 2 * S)
    assert len([p for p in rows.postings if p.record_id]) > 1


def test_of_two_sequences_only_the_aborted_ones_use_is_wasted():
    _, used = bill(
        added(1, key="two"),
        added(2, key="two"),
        step(0, 0, 4, items=[(1, 10, 0), (2, 30, 0)]),
        finished(1, T0 + 4 * S, 0, reason="abort"),
        finished(2, T0 + 4 * S, 0),
        stopped_s=4,
    )
    assert used["two"].wasted_ns == 1 * S


@pytest.mark.parametrize("delivered_first", [True, False])
def test_a_stop_string_ends_a_request_that_the_engine_sees_aborted_and_nothing_was_wasted(delivered_first):
    delivered, seen = Delivered(1, T0 + S, "stop", 3), finished(1, T0 + S, 0, reason="abort", output=5)
    _, used = bill(
        added(1),
        step(0, 0, 1, items=[(1, 10, 0)]),
        *((delivered, seen) if delivered_first else (seen, delivered)),
        stopped_s=2,
    )
    record = used["req-1"]
    assert (record.wasted_ns, record.finish_reasons, record.output_tokens) == (0, ("stop",), 3)


def test_a_request_that_never_ran_has_a_record_that_cost_nothing():
    rows, used = bill(added(1), finished(1, T0 + S, -1, reason="abort", output=0), stopped_s=2)
    record = used["req-1"]
    assert (record.gpu_ns, record.steps, record.scheduled_ns, record.finish_reasons) == (0, 0, 0, ("abort",))
    assert not [p for p in rows.postings if p.record_id]


def test_a_sequence_whose_arrival_was_lost_is_on_nobodys_bill():
    rows, _ = bill(
        added(1),
        step(0, 0, 2, items=[(1, 10, 0), (77, 10, 0)]),
        finished(1, T0 + 2 * S, 0),
        finished(77, T0 + 2 * S, 0),
        stopped_s=2,
    )
    by_tenant = {r.tenant: r.gpu_ns for r in rows.records}
    assert by_tenant == {"ant": S, "__unobserved__": S}
    assert {p.tenant for p in rows.postings if p.record_id} == {"ant", "__unobserved__"}


def test_a_step_without_anybody_and_a_dummy_batch_are_overhead():
    rows, _ = bill(step(0, 0, 1), Overhead(T0 + S, T0 + 3 * S, "dummy batch"), stopped_s=4)
    assert sums(rows) == {"request": 0, "idle": S, "overhead": 3 * S, "unobserved": 0}
    assert {p.reason for p in rows.postings if p.kind == "overhead"} == {"nobody in the step", "dummy batch"}


def test_a_request_may_bring_another_sequence_while_it_lingers_and_not_later():
    def record_count(second_arrives_s):
        at = T0 + int(second_arrives_s * S)
        rows, _ = bill(
            added(1, key="two"),
            step(0, 0, 1, items=[(1, 10, 0)]),
            finished(1, T0 + S, 0),
            beat(at, 0, done_index=0),
            added(2, key="two", at=at),
            step(1, second_arrives_s, second_arrives_s + 1, items=[(2, 10, 0)]),
            finished(2, at + S, 1),
            stopped_s=5,
        )
        return len(rows.records)

    assert record_count(1.2) == 1
    assert record_count(1.4) == 2


def test_an_engine_that_dies_closes_its_requests_as_interrupted_with_the_output_that_was_computed():
    rows, used = bill(
        added(1, prompt=10),
        added(2, prompt=10),
        added(3, prompt=10),
        step(0, 0, 1, items=[(1, 10, 0), (2, 5, 0)]),
        step(1, 1, 2, enters=[(1, 10)], items=[(2, 5, 5)]),
        step(2, 2, 3),
        beat(T0 + 5 * S, 0, in_flight_ns=T0 + 3 * S, done_index=2),
    )
    # One token with the end of the prompt, one more with each step that decoded.
    assert [used[f"req-{n}"].output_tokens for n in (1, 2, 3)] == [3, 1, 0]
    assert {r.finish_reasons for r in rows.records} == {("interrupted",)}
    assert all(r.wasted_ns == r.gpu_ns for r in rows.records)
    assert [(p.reason, p.gpu_ns) for p in rows.postings if p.kind == "overhead"] == [("interrupted", 2 * S)]


def test_an_interrupted_request_that_was_being_computed_again_keeps_the_output_that_it_had():
    _, used = bill(
        added(1, prompt=10),
        step(0, 0, 1, items=[(1, 10, 0)]),
        step(1, 1, 2, enters=[(1, 10)]),
        step(2, 2, 3, leaves=[1], items=[(1, 4, 0)]),
    )
    assert used["req-1"].output_tokens == 2


def test_rejected_drafts_are_no_output_of_an_interrupted_request():
    _, used = bill(added(1, prompt=10), step(0, 0, 1, items=[(1, 10, 0)]), step(1, 1, 2, items=[(1, 5, 10)]))
    assert used["req-1"].output_tokens == 2


def test_an_engine_that_stops_closes_what_is_open_as_aborted():
    _, used = bill(added(1), step(0, 0, 1, items=[(1, 10, 0)]), stopped_s=2)
    assert used["req-1"].finish_reasons == ("abort",)


def test_after_damage_the_snapshot_is_believed():
    open_now = (added(2, prompt=10), added(3, prompt=10))
    rows, used = bill(
        added(1, prompt=10),
        added(2, prompt=10),
        step(0, 0, 1, items=[(1, 10, 0)]),
        step(1, 1, 2, enters=[(1, 10)], items=[(2, 10, 0)]),
        Lost(0, -1, -1, "journal damaged"),
        Snapshot(20, T0 + 4 * S, 7, open_now, ((2, 14), (3, 10))),
        step(7, 4, 6),
        finished(2, T0 + 6 * S, 7, output=6),
        step(8, 6, 7, leaves=[2]),
        finished(3, T0 + 7 * S, 8, output=2),
        stopped_s=8,
    )
    assert used["req-1"].finish_reasons == ("lost",)
    # In step 1 there are 11 tokens, ten of them are the prompt of the second.
    assert used["req-1"].gpu_ns == pytest.approx(S + S / 11, abs=1)
    assert used["req-2"].gpu_ns == pytest.approx(S * 10 / 11 + S, abs=1)
    assert used["req-3"].gpu_ns == 2 * S
    assert used["req-3"].scheduled_ns > 0
    assert sums(rows) == {"request": 5 * S, "idle": S, "overhead": 0, "unobserved": 2 * S}


def test_a_finished_sequence_in_flight_across_damage_is_closed_when_its_step_is_done():
    rows, used = bill(
        added(1, prompt=10),
        step(0, 0, 1, items=[(1, 10, 0)]),
        step(1, 1, 2, enters=[(1, 10)]),
        finished(1, T0 + 2 * S, 2, output=2),
        Lost(0, -1, -1, "journal damaged"),
        Snapshot(20, T0 + 3 * S, 2, (), ((1, 11),)),
        step(2, 3, 4),
        added(2, prompt=10, at=T0 + 4 * S),
        step(3, 4, 5, leaves=[1], items=[(2, 10, 0)]),
        finished(2, T0 + 5 * S, 3),
        stopped_s=5,
    )
    assert (used["req-1"].gpu_ns, used["req-1"].wasted_ns, used["req-2"].gpu_ns) == (3 * S, S, S)
    assert sums(rows)["unobserved"] == S


def test_the_recorders_loss_is_unobserved_and_the_cohort_goes_on():
    rows, used = bill(
        added(1, prompt=10),
        step(0, 0, 1, items=[(1, 10, 0)]),
        step(1, 1, 2, enters=[(1, 10)]),
        Lost(T0 + 4 * S, 3, 0, "recorder full", T0 + 2 * S, T0 + 4 * S),
        step(5, 4, 5),
        finished(1, T0 + 5 * S, 5, output=6),
        stopped_s=5,
    )
    assert used["req-1"].gpu_ns == 3 * S
    assert sums(rows) == {"request": 3 * S, "idle": 0, "overhead": 0, "unobserved": 2 * S}


def test_a_clock_that_is_set_back_an_hour_moves_windows_and_no_time():
    hour = 3_600 * S
    rows, used = bill(
        added(1, prompt=10),
        step(0, 0, 1, items=[(1, 10, 0)]),
        beat(T0 + 2 * S, 1_800_000_000 * S, done_index=0),
        beat(T0 + 3 * S, 1_800_000_000 * S - hour, done_index=0),
        step(1, 3, 4, enters=[(1, 10)]),
        finished(1, T0 + 4 * S, 1, output=2),
        stopped_s=5,
        window_ns=60 * S,
    )
    assert used["req-1"].gpu_ns == 2 * S
    assert len({m.window_ns for m in rows.meter}) == 2
    assert sum(m.end_ns - m.start_ns for m in rows.meter) == 5 * S
    assert used["req-1"].ended_ns == T0 + 4 * S + 1_800_000_000 * S - hour


@pytest.mark.parametrize("method", ["roofline", "affine", "tokens", "equal"])
def test_the_method_that_set_the_prices_is_on_record_and_posting(method):
    rows, used = bill(
        added(1), step(0, 0, 1, items=[(1, 10, 0)]), finished(1, T0 + S, 0), policy=Policy(method=method), stopped_s=1
    )
    assert used["req-1"].method == method
    assert {p.method for p in rows.postings if p.record_id} == {method}


@pytest.mark.parametrize(("head_fee", "share"), [("request", 1 / 2), ("tenant", 1 / 2), ("sequence", 1 / 3)])
def test_two_tenants_with_one_request_key_each_pay_their_own(head_fee, share):
    rows, _ = bill(
        added(1, key="disagg-7", tenant="victim"),
        added(2, key="disagg-7", tenant="attacker"),
        added(3, key="disagg-7", tenant="attacker"),
        step(0, 0, 1, enters=[(1, 100), (2, 100), (3, 100)]),
        *(finished(slot, T0 + S, 0) for slot in (1, 2, 3)),
        policy=Policy(method="affine", head_fee=head_fee),
        stopped_s=2,
    )
    attacker, victim = sorted(rows.records, key=lambda record: record.tenant)
    assert (attacker.tenant, attacker.sequences, victim.tenant, victim.sequences) == ("attacker", 2, "victim", 1)
    assert attacker.request_key == victim.request_key == "disagg-7"
    assert attacker.record_id != victim.record_id
    assert attacker.gpu_ns + victim.gpu_ns == S
    assert victim.gpu_ns / S == pytest.approx(share, abs=0.01)


REQUEST, PROMPT = COUNTED_REQUEST, COUNTED_PROMPT


def life_of(*events, devices=("GPU-0",), stopped_s=20):
    return [
        header("e", T0),
        started(devices, T0, model="m"),
        EngineReady(T0),
        *events,
        EngineStopped(T0 + stopped_s * S),
    ]


def sequence(slot, prompt_key="p", prompt=84, tokens=9, at_s=0, reason="length", cached=0, **fields):
    """Arrival, one step and end of a sequence of the request with key `k`."""
    arrived = msgspec.structs.replace(added(slot, prompt, "k", at=T0 + at_s * S, **fields), prompt_key=prompt_key)
    end = finished(slot, T0 + (at_s + slot + 1) * S, slot - 1, reason, tokens, cached_tokens=cached)
    return arrived, step(slot - 1, at_s + slot, at_s + slot + 1, items=[(slot, prompt, 0)]), end


def parts_of(**lives):
    """The records of engines that live through these sequences."""
    events = {name: life_of(*sorted_events(sequences)) for name, sequences in lives.items()}
    rows, engines = attribute(events, policy=TOKENS, window_ns=3_600 * S)
    check(rows, engines)
    return rows.records


def sorted_events(sequences):
    return sorted((event for group in sequences for event in group), key=time_of)


def time_of(event):
    return event.done_ns if isinstance(event, Step) else event.at_ns


def counted(records):
    return tuple(map(sum, zip(*(record.counts() for record in records), strict=True)))


def test_n_3_over_two_engines_counts_its_request_and_its_prompt_once():
    first, second = parts_of(
        e=[sequence(1, cached=4), sequence(2, elsewhere=REQUEST | PROMPT, cached=80)],
        f=[sequence(1, elsewhere=REQUEST | PROMPT, cached=80)],
    )
    assert (first.part, first.input_tokens, first.output_tokens) == (1, 84, 18)
    assert (second.part, second.input_tokens, second.output_tokens) == (2, 84, 9), "what the engine did stays"
    assert counted([first, second]) == (1, 84, 4, 27)
    assert (first.counted_input, second.counted_input, second.counted_cached) == (None, 0, 0)


def test_a_list_of_prompts_over_two_engines_counts_each_prompt_and_one_request():
    records = parts_of(e=[sequence(1, "p", 84)], f=[sequence(1, "q", 50, elsewhere=REQUEST)])
    assert counted(records) == (1, 134, 0, 18)
    assert [record.part for record in records] == [1, 2]


def test_what_comes_later_than_the_linger_on_the_same_engine_is_no_request_of_its_own():
    late = (beat(T0 + 5 * S, 0, done_index=0), beat(T0 + 6 * S, 0, done_index=0), beat(T0 + 7 * S, 0, done_index=0))
    records = parts_of(e=[sequence(1), late, sequence(2, at_s=8, elsewhere=REQUEST | PROMPT)])
    assert len(records) == 2
    assert counted(records) == (1, 84, 0, 18)


def test_the_first_sequence_counts_whichever_of_them_an_engine_hears_of_first():
    late_first = [sequence(1, elsewhere=REQUEST | PROMPT), sequence(2)]
    assert [record.part for record in parts_of(e=late_first)] == [1]
    assert counted(parts_of(e=late_first))[0] == 1


@pytest.mark.parametrize(
    ("reason", "tokens", "counts"),
    [
        ("length", 1, (0, 84, 0, 0)),
        ("stop", 1, (1, 84, 0, 1)),
        ("abort", 0, (1, 84, 0, 0)),
        ("length", 7, (1, 84, 0, 7)),
    ],
)
def test_a_prefill_that_is_to_be_continued_leaves_the_request_to_the_answer(reason, tokens, counts):
    """A client that asks a prefill worker for a whole answer is counted: it hands over no more than one token."""
    (record,) = parts_of(e=[sequence(1, reason=reason, tokens=tokens, role="prefill", elsewhere=HANDS_OVER)])
    assert counted([record]) == counts
    assert (record.input_tokens, record.output_tokens) == (84, tokens)


def test_a_later_pipeline_stage_counts_no_request():
    (record,) = parts_of(e=[sequence(1, role="stage")])
    assert counted([record]) == (0, 0, 0, 0)
