"""The closures around a scheduler: what they record, and that the scheduler goes on as without them."""

from types import SimpleNamespace

import pytest
from costtrace_vllm.engine_side import scheduler_hooks
from costtrace_vllm.process import process
from costtrace_vllm.request_context import HEADER

from costtrace.capture.recorder import NOTE, STEP, Recorder
from costtrace.core import guard


class Scheduler:
    """As much of a scheduler as the closures touch."""

    def __init__(self):
        self.requests, self.calls = {}, []

    def schedule(self, throttle_prefills):
        return SimpleNamespace(throttled=throttle_prefills)

    def update_from_output(self, scheduler_output, model_runner_output):
        self.calls.append((scheduler_output, model_runner_output))
        self._free_request(SimpleNamespace(**FREED))
        return "outputs"

    def add_request(self, request):
        self.requests[request.request_id] = request

    def _free_request(self, request):
        return "freed"

    def finish_requests(self, request_ids, finished_status):
        self.calls.append(request_ids)
        return request_ids


FREED = {"request_id": "a", "get_finished_reason": lambda: "stop", "num_output_tokens": 4, "num_preemptions": 1}


def make(cls=Scheduler):
    scheduler, recorder = cls(), Recorder()
    scheduler_hooks.record_scheduler(scheduler, recorder)
    return scheduler, recorder


def test_a_step_is_recorded_when_it_is_dispatched_and_before_its_results_are_taken():
    scheduler, recorder = make()
    batch = scheduler.schedule(True)
    assert batch.throttled
    assert recorder.index == 0
    assert scheduler.update_from_output(batch, "mro") == "outputs"
    first, second = recorder.drain()
    assert first[0] == STEP
    assert first[4] is batch
    assert second[2:] == ("freed", "a", 0, "stop", 4, 1)
    assert recorder.wake.is_set(), "ends are written at once"


def test_the_context_is_taken_out_of_the_request_before_vllm_can_echo_it():
    scheduler, recorder = make()
    request = SimpleNamespace(
        request_id="a",
        trace_headers={HEADER: "text", "traceparent": "00-1"},
        num_prompt_tokens=7,
        lora_request=SimpleNamespace(lora_name="tuned"),
        pooling_params=None,
    )
    scheduler.add_request(request)
    assert request.trace_headers == {"traceparent": "00-1"}
    assert recorder.drain()[0][2:] == ("added", "a", "text", 7, "tuned", False, ())
    request.trace_headers = {HEADER: "text"}
    scheduler.add_request(request)  # more input of a session
    assert request.trace_headers is None
    assert recorder.drain() == []


def test_the_hashes_of_a_requests_blocks_are_recorded_only_where_that_is_switched_on():
    request = SimpleNamespace(
        request_id="a",
        trace_headers=None,
        num_prompt_tokens=7,
        lora_request=None,
        pooling_params=None,
        block_hashes=[b"hash"],
    )
    for prefixes, recorded in ((False, ()), (True, [b"hash"])):
        scheduler, recorder = Scheduler(), Recorder()
        scheduler_hooks.record_scheduler(scheduler, recorder, prefixes=prefixes)
        scheduler.add_request(request)
        assert recorder.drain()[0][-1] == recorded


def test_notes_of_delivered_tokens_are_taken_out_of_an_abort():
    scheduler, recorder = make()
    assert scheduler.finish_requests(["a", 3, "a", "b"], "aborted") == ["a", "b"]
    assert [record[2:] for record in recorder.drain()] == [("delivered", "a", 3, "stop")]
    assert scheduler.finish_requests("a", "aborted") == "a"
    assert scheduler.finish_requests(None, "aborted") is None


@pytest.mark.parametrize("name", ["costtrace:stop:1:zz", "costtrace:stop:x:y", "costtrace:stop:-5:a", "3"])
def test_no_text_of_a_client_is_taken_out_of_an_abort(name):
    scheduler, recorder = make()
    assert scheduler.finish_requests([name, "a"], "aborted") == [name, "a"]
    assert scheduler.finish_requests([name, 3, name], "aborted") == [name]
    assert [record[2:] for record in recorder.drain()] == [("delivered", name, 3, "stop")]


@pytest.mark.swallows
def test_an_error_in_a_hook_never_reaches_the_scheduler():
    scheduler, recorder = make()
    assert scheduler.update_from_output("a batch that was never dispatched", "mro") == "outputs"
    scheduler.add_request(SimpleNamespace(request_id="a"))
    assert scheduler._free_request(object()) == "freed"
    assert scheduler.finish_requests(["a", 3], "aborted") == ["a", 3]
    # A batch that was never dispatched is not an error: the recorder ignores it.
    assert len(guard.failures) == 3
    assert [record for record in recorder.drain() if record[0] != NOTE] == []


def test_a_scheduler_without_one_method_is_recorded_through_the_others():
    class Other(Scheduler):
        _free_request = None

    scheduler, recorder = make(Other)
    scheduler.add_request(SimpleNamespace(request_id="a", trace_headers=None, num_prompt_tokens=1, lora_request=None,
                                          pooling_params=None))  # fmt: skip
    assert len(recorder.drain()) == 1
    assert list(process.status.lost) == ["scheduler._free_request"]


def test_a_scheduler_whose_steps_cannot_be_seen_is_left_alone():
    class Other(Scheduler):
        def update_from_output(self, outputs):
            return outputs

    scheduler, _ = make(Other)
    assert "schedule" not in vars(scheduler)
