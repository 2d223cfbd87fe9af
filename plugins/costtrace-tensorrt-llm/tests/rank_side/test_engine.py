"""The hooks on live objects: the journal of a whole life, tiers that fall back, and engines that go on."""

import sys
from types import SimpleNamespace

import pytest
from costtrace_tensorrt_llm import report
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.rank_side import executor
from double.hooked import hooked, journals, metering, of, plans
from double.loops import run

from costtrace.agent.loop import Agent
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


@pytest.mark.parametrize("column", ["1.0", "main"])
@pytest.mark.parametrize("loop", ["plain", "overlap"])
def test_a_whole_life_is_in_the_journal(cuda, tmp_path, column, loop):
    served = hooked(column)(cuda, plans(), loop=loop)
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


def test_requests_that_came_without_a_context_are_paid_by_the_tenant_of_the_setting(cuda, tmp_path, monkeypatch):
    monkeypatch.setenv("TRTLLM_COSTTRACE_TENANT_DEFAULT", "shared")
    served = hooked()(cuda, plans(2))
    served.start_worker()
    run(served)
    served.shutdown()
    (events,) = journals(tmp_path / "home")
    paid = [(event.tenant, event.tenant_source) for event in of(events, SequenceAdded)]
    assert paid == [("shared", "default:no-context")] * 2


def test_the_executor_that_measures_memory_has_a_journal_of_its_own_and_the_next_one_starts_up_after_it(cuda, tmp_path):
    cls = hooked()
    for _ in range(2):
        served = cls(cuda, plans(1))
        served.start_worker()
        run(served)
        served.shutdown()
    first, second = journals(tmp_path / "home")
    (stopped,), (started,), (ready,) = of(first, EngineStopped), of(second, EngineStarted), of(second, EngineReady)
    assert stopped.at_ns <= started.started_ns < ready.at_ns


def test_a_batch_of_nobody_is_overhead_by_its_name(cuda, tmp_path):
    served = hooked()(cuda, [])
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
    cls = hooked()
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
    served = hooked()(cuda, plans(2))
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


def test_a_missing_attribute_falls_back_to_statistics_and_is_named(cuda, tmp_path, caplog):
    served = hooked()(cuda, [])
    served.start_worker()
    served.forward = lambda scheduled: "outputs"
    assert served._forward_step(SimpleNamespace(context_requests=[])) == "outputs", "serving goes on"
    assert "`batch` does not fit" in caplog.text
    assert "generation_requests" in caplog.text
    assert "lost: T1; T2 is used from here on" in caplog.text
    recorder = executor.recorder_of(served)
    assert (recorder.tier, recorder.steps) == ("T2", None)
    served.shutdown()
    before, after = sorted(journals(tmp_path / "home"), key=lambda events: of(events, EngineStarted)[0].started_ns)
    assert of(before, EngineStopped)[0].reason == "another tier goes on"
    assert metering(before) == "trtllm.steps.cuda-events"
    assert metering(after) == "trtllm.iteration-stats"
    assert of(after, EngineStarted)[0].lost_hooks[0].startswith("batch: ")
    assert of(before, EngineStopped)[0].at_ns <= of(after, EngineStarted)[0].started_ns


@pytest.mark.parametrize("loop", ["plain", "overlap"])
def test_a_whole_life_by_upstreams_events_is_in_the_journal_and_the_books_balance(cuda, tmp_path, tier, loop):
    tier("T1-native")
    served = hooked()(cuda, plans(), loop=loop, stats=True)
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
    served = hooked()(cuda, plans(1))
    served.start_worker()
    run(served)
    served.shutdown()
    (events,) = journals(tmp_path / "home")
    assert metering(events) == "trtllm.steps.cuda-events"
    assert "tier T1 is used (T1-native needs enable_iter_perf_stats). Serving goes on." in caplog.text


def test_where_upstream_stops_timing_its_own_events_go_on_in_a_journal_of_their_own(cuda, tmp_path, tier):
    tier("T1-native")
    served = hooked()(cuda, plans(1, output=40), stats=True)
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


def test_an_unknown_version_uses_statistics_and_the_reason_is_on_the_engine_row(cuda, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_llm.version", SimpleNamespace(__version__="2.0.0"))
    served = hooked()(cuda, plans(2))
    served.start_worker()
    run(served)
    row = SimpleNamespace(id=9, context_prefill_position=40, num_generated_tokens=0, scheduled=True, stage="CONTEXT")
    served._append_iter_stats(SimpleNamespace(), [row], None, None, None, None, 2.5)
    served.shutdown()
    (events,) = journals(tmp_path / "home")
    (started,), (step,) = of(events, EngineStarted), of(events, Step)
    assert started.settings["metering"] == "trtllm.iteration-stats"
    assert "version 2.0.0 is outside the contract (1.0 to 1.3)" in started.lost_hooks[0]
    assert step.done_ns - step.scheduled_ns == 2_500_000
    assert step.items == ((1, 40, 0),)
