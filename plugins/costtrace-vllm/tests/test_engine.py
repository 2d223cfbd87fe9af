"""The recorded subclass of a scheduler."""

from types import SimpleNamespace

from costtrace_vllm.engine_side.engine import recorded_class

from costtrace.core.events import SequenceAdded
from costtrace.journal.reader import JournalReader

CONFIG = SimpleNamespace(
    model_config=SimpleNamespace(served_model_name="m", hf_config=SimpleNamespace(num_hidden_layers=2, hidden_size=8)),
    parallel_config=SimpleNamespace(data_parallel_rank=0),
)


class Scheduler:
    """Some class of scheduler."""


def test_the_recorded_class_has_the_name_of_its_base_and_is_made_once():
    recorded = recorded_class(Scheduler)
    assert recorded is recorded_class(Scheduler)
    assert recorded is recorded_class(recorded)
    assert (recorded.__module__, recorded.__qualname__) == (Scheduler.__module__, Scheduler.__qualname__)
    assert issubclass(recorded, Scheduler)


def test_a_request_that_came_without_a_context_is_paid_by_the_tenant_of_the_setting(configure, tmp_path):
    class Live:
        def __init__(self, vllm_config):
            self.requests = {}

        def schedule(self, throttle_prefills):
            return SimpleNamespace()

        def update_from_output(self, scheduler_output, model_runner_output):
            return "outputs"

        def add_request(self, request):
            self.requests[request.request_id] = request

    configure(COSTTRACE_TENANT_DEFAULT="shared", COSTTRACE_AGENT="off")
    scheduler = recorded_class(Live)(vllm_config=CONFIG)
    scheduler.add_request(
        SimpleNamespace(
            request_id="cmpl-x-0-0123abcd",
            trace_headers=None,
            num_prompt_tokens=4,
            lora_request=None,
            pooling_params=None,
        )
    )
    scheduler._costtrace.stop()
    (journal,) = (tmp_path / "journal").iterdir()
    (added,) = [event for event in JournalReader(journal).read().events if isinstance(event, SequenceAdded)]
    assert (added.tenant, added.tenant_source) == ("shared", "default:no-context")
