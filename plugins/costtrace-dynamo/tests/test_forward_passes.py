"""Forward passes, split over requests by estimate: nothing is lost."""

from costtrace_dynamo.passes.forward_passes import ForwardPass, ServedRequest, add_up, allocate
from hypothesis import given
from hypothesis import strategies as st
from otlp_receiver import MS, WALL

WORKER = "15671851427547792706"


def a_pass(counter=1, end_ms=100, wall_ms=10, *, worker=WORKER, prefills=0, tokens=0, decodes=0):
    return ForwardPass(worker, 0, counter, WALL + end_ms * MS, wall_ms * MS, prefills, tokens, decodes)


def served(name="r", at_ms=0, first_ms=50, end_ms=200, *, prompt=20, cached=0, prefill=WORKER, decode=WORKER):
    first = None if first_ms is None else WALL + first_ms * MS
    return ServedRequest(name, WALL + at_ms * MS, first, WALL + end_ms * MS, prompt, cached, 8, prefill, decode)


def times(allocation):
    return {each.served.request_id: (each.prefill_ns, each.decode_ns) for each in allocation.estimates}


def test_a_pass_is_split_by_the_tokens_that_each_request_computed_in_it():
    requests = [served("long", prompt=90, cached=10), served("short", prompt=20), served("answers", -90, -50)]
    allocation = allocate([a_pass(end_ms=20, wall_ms=11, prefills=2, tokens=100, decodes=10)], requests)
    assert times(allocation) == {"long": (8 * MS, 0), "short": (2 * MS, 0), "answers": (0, 1 * MS)}
    assert allocation.unassigned_ns == 0


def test_a_request_is_only_in_the_passes_of_its_own_workers_and_its_own_time():
    requests = [served("one", prefill="p", decode="d"), served("two", 300, 350, 400, prefill="p", decode="d")]
    passes = [
        a_pass(1, 40, 30, worker="p", prefills=1, tokens=20),
        a_pass(1, 100, 20, worker="d", decodes=1),
        a_pass(2, 340, 7, worker="p", prefills=1, tokens=20),
    ]
    allocation = allocate(passes, requests)
    assert times(allocation) == {"one": (30 * MS, 20 * MS), "two": (7 * MS, 0)}


def test_a_pass_just_outside_of_a_requests_time_is_still_its_own_and_a_far_one_is_unassigned():
    late, far = a_pass(1, 240, 10, decodes=1), a_pass(2, 900, 5, decodes=1)
    allocation = allocate([late, far], [served()])
    assert times(allocation) == {"r": (0, 10 * MS)}
    assert allocation.unassigned_ns == 5 * MS
    assert allocation.workers[0].unassigned_ns == 5 * MS


def test_a_record_without_workers_and_first_token_can_be_of_any_pass_in_its_time():
    allocation = allocate(
        [a_pass(decodes=1), a_pass(2, 150, prefills=1)], [served(first_ms=None, prefill="", decode="")]
    )
    assert times(allocation) == {"r": (10 * MS, 10 * MS)}


def test_a_pass_or_record_that_comes_twice_counts_once():
    allocation = allocate([a_pass(decodes=1)] * 2, [served()] * 2)
    assert times(allocation) == {"r": (0, 10 * MS)}
    assert allocation.workers[0].passes == 1


def test_a_missing_number_is_a_lost_pass_and_a_heartbeat_is_no_pass():
    worker = add_up([a_pass(1), a_pass(2, wall_ms=0), a_pass(5)])[WORKER]
    assert (worker.passes, worker.lost, worker.busy_ns) == (2, 2, 20 * MS)


PASSES = st.builds(
    a_pass,
    st.integers(1, 9),
    st.integers(0, 900),
    st.integers(0, 60),
    worker=st.sampled_from(["p", "d"]),
    prefills=st.integers(0, 3),
    tokens=st.integers(0, 999),
    decodes=st.integers(0, 5),
)


REQUESTS = st.builds(
    served,
    st.sampled_from("abcdef"),
    st.integers(0, 500),
    st.one_of(st.none(), st.integers(500, 600)),
    st.integers(600, 900),
    prompt=st.integers(0, 99),
    cached=st.integers(0, 99),
    prefill=st.sampled_from(["p", "d", ""]),
    decode=st.sampled_from(["p", "d", ""]),
)


@given(st.lists(PASSES, max_size=12), st.lists(REQUESTS, max_size=8))
def test_requests_and_what_is_unassigned_add_up_to_the_passes(passes, requests):
    allocation = allocate(passes, requests)
    distinct = {(each.worker, each.rank, each.counter): each.wall_ns for each in passes}
    assert sum(each.gpu_ns for each in allocation.estimates) + allocation.unassigned_ns == sum(distinct.values())
    assert sum(worker.busy_ns for worker in allocation.workers) == sum(distinct.values())
