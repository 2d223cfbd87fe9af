"""The hooks on live objects: a journal of a whole life, tiers that fall back, who asks, and engines that go on."""

import asyncio
import pickle
import sys
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from costtrace_tensorrt_llm import hooks, report, request_context
from costtrace_tensorrt_llm.contract.hooks_by_version import HOOKS
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.rank_side import batches, engine, executor
from costtrace_tensorrt_llm.rank_side.stats import StatsMeter
from costtrace_tensorrt_llm.rank_side.translate import Translator
from costtrace_tensorrt_llm.server_side import contexts, requests
from costtrace_tensorrt_llm.server_side.contexts import Contexts
from double.columns import executor_class
from double.cuda import FakeGpu, Host
from double.executor import Plan, RequestQueueItem
from double.loops import run
from double.timing import BatchState

from costtrace.agent.loop import Agent
from costtrace.capture.recorder import NOTE, Recorder
from costtrace.cli.app import cli
from costtrace.config.settings import Settings
from costtrace.core import guard
from costtrace.core.events import (
    EngineReady,
    EngineStarted,
    EngineStopped,
    Overhead,
    SequenceAdded,
    SequenceFinished,
    Step,
)
from costtrace.journal.reader import JournalReader


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    for name in ("COSTTRACE_HOME", "COSTTRACE_AGENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRTLLM_COSTTRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRTLLM_COSTTRACE_AGENT", "off")
    monkeypatch.setattr(process.status, "lost", {})
    monkeypatch.setattr(process.status, "installed", [])
    monkeypatch.setattr(engine, "_last_end", (0, 0))
    process.forget()
    guard.failures.clear()
    yield
    process.forget()


class RealClock(Host):
    """The host's clock is the machine's: what the hooks read."""

    def __init__(self):
        self._behind_ns = 0

    @property
    def now_ns(self):
        return time.monotonic_ns()

    @now_ns.setter
    def now_ns(self, value):
        while time.monotonic_ns() < value:
            time.sleep(0.0005)


@pytest.fixture
def cuda(monkeypatch):
    """As much of torch as is asked on a rank, over a fake GPU that keeps real time."""
    gpu = FakeGpu(RealClock())
    fake = SimpleNamespace(
        Event=lambda enable_timing: gpu.event(),
        current_device=lambda: 0,
        device_count=lambda: 2,
        get_device_properties=lambda index: SimpleNamespace(name="Fake GPU", uuid=f"f{index}"),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=fake))
    return gpu


def laid(column="main"):
    cls = executor_class(column)
    module = SimpleNamespace(PyExecutor=cls, BatchState=BatchState)
    hooks.lay([hook for hook in HOOKS if hook.module.endswith("py_executor")], module)
    process.status.installed.append("request")
    return cls


def plans(count=4, output=6):
    return [Plan(time.monotonic_ns(), 40, output) for _ in range(count)]


def journals(home):
    return [JournalReader(path).read().events for path in sorted((home / "journal").iterdir())]


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


# -- a life --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["1.0", "main"])
@pytest.mark.parametrize("loop", ["plain", "overlap"])
def test_a_whole_life_is_in_the_journal(cuda, tmp_path, column, loop):
    served = laid(column)(cuda, plans(), loop=loop)
    served.start_worker()
    run(served)
    served.shutdown()
    (events,) = journals(tmp_path / "home")
    (started,) = of(events, EngineStarted)
    assert (started.engine, started.devices[0].uuid, started.lost_hooks) == ("tensorrt-llm", "GPU-f0", ())
    assert started.settings["metering"] == "trtllm.steps.cuda-events"
    assert len(of(events, SequenceAdded)) == len(of(events, SequenceFinished)) == 4
    assert len(of(events, Step)) == len(served.batches)
    assert of(events, EngineStopped)[0].reason == "shutdown"
    assert guard.failures == {}


def test_the_executor_that_measures_memory_has_a_journal_of_its_own_and_the_next_one_starts_up_after_it(cuda, tmp_path):
    cls = laid()
    for _ in range(2):
        served = cls(cuda, plans(1))
        served.start_worker()
        run(served)
        served.shutdown()
    first, second = journals(tmp_path / "home")
    (stopped,), (started,), (ready,) = of(first, EngineStopped), of(second, EngineStarted), of(second, EngineReady)
    assert stopped.at_ns <= started.started_ns < ready.at_ns


def test_a_batch_of_nobody_is_overhead_by_its_name(cuda, tmp_path):
    served = laid()(cuda, [])
    served.start_worker()
    for warm_up in (True, False):
        served.is_warmup = warm_up
        batch = served.pad()
        served._sample_async(batch, served._forward_step(batch))
        cuda.wait()
        served._handle_responses()
    served.shutdown()
    (events,) = journals(tmp_path / "home")
    assert [event.reason for event in of(events, Overhead)] == ["warm-up", "dummy batch"]


def test_only_the_first_of_the_ranks_that_run_the_same_batches_meters_and_for_all_of_them(cuda, tmp_path):
    cls = laid()
    for rank in (0, 1):
        served = cls(cuda, plans(1))
        served.dist = SimpleNamespace(rank=rank, pp_size=1, pp_rank=0, tp_size=2, world_size=2)
        served.device_id = rank
        served.start_worker()
        run(served)
        served.shutdown()
    (events,) = journals(tmp_path / "home")
    assert [device.uuid for device in of(events, EngineStarted)[0].devices] == ["GPU-f0", "GPU-f1"]


@pytest.mark.swallows
def test_a_device_that_fails_costs_unobserved_time_and_not_the_engine(cuda, tmp_path, monkeypatch):
    served = laid()(cuda, plans(2))
    served.start_worker()

    def query(self):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr("double.cuda.FakeEvent.query", query)
    run(served)
    served.shutdown()
    (events,) = journals(tmp_path / "home")
    assert served.responses
    assert of(events, Step) == []
    assert {event.reason for event in events if hasattr(event, "steps")} == {"its end could not be timed"}
    assert guard.failures["trtllm.events"] == len(served.batches)


# -- tiers ---------------------------------------------------------------------------------------------------------


def test_a_missing_attribute_falls_back_to_statistics_and_says_which(cuda, tmp_path, caplog):
    served = laid()(cuda, [])
    served.start_worker()
    served.forward = lambda scheduled: "outputs"
    assert served._forward_step(SimpleNamespace(context_requests=[])) == "outputs", "serving goes on"
    assert "`batch` does not fit" in caplog.text
    assert "generation_requests" in caplog.text
    assert "lost: T1; T2 is used from here on" in caplog.text
    recorder = executor.engine_of(served)
    assert (recorder.tier, recorder.steps) == ("T2", None)
    served.shutdown()
    before, after = sorted(journals(tmp_path / "home"), key=lambda events: of(events, EngineStarted)[0].started_ns)
    assert of(before, EngineStopped)[0].reason == "another tier goes on"
    assert metering(before) == "trtllm.steps.cuda-events"
    assert metering(after) == "trtllm.iteration-stats"
    assert of(after, EngineStarted)[0].lost_hooks[0].startswith("batch: ")
    assert of(before, EngineStopped)[0].at_ns <= of(after, EngineStarted)[0].started_ns


def metering(events):
    (started,) = of(events, EngineStarted)
    return started.settings["metering"]


@pytest.fixture
def tier(monkeypatch):
    """Ask for a tier."""

    def ask(name):
        monkeypatch.setenv("TRTLLM_COSTTRACE_TRTLLM_TIER", name)
        process.forget()

    return ask


@pytest.mark.parametrize("loop", ["plain", "overlap"])
def test_a_whole_life_by_upstreams_events_is_in_the_journal_and_the_books_balance(cuda, tmp_path, tier, loop):
    tier("T1-native")
    served = laid()(cuda, plans(), loop=loop, stats=True)
    served.start_worker()
    run(served)
    served.shutdown()
    (events,) = journals(tmp_path / "home")
    assert metering(events) == "trtllm.steps.upstream-events"
    assert len(of(events, Step)) == len(served.batches)
    assert len(of(events, SequenceFinished)) == 4
    assert guard.failures == {}
    Agent(Settings(home=tmp_path / "home")).run_once()
    assert report.balance(tmp_path / "home")["in_balance"]


def test_without_upstreams_statistics_its_events_are_not_waited_for(cuda, tmp_path, tier, caplog):
    tier("T1-native")
    served = laid()(cuda, plans(1))
    served.start_worker()
    run(served)
    served.shutdown()
    (events,) = journals(tmp_path / "home")
    assert metering(events) == "trtllm.steps.cuda-events"
    assert "tier T1 is used (T1-native needs enable_iter_perf_stats). Serving goes on." in caplog.text


def test_where_upstream_stops_timing_its_own_events_go_on_in_a_journal_of_their_own(cuda, tmp_path, tier):
    tier("T1-native")
    served = laid()(cuda, plans(1, output=40), stats=True)
    served.timing.newest = False  # it tells no events any more
    served.start_worker()
    run(served)
    served.shutdown()
    before, after = sorted(journals(tmp_path / "home"), key=lambda events: of(events, EngineStarted)[0].started_ns)
    assert (metering(before), metering(after)) == ("trtllm.steps.upstream-events", "trtllm.steps.cuda-events")
    assert (len(of(before, Step)), len(of(after, Step))) == (0, len(served.batches) - 16)
    assert [event.reason for event in before if hasattr(event, "steps")] == ["upstream told no time"] * 16
    assert (
        process.status.lost["batch"]
        == "upstream did not time its last 16 batches; lost: T1-native; T1 is used from here on"
    )
    assert len(of(before, SequenceFinished)) == len(of(after, SequenceFinished)) == 1
    assert guard.failures == {}


def test_an_unknown_version_uses_statistics_and_the_engine_row_says_why(cuda, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_llm.version", SimpleNamespace(__version__="2.0.0"))
    served = laid()(cuda, plans(2))
    served.start_worker()
    run(served)
    told = SimpleNamespace(id=9, context_prefill_position=40, num_generated_tokens=0, scheduled=True, stage="CONTEXT")
    served._append_iter_stats(SimpleNamespace(), [told], None, None, None, None, 2.5)
    served.shutdown()
    (events,) = journals(tmp_path / "home")
    (started,), (step,) = of(events, EngineStarted), of(events, Step)
    assert started.settings["metering"] == "trtllm.iteration-stats"
    assert "version 2.0.0 is outside the contract (1.0 to 1.3)" in started.lost_hooks[0]
    assert step.done_ns - step.scheduled_ns == 2_500_000
    assert step.items == ((1, 40, 0),)


def test_statistics_without_a_gpu_time_price_nothing():
    recorder = Recorder()
    meter = StatsMeter(recorder, Contexts())
    meter.record([SimpleNamespace(id=1, scheduled=True)], None)
    meter.record(None, 3.0)
    assert (recorder.drain(), meter.unpriced) == ([], 2)


def test_statistics_tell_prompts_generation_and_ends():
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


# -- who asks ------------------------------------------------------------------------------------------------------


class GenerationRequest:
    """As much of the real one as is touched; pickled as it is."""

    def __init__(self, prompt_token_ids, sampling_params, lora_request=None, trace_headers=None):
        self.prompt_token_ids = prompt_token_ids
        self.lora_request = lora_request
        self.trace_headers = trace_headers
        self.id = None


@pytest.fixture
def path(monkeypatch):
    """The hooks on the way of a request: the server's object, rank 0's queue, what is broadcast."""
    known = Contexts()
    monkeypatch.setattr(requests, "contexts", known)
    monkeypatch.setattr(GenerationRequest, "__init__", requests.wrap_label(GenerationRequest.__init__))
    monkeypatch.setattr(RequestQueueItem, "__init__", requests.wrap_queue_item(RequestQueueItem.__init__))
    monkeypatch.setattr(RequestQueueItem, "__setstate__", requests.unpack_queue_item, raising=False)
    return known


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def serve(headers, client=("127.0.0.1", 1), route="/v1/chat/completions"):
    """One HTTP request through a server whose application has been given the middleware."""
    made = []

    class App:
        def __init__(self):
            self.layers = []

        def add_middleware(self, layer):
            self.layers.append(layer)

    class OpenAIServer:
        def __init__(self, generator, model):
            self.app = App()

    OpenAIServer.__init__ = requests.wrap_server(OpenAIServer.__init__)
    (layer,) = OpenAIServer("g", model="m").app.layers

    async def app(scope, receive, send):
        made.append(GenerationRequest([1, 2], None))

    scope = {"type": "http", "headers": headers, "client": client, "path": route}
    asyncio.run(layer(app)(scope, None, None))
    (request,) = made
    return request


def test_the_tenant_and_the_trace_go_from_the_header_to_every_rank(path):
    request = serve([(b"X-Costtrace-Tenant", b"acme"), (b"traceparent", PARENT.encode())])
    request.id = 42
    over_the_wire = pickle.loads(pickle.dumps(request))
    assert b"acme" not in pickle.dumps(GenerationRequest([1], None)), "nothing is left over for the next request"

    def _enqueue_request(self, request, result_wait_queue=None):
        self.sent = pickle.dumps(RequestQueueItem(8, object, [9]))
        return 8

    worker = SimpleNamespace()
    assert requests.wrap_enqueue(_enqueue_request)(worker, over_the_wire) == 8
    for text in (path.of(8, -1, -1), path.of(77, 8, -1), path.of(9, -1, -1), path.of(-1, -1, 42)):
        found = request_context.decode(text)
        assert (found.tenant, found.tenant_source, found.traceparent) == ("acme", "header", PARENT)
        assert found.operation == "chat"
    path._by_id.clear()  # another rank
    pickle.loads(worker.sent)
    assert request_context.decode(path.of(8, -1, -1)).tenant == "acme"
    assert request_context.decode(path.of(9, -1, -1)).tenant == "acme"


def test_a_client_that_is_not_trusted_cannot_name_a_tenant(path):
    request = serve([(b"x-costtrace-tenant", b"neighbour")], client=("203.0.113.9", 1))
    found = request_context.decode(request_context.text_on(request))
    assert (found.tenant, found.tenant_source) == ("default", "rejected:untrusted")


def test_a_request_that_comes_without_http_is_the_processs_own_and_keeps_its_trace(path):
    adapter = SimpleNamespace(lora_name="tuned")
    request = GenerationRequest([1], None, lora_request=adapter, trace_headers={"traceparent": PARENT})
    found = request_context.decode(request_context.text_on(request))
    assert (found.tenant_source, found.traceparent, found.model) == ("process", PARENT, "tuned")


@pytest.mark.parametrize("value", ["00-0-0-0", PARENT + "-more", None, 7])
def test_what_is_no_traceparent_is_not_passed_on(path, value):
    request = GenerationRequest([1], None, trace_headers={"traceparent": value})
    assert request_context.decode(request_context.text_on(request)).traceparent == ""


def test_no_text_of_a_prompt_is_carried(path):
    text = request_context.text_on(serve([(b"authorization", b"Bearer secret"), (b"cookie", b"crumb")]))
    assert "secret" not in text
    assert "crumb" not in text


def test_what_waits_for_its_first_batch_is_bounded():
    known = Contexts()
    for name in range(contexts.KEPT + 500):
        known.remember("text", [name], name)
    assert len(known._by_id) == contexts.KEPT


def test_the_two_halves_of_a_disaggregated_request_have_one_key_and_both_ids():
    def added(role, disagg, context):
        facts = batches.Facts(5, 1, 10, 1, -1, role, disagg, context)
        recorded = [(NOTE, 1, batches.ADDED, facts, "")]
        return Translator("m").translate(recorded)[0]

    first, second = added("prefill", 777, -1), added("decode", 777, 777)
    assert first.request_key == second.request_key == "disagg-777"
    assert (first.role, second.role) == ("prefill", "decode")
    assert second.labels == {"disagg_request_id": "777", "ctx_request_id": "777"}
    again = added("decode", 888, 777)  # tried again: the orchestrator made a new id for this half only
    assert again.request_key == "disagg-777"
    assert added("prefill", -1, -1).request_key == "trtllm-1", "ids of older versions are no names beyond one server"


def test_under_dynamo_both_halves_have_the_key_of_its_request_and_no_other():
    def added(role, disagg):
        facts = batches.Facts(5, 1, 10, 1, -1, role, disagg, disagg)
        text = request_context.encode(request_context.RequestContext("dynamo:uuid-1", "acme", "header"))
        return Translator("m").translate([(NOTE, 1, batches.ADDED, facts, text)])[0]

    for one in (added("prefill", 777), added("decode", 778)):
        assert (one.request_key, one.request_id, one.tenant) == ("dynamo:uuid-1", "uuid-1", "acme")


# -- from the hooks to the bill ------------------------------------------------------------------------------------


def test_a_life_on_the_double_is_booked_balances_and_is_reported_without_a_residual(cuda, tmp_path):
    home = tmp_path / "home"
    served = laid()(cuda, plans(), loop="overlap")
    served.start_worker()
    run(served)
    served.shutdown()
    Agent(Settings(home=home)).run_once()
    out = tmp_path / "report.tar.gz"
    found = report.collect(home, None, measure=False)
    report.pack(found, out)
    assert found["balance"]["in_balance"], found["balance"]
    (engine,) = found["engines"]
    assert (engine["residual_ns"], engine["settings"]["metering"]) == (0, "trtllm.steps.cuda-events")
    told = CliRunner().invoke(cli, ["report", "--home", str(home), "--by", "tenant", "--format", "json"])
    assert told.exit_code == 0, told.output
    assert '"requests": 4' in told.output


def test_two_requests_of_dynamo_that_take_turns_keep_their_tenants_and_leave_nothing_behind(path):
    made = []

    async def generate_locally(self, request, context, embeddings=None):
        for _ in range(2):
            await asyncio.sleep(0)
            made.append((request, request_context.decode(request_context.text_on(GenerationRequest([1], None)))))
            yield request

    hooked = requests.wrap_dynamo(generate_locally)

    async def ask(tenant):
        context = SimpleNamespace(
            metadata={"X-Costtrace-Tenant": tenant}, trace_headers=lambda: {"traceparent": PARENT, "x-request-id": "7"}
        )
        answers = [answer async for answer in hooked(None, tenant, context)]
        return answers, requests._caller.get()

    async def both():
        return await asyncio.gather(ask("acme"), ask("globex"))

    assert asyncio.run(both()) == [(["acme"] * 2, None), (["globex"] * 2, None)]
    assert all((told.tenant, told.traceparent) == (asked, PARENT) for asked, told in made)
    assert len(made) == 4


def test_a_context_of_dynamo_that_says_nothing_does_not_keep_the_request_from_being_served(path):
    async def generate_locally(self, request, context):
        yield request

    async def ask():
        return [answer async for answer in requests.wrap_dynamo(generate_locally)(None, "asked", object())]

    assert asyncio.run(ask()) == ["asked"]
