"""The vLLM translator: from batches to the journal's steps, and back again without a difference."""

import json
import random
from pathlib import Path

import msgspec
import pytest
from costtrace_vllm.engine_side.sequences import ADDED, DELIVERED, OVERHEAD
from costtrace_vllm.engine_side.translate import Translator
from costtrace_vllm.request_context import RequestContext, encode
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_batches import Reader, Request, World, added, batch, chunks, freed, step, truth

from costtrace.attribution.steps.step_work import Membership
from costtrace.capture.prefix_numbers import PrefixNumbers
from costtrace.capture.recorder import NOTE
from costtrace.core.events import Delivered, Lost, Overhead, PrefixPath, SequenceAdded, SequenceFinished, Step


def steps(events):
    return [event for event in events if isinstance(event, Step)]


def test_a_request_is_prefilled_as_an_item_then_decodes_in_the_cohort():
    records = [
        added("a", 5),
        step(0, batch(new=[("a", 5, 0, 5)])),
        step(1, batch([("a", 1, 5)])),
        step(2, batch([("a", 1, 6)])),
    ]
    first, second, third = steps(Translator("m").translate(records))
    assert (first.items, first.enters) == (((1, 5, 0),), ())
    assert (second.items, second.enters) == ((), ((1, 5),))
    assert (third.items, third.enters, third.leaves) == ((), (), ())


def test_a_steady_step_says_nothing_but_its_times():
    translator = Translator("m")
    translator.translate([added("a", 1), step(0, batch(new=[("a", 1, 0, 1)])), step(1, batch([("a", 1, 1)]))])
    assert translator.translate([step(2, batch([("a", 1, 2)]))]) == [Step(2, 2_000, 2_900)]


def test_a_prefill_chunk_of_one_token_is_no_decode():
    records = [added("a", 3), *(step(i, batch([("a", 1, i)])) for i in (1, 2, 3))]
    events = steps(Translator("m").translate([records[0], step(0, batch(new=[("a", 1, 0, 3)])), *records[1:]]))
    assert [event.items for event in events] == [((1, 1, 0),), ((1, 1, 1),), ((1, 1, 2),), ()]
    assert events[3].enters == ((1, 3),)


def test_an_ended_sequence_leaves_with_the_first_step_that_it_is_not_in():
    two = [added("a", 1), added("b", 1), step(0, batch(new=[("a", 1, 0, 1), ("b", 1, 0, 1)]))]
    records = [
        *two,
        step(1, batch([("a", 1, 1), ("b", 1, 1)])),
        freed("a", 2),
        step(2, batch([("a", 1, 2), ("b", 1, 2)])),  # asynchronous: dispatched before it ended
        step(3, batch([("b", 1, 3)])),
    ]
    events = steps(Translator("m").translate(records))
    assert [event.leaves for event in events] == [(), (), (), (1,)]


def test_a_step_without_tokens_is_left_out_and_changes_nobody():
    records = [
        added("a", 1),
        step(0, batch(new=[("a", 1, 0, 1)])),
        step(1, batch([("a", 1, 1)])),
        step(2, batch()),
        step(3, batch([("a", 1, 2)])),
    ]
    events = steps(Translator("m").translate(records))
    assert [event.index for event in events] == [0, 1, 3]
    assert events[-1] == Step(3, 3_000, 3_900)


def test_a_sequence_whose_arrival_was_dropped_is_nobodys():
    events = Translator("m").translate([step(0, batch(new=[("cmpl-x-0-0123abcd", 4, 0, 4)]))])
    added = events[0]
    assert isinstance(added, SequenceAdded)
    assert (added.tenant, added.tenant_source, added.prompt_tokens) == ("", "unobserved", 4)
    assert steps(events)[0].items == ((added.slot, 4, 0),)


@pytest.mark.parametrize("name", ["dynamo:uuid-1", "disagg-7", "~dynamo:uuid-1"])
def test_an_id_that_looks_like_one_of_ours_joins_nothing(name):
    batches = [step(0, batch(new=[(f"{name}-0123abcd", 4, 0, 4)]))]
    without_note, *_ = Translator("m").translate(batches)
    without_context, *_ = Translator("m").translate([added(f"{name}-0123abcd", 4), *batches])
    for one in (without_note, without_context):
        assert (one.request_key, one.request_id) == (f"~{name}", name)


def longest(event):
    return max(len(getattr(event, name)) for name in event.__struct_fields__ if isinstance(getattr(event, name), str))


def test_what_an_engine_is_given_without_a_context_is_cut_and_its_steps_still_find_it():
    names = [f"{letter * 3_000_000}-0123abcd" for letter in "ab"]
    translator = Translator("m")
    first, second, one = translator.translate(
        [added(names[0], 4), added(names[1], 4), step(0, batch(new=[(name, 4, 0, 4) for name in names]))]
    )
    unobserved, _ = Translator("m").translate([step(0, batch(new=[(names[0], 4, 0, 4)]))])
    assert [longest(event) for event in (first, second, unobserved)] == [273] * 3
    assert first.request_key != second.request_key
    assert one.items == ((first.slot, 4, 0), (second.slot, 4, 0))


def test_ended_ids_are_kept_short_and_a_late_note_finds_them():
    translator, name = Translator("m"), "a" * 3_000_000
    translator.translate([added(name, 1), step(0, batch(new=[(name, 1, 0, 1)])), freed(name, 0)])
    translator.translate([added("b", 1), step(1, batch(new=[("b", 1, 0, 1)]))])
    assert [len(kept) for kept in translator._sequences._closed] == [273]
    assert translator.translate([(NOTE, 9, DELIVERED, name, 2, "stop")]) == [Delivered(1, 9, "stop", 2)]


def test_the_context_of_another_front_end_is_cut_as_well():
    long = "x" * 30_000
    header = encode(RequestContext("k", long, long, "chat", "acme", "header", long, labels={"a": long}))
    (one,) = Translator("m").translate([(NOTE, 1, ADDED, "a-0123abcd", header, 4, long, False, ())])
    assert (one.tenant, longest(one), len(one.labels["a"])) == ("acme", 273, 273)


def test_an_end_whose_note_was_dropped_is_taken_from_the_next_batch():
    records = [added("a", 3), step(0, batch(new=[("a", 3, 0, 3)])), step(1, batch([("a", 1, 3)]))]
    events = Translator("m").translate([*records, step(2, batch(finished=["a"]))])
    assert events[-1] == SequenceFinished(1, 2_000, 1, "unobserved", 2)


def test_contexts_are_put_right_after_dropped_steps():
    translator, reader = Translator("m"), Reader()
    start = [added("a", 1), added("b", 1), step(0, batch(new=[("a", 1, 0, 1), ("b", 1, 0, 1)]))]
    reader.feed(translator.translate([*start, step(1, batch([("a", 1, 1), ("b", 1, 1)]))]))
    late = batch([("a", 1, 9), ("b", 1, 9)])
    reader.feed(translator.translate([step(9, late)]))
    assert reader.steps[9] == truth(late)


def test_what_was_delivered_is_said_once_even_after_the_end():
    translator = Translator("m")
    note = (NOTE, 7, DELIVERED, "a", 3, "stop")
    before = translator.translate([added("a", 1), step(0, batch(new=[("a", 1, 0, 1)])), note, note, freed("a", 0)])
    assert [event for event in before if isinstance(event, Delivered)] == [Delivered(1, 7, "stop", 3)]
    events = translator.translate([added("b", 1), freed("b", 0), step(1, batch()), step(2, batch())])
    assert not any(isinstance(event, Delivered) for event in events)
    late = (NOTE, 9, DELIVERED, "b", 2, "stop")
    assert translator.translate([late, late]) == [Delivered(2, 9, "stop", 2)]


def test_what_was_delivered_to_a_stranger_is_ignored():
    assert Translator("m").translate([(NOTE, 7, DELIVERED, "of another engine", 3, "stop")]) == []


def test_a_dummy_batch_is_overhead():
    assert Translator("m").translate([(NOTE, 7, OVERHEAD, 3, 6, "dummy batch")]) == [Overhead(3, 6, "dummy batch")]


def test_an_id_that_comes_back_is_another_sequence():
    translator, reader = Translator("m"), Reader()
    life = [added("a", 1), step(0, batch(new=[("a", 1, 0, 1)])), step(1, batch([("a", 1, 1)])), freed("a", 1)]
    again = [added("a", 2), step(2, batch(new=[("a", 2, 0, 2)])), step(3, batch([("a", 1, 2)]))]
    reader.feed(translator.translate([*life, *again]))
    assert reader.names == {1: "a", 2: "a"}
    assert [reader.steps[i] for i in (1, 2, 3)] == [{"a": (1, 1)}, {"a": (2, 0)}, {"a": (1, 2)}]


def test_encoder_work_is_said_with_its_tokens():
    feature = type("Feature", (), {"mm_position": type("Range", (), {"length": 7})()})()
    so = batch(new=[("a", 9, 0, 9)], encoder={"a": [0]})
    so.scheduled_new_reqs[0].mm_features = [feature, feature]
    (event,) = steps(Translator("m").translate([added("a", 9), step(0, so)]))
    assert event.encoder == ((1, 7),)


def test_who_found_whose_blocks_is_said_before_the_first_step_by_number_and_never_by_hash():
    blocks = [b"h0", b"h1", b"h2 of generated tokens"]
    records = [
        added("a", 40, blocks),
        added("b", 40, blocks),
        step(0, batch(new=[("a", 40, 0, 40)])),
        step(1, batch([("a", 1, 40)], new=[("b", 8, 32, 40)])),
        step(2, batch([("a", 1, 41)], new=[("b", 4, 36, 40)])),  # it comes with its prompt again: not its first step
    ]
    events = Translator("m", prefixes=PrefixNumbers(16)).translate(records)
    assert [type(event) for event in events[2:6]] == [PrefixPath, Step, PrefixPath, Step]
    assert [event for event in events if isinstance(event, PrefixPath)] == [
        PrefixPath(1, 0, 16, (), 1, 2),
        PrefixPath(2, 1_000, 16, ((1, 2),), 0, 0),
    ]
    assert all(b"h0" not in msgspec.msgpack.encode(event) for event in events)


def test_who_found_whose_blocks_is_not_said_unless_it_is_asked_for():
    records = [added("a", 40, [b"h0", b"h1"]), step(0, batch(new=[("a", 40, 0, 40)]))]
    assert not any(isinstance(event, PrefixPath) for event in Translator("m").translate(records))


@pytest.mark.swallows
def test_an_unreadable_batch_is_lost_and_the_next_one_is_right():
    translator, reader = Translator("m"), Reader()
    start = [added("a", 1), step(0, batch(new=[("a", 1, 0, 1)])), step(1, batch([("a", 1, 1)]))]
    reader.feed(translator.translate(start))
    broken = batch([("a", 1, 2), ("b", 1, 2)])
    broken.num_scheduled_tokens = {"a": 1}
    lost = translator.translate([step(2, broken)])[-1]
    assert isinstance(lost, Lost)
    assert (lost.steps, lost.from_ns, lost.to_ns) == (1, 2_000, 2_900)
    good = batch([("a", 1, 3)])
    reader.feed(translator.translate([step(3, good)]))
    assert reader.steps[3] == truth(good)


def test_a_snapshot_holds_what_is_open_and_where_the_cohort_will_be():
    translator = Translator("m")
    both = batch(new=[("a", 1, 0, 1), ("b", 1, 0, 1)])
    translator.translate([added("a", 1), added("b", 1), added("c", 8), step(0, both)])
    translator.translate([step(1, batch([("a", 1, 1), ("b", 1, 1)], [("c", 4, 0, 8)])), freed("b", 1)])
    snapshot = translator.snapshot(42, 99)
    assert (snapshot.sequence, snapshot.at_ns, snapshot.next_index) == (42, 99, 2)
    assert [event.sequence_id for event in snapshot.open] == ["a", "c"]
    assert snapshot.cohort == ((1, 2),)


def check(world: World, choose) -> None:
    translator, reader, membership = Translator("m"), Reader(), Membership()
    for piece in chunks(world.records, choose):
        for event in translator.translate(piece):
            reader.feed([event])
            if isinstance(event, SequenceAdded):
                membership.added(event)
            elif isinstance(event, SequenceFinished):
                membership.finished(event)
            elif isinstance(event, Step):
                work, seen = membership.take(event), reader.steps[event.index]
                assert work.sequences == len(seen)
                assert work.cohort_context == sum(context - 1 for context in reader.cohort.values())
    assert reader.steps == world.truth


def test_what_has_ended_is_forgotten():
    translator = Translator("m")
    for turn in range(0, 60, 3):
        name = f"r{turn}"
        life = [added(name, 2), step(turn, batch(new=[(name, 2, 0, 2)])), step(turn + 1, batch([(name, 1, 2)]))]
        translator.translate([*life, freed(name, turn + 1), step(turn + 2, batch(new=[(f"other{turn}", 1, 0, 1)]))])
        translator.translate([freed(f"other{turn}", turn + 2)])
    assert len(translator._sequences.known) <= 1
    assert translator.snapshot(0, 0).open == ()


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.booleans(), st.booleans(), st.booleans())
def test_reading_the_steps_back_gives_exactly_who_was_in_each_of_them(seed, asynchronous, drafts, v2):
    choose = random.Random(seed).randrange
    world = World(choose, asynchronous=asynchronous, drafts=drafts, v2=v2)
    for _ in range(60):
        world.turn()
    world.finish()
    check(world, choose)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.booleans())
def test_it_stays_exact_when_records_are_dropped(seed, asynchronous):
    choose = random.Random(seed).randrange
    world = World(choose, asynchronous=asynchronous)
    for _ in range(60):
        world.turn()
    world.finish()
    kept = [record for record in world.records if choose(10)]
    world.truth = {record[1]: world.truth[record[1]] for record in kept if record[0] == 0 and record[1] in world.truth}
    world.records = kept
    check(world, choose)


def test_microbatches_that_take_turns_are_told_apart():
    translator, reader = Translator("m"), Reader()
    names = [Request(f"r{i}", 4, 8) for i in range(4)]
    records = [added(request.name, 4) for request in names]
    expected = {}
    for index in range(12):
        half = names[:2] if index % 2 == 0 else names[2:]
        turn = index // 2
        if turn == 0:
            so = batch(new=[(request.name, 4, 0, 4) for request in half])
        else:
            so = batch([(request.name, 1, 3 + turn) for request in half])
        records.append(step(index, so))
        expected[index] = truth(so)
    reader.feed(translator.translate(records))
    assert reader.steps == expected


RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("vllm-*.json"))


def load(path):
    """A recording as the records that the recorder held, and who was in each of its steps."""
    records, expected = [], {}
    for kind, *rest in json.loads(path.read_text()):
        if kind == "note":
            records.append((NOTE, 1, *rest))
        else:
            index, cached, new, finished = rest
            so = batch(cached, new, finished=finished)
            records.append(step(index, so))
            if so.num_scheduled_tokens:
                expected[index] = truth(so)
    return records, expected


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recordings_of_vllms_own_scheduler_read_back_exactly(path):
    records, expected = load(path)
    translator, reader = Translator("m"), Reader()
    for piece in chunks(records, random.Random(1).randrange):
        reader.feed(translator.translate(piece))
    assert reader.steps == expected
    assert reader.finished.keys() == set(reader.names.values())
    for slot, name in reader.names.items():
        ended, shares = reader.finished[name], [seen[name] for seen in reader.steps.values() if name in seen]
        if ended.slot == slot and ended.reason != "abort" and not ended.preemptions and "drafts" not in path.stem:
            prompt = next(record[5] for record in records if record[2:4] == ("added", name))
            needed = prompt - ended.cached_tokens + ended.output_tokens - 1
            assert 0 <= sum(tokens for tokens, _ in shares) - needed <= ("asynchronous" in path.stem)


def test_the_recordings_hold_what_is_hard():
    assert {path.stem.split("-")[1] for path in RECORDINGS} == {"0.28.0", "0.32.0"}
    for path in RECORDINGS:
        records, _ = load(path)
        preemptions = sum(record[-1] for record in records if record[2] == "freed")
        assert (preemptions > 0) == ("preempted" in path.stem), path.stem
