"""The double itself: the signatures of the contract, the traps that were read, and a GPU that keeps its rules."""

import inspect
from itertools import takewhile

import pytest
from costtrace_tensorrt_llm.contract.hook_list import HOOKS
from double.columns import executor_class, make_executor
from double.cuda import FakeGpu, Host
from double.executor import CHUNK, LlmRequest, Plan
from double.loops import iterate_plain, run
from double.signatures import COLUMNS, SEEN

STEPS = [hook for hook in HOOKS if hook.tier == "T1" and hook.function]
PLAIN = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("hook", STEPS, ids=lambda hook: hook.name)
def test_the_double_has_the_signatures_of_the_contract(column, hook):
    function = vars(executor_class(column))[hook.function]
    names = [name for name, p in inspect.signature(function).parameters.items() if p.kind in PLAIN]
    assert names[1:] == list(takewhile(lambda name: name != "*", SEEN[hook.name][column].parameters))


def test_attributes_of_the_context_phase_raise_once_it_is_over():
    request = LlmRequest(8, Plan(0, CHUNK + 1, 3), client=1)
    request.schedule_chunk()
    assert (request.context_current_position, request.context_chunk_size) == (0, CHUNK)
    request.move()
    request.schedule_chunk()
    assert (request.context_current_position, request.context_chunk_size) == (CHUNK, 1)
    request.move()
    with pytest.raises(RuntimeError):
        _ = request.context_current_position


def test_the_lists_of_a_batch_are_used_again():
    executor = make_executor("1.0", [Plan(0, 5, 3), Plan(0, 5, 3)])
    executor.fetch()
    first = executor.schedule(executor.active_requests)
    assert len(first.context_requests) == 2
    executor.hand_over(first)
    second = executor.schedule(executor.active_requests)
    assert first.context_requests is second.context_requests
    assert first.context_requests == []


def test_the_newest_batch_has_its_prompts_in_two_lists_and_its_generation_list_is_used_again():
    executor = make_executor("main", [Plan(0, CHUNK + 1, 3), Plan(0, 5, 3)])
    executor.fetch()
    first = executor.schedule(executor.active_requests)
    long, short = executor.active_requests
    assert (first.context_requests_chunking, first.context_requests_last_chunk) == ([long], [short])
    assert first.context_requests == [long, short]
    executor.hand_over(first)
    second = executor.schedule(executor.active_requests)
    assert first.generation_requests is second.generation_requests == [short]


@pytest.mark.parametrize("loop", ["plain", "overlap"])
def test_every_request_is_answered_with_all_of_its_tokens(loop):
    executor = make_executor("main", [Plan(n * 1_000_000, 70, 4 + n) for n in range(6)], loop=loop)
    run(executor)
    assert sorted(executor.responses) == [request.py_request_id for request in executor.seen]
    assert all(request.generated == request.plan.output for request in executor.seen)


def test_under_overlap_a_request_is_in_one_batch_more_than_it_needs():
    counts = {}
    for loop in ("plain", "overlap"):
        executor = make_executor("main", [Plan(0, 5, 6)], loop=loop)
        run(executor)
        counts[loop] = len(executor.batches)
    assert counts == {"plain": 6, "overlap": 7}


def test_a_failing_forward_pass_ends_the_requests_in_it_and_the_loop_goes_on():
    executor = make_executor("main", [Plan(0, 5, 9), Plan(10**12, 5, 2)], fail_at=2)
    run(executor)
    assert [request.generated for request in executor.seen] == [2, 2]


def test_an_iteration_without_requests_hands_nothing_over():
    executor = make_executor("1.0", [])
    iterate_plain(executor)
    assert executor.batches == []


def test_an_event_happens_when_the_stream_gets_there_and_not_before():
    gpu = FakeGpu(Host(1_000))
    start, end = gpu.event(), gpu.event()
    start.record()
    gpu.launch(500)
    end.record()
    assert (start.query(), end.query()) == (True, False)
    with pytest.raises(RuntimeError):
        start.elapsed_time(end)
    gpu.host.spend(500)
    assert end.query()
    assert start.elapsed_time(end) == 0.0005
