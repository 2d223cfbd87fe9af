"""Tiers T3 and T5, estimates from finished requests: nothing is lost, nothing is said too early, all is labelled."""

import gc
import threading
import time
from types import SimpleNamespace

import pytest
from attributed import attribute, check, sums
from click.testing import CliRunner
from costtrace_lab.engines.schedules import WALL_OFFSET_NS, header, started
from costtrace_lab.trtllm_double import server as fake_trtllm_server
from costtrace_lab.trtllm_double.columns import make_executor
from costtrace_lab.trtllm_double.loops import random_plans, run
from costtrace_lab.trtllm_double.server import last_response
from costtrace_lab.trtllm_double.trtllm import Plan
from costtrace_tensorrt_llm import frontend, gpus, hooks, settle, settling, told
from costtrace_tensorrt_llm.batches import ADDED, FREED, Facts
from costtrace_tensorrt_llm.hook_points import HOOKS, METHODS
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.settle import Ended, Settler, Times
from costtrace_tensorrt_llm.translate import Translator

from costtrace.agent.loop import Agent
from costtrace.attribution.engine import Policy
from costtrace.capture.recorder import Recorder
from costtrace.cli.app import cli
from costtrace.config.settings import Settings
from costtrace.core import guard
from costtrace.core.events import (
    EngineReady,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    SequenceAdded,
    SequenceFinished,
    Step,
)
from costtrace.journal.reader import JournalReader

BEAT_NS = 40_000_000
READY_NS = 1_000_000_000


class Server:
    """A server beside the double: what has happened by a moment is settled at it, as the writer thread would."""

    def __init__(self, tier, *, tells=lambda request: True):
        self.settler = Settler(self, by_batch=tier == "T3")
        self.settler.frontier_ns = READY_NS
        self.recorder = Recorder(1 << 20)
        self.translator = Translator("m")
        self.tells = tells
        shape = started(("GPU-0",), READY_NS - 5)
        self.events = [
            header("tensorrt-llm-s", READY_NS - 5),
            EngineStarted(
                **{name: getattr(shape, name) for name in shape.__struct_fields__}
                | {"settings": {"metering": METHODS[tier]}}
            ),
            EngineReady(READY_NS),
        ]

    def added(self, life):
        self.recorder.note(ADDED, life.facts, life.text)

    def step(self, batch, start_ns, end_ns):
        self.recorder.dispatched(batch)
        self.recorder.done_at(batch, start_ns, end_ns)

    def freed(self, life):
        self.recorder.note(
            FREED, life.facts.id, self.recorder.index, life.reason, life.output_tokens, life.cached_tokens
        )

    def settle(self, now_ns):
        self.settler.settle(now_ns)
        self.events += self.translator.translate(self.recorder.drain())

    def live(self, executor):
        """All that the executor served, in the order in which a server would see it."""
        happenings = []
        for request in executor.seen:
            name, arrived_ns = request.py_request_id, request.plan.at_ns
            ended_ns = max(request.last_token_ns, arrived_ns) + 1_000
            happenings += [(arrived_ns, 0, name, request), (ended_ns, 1, name, request)]
        self.ended_ns = max(moment for moment, *_ in happenings) + 5_000
        beats = [(moment, 2, 0, None) for moment in range(READY_NS, self.ended_ns, BEAT_NS)]
        for now_ns, what, name, request in sorted([*happenings, *beats], key=lambda each: each[:3]):
            if what == 0:
                self.settler.arrived(name, now_ns)
            elif what == 1:
                self.settler.ended(name, self._end(name, request, now_ns))
            self.settle(now_ns)
            if what == 2:
                self.events.append(
                    Heartbeat(now_ns, now_ns + WALL_OFFSET_NS, self.settler.waits_since(), self.recorder.done_index)
                )
        self.settle(self.ended_ns)
        self.events.append(EngineStopped(self.ended_ns))
        return self

    def _end(self, name, request, now_ns):
        arrived_ns = self.settler.arrival(name)
        if not self.tells(request):
            return settle.unknown(name, arrived_ns, now_ns)
        asked = fake_trtllm_server.GenerationRequest([1] * request.plan.prompt, None)
        result = fake_trtllm_server.GenerationResultBase(asked)
        result._handle_response(last_response(request))
        return told.ended(name, "", result, asked, (arrived_ns, arrived_ns, now_ns))


def bill(server):
    rows, engines = attribute({"tensorrt-llm-s": server.events}, policy=Policy())
    check(rows, engines)
    assert sum(sums(rows).values()) == server.ended_ns - READY_NS + 5
    return rows


def served(loop, seed, *, stages=1, stage=0, plans=None):
    executor = make_executor(
        "main",
        plans or random_plans(seed, 12, drafts=seed % 2),
        loop=loop,
        metrics=True,
        seed=seed,
        stages=stages,
        stage=stage,
    )
    run(executor, stages)
    return executor


def batches_told(executor):
    """When each batch was handed over, and what the GPU took for it, by those that somebody tells."""
    found = {}
    for request in executor.seen:
        for kind in request.breakdown.values():
            for batch in kind:
                found[batch["forward_start_time"]] = sum(
                    round(batch[f"gpu_{part}_time"] * 1e6) for part in ("forward", "sample")
                )
    return found


# -- T3 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["plain", "overlap"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_by_batch_the_bill_is_the_gpu_time_of_every_batch_that_is_told_once(loop, seed):
    executor = served(loop, seed)
    server = Server("T3").live(executor)
    rows = bill(server)
    told_ns = batches_told(executor)
    assert len(told_ns) > 20
    assert sums(rows)["request"] == sum(told_ns.values())
    assert sums(rows)["unobserved"] == 0
    steps = [event for event in server.events if isinstance(event, Step)]
    assert len(steps) == len(told_ns)
    if loop == "plain":
        assert sum(told_ns.values()) == sum(busy.end_ns - busy.start_ns for busy in executor.gpu.busy)


def test_by_batch_everybody_is_in_exactly_the_batches_that_he_was_in():
    executor = served("plain", 4)
    server = Server("T3").live(executor)
    present = [set(members) for members in executor.batches]
    names, cohort, found = {}, set(), []
    for event in server.events:
        if isinstance(event, SequenceAdded):
            names[event.slot] = int(event.sequence_id)
        if isinstance(event, Step):
            items = {slot for slot, _, _ in event.items}
            cohort = (cohort - set(event.leaves) - items) | {slot for slot, _ in event.enters}
            found.append({names[slot] for slot in (cohort - ended_before(server.events, event)) | items})
    assert found == present


def ended_before(events, step):
    return {event.slot for event in events if isinstance(event, SequenceFinished) and event.last_step < step.index}


def test_nothing_is_said_of_a_moment_while_somebody_who_may_have_been_there_has_not_ended():
    server = Server("T3")
    server.settler.arrived(1, READY_NS + 10)
    server.settler.arrived(2, READY_NS + 20)
    life = Ended(
        Facts(2, 2, 5, 1, -1, "", -1, -1),
        "",
        Times(READY_NS + 20, READY_NS + 30, READY_NS + 90, ((READY_NS + 40, 30, True),)),
        True,
        "stop",
        1,
        0,
    )
    server.settler.ended(2, life)
    server.settle(READY_NS + 200)
    assert not any(isinstance(event, Step) for event in server.events)
    assert server.settler.waits_since() == READY_NS + 10
    other = life._replace(facts=life.facts._replace(id=1))
    server.settler.ended(1, other)
    server.settle(READY_NS + 300)
    (step,) = [event for event in server.events if isinstance(event, Step)]
    assert (step.scheduled_ns, step.done_ns, len(step.items)) == (READY_NS + 40, READY_NS + 70, 2)
    assert server.settler.waits_since() == 0


def test_who_ends_without_telling_is_taken_to_have_been_there_from_arrival_to_end():
    plans = [Plan(READY_NS, 20, 12), Plan(READY_NS, 20, 12), Plan(READY_NS, 20, 5)]
    executor = served("plain", 1, plans=plans)
    silent = executor.seen[2].py_request_id
    server = Server("T3", tells=lambda request: request.py_request_id != silent).live(executor)
    rows = bill(server)
    assert sums(rows)["request"] == sum(batches_told(executor).values())
    paid = {record.request_id: record for record in rows.records}
    assert len(paid) == 3
    (quiet,) = [record for record in rows.records if record.finish_reasons == ("abort",)]
    assert 0 < quiet.gpu_ns == quiet.wasted_ns
    assert server.settler.assumed == 1


# -- T5 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["plain", "overlap", "pipeline"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_by_requests_the_bill_is_the_time_in_which_somebody_was_there(loop, seed):
    executor = served(loop, seed, stages=2 if loop == "pipeline" else 1, stage=1 if loop == "pipeline" else 0)
    server = Server("T5").live(executor)
    rows = bill(server)
    spans = []
    for request in executor.seen:
        timing = last_response(request).perf_metrics.timing_metrics
        first, last = (told._ns(getattr(timing, f"{name}_time")) for name in ("first_scheduled", "last_token"))
        # Who never had a token does not tell when it was there: its whole wait counts.
        spans.append(
            (max(first, request.plan.at_ns), last) if last else (request.plan.at_ns, request.plan.at_ns + 1_000)
        )
    assert sums(rows)["request"] == covered(spans)
    assert sums(rows)["unobserved"] == 0
    assert all(record.gpu_ns >= 0 for record in rows.records)


def covered(spans):
    total, until = 0, 0
    for first, last in sorted(spans):
        total += max(0, last - max(first, until))
        until = max(until, last)
    return total


def test_by_requests_phases_and_tokens_are_those_of_the_request():
    executor = served("plain", 1, plans=[Plan(READY_NS, 100, 9), Plan(READY_NS + 50_000, 40, 30)])
    rows = bill(Server("T5").live(executor))
    found = sorted((record.input_tokens, record.output_tokens, record.finish_reasons) for record in rows.records)
    assert found == [(40, 30, ("length",)), (100, 9, ("length",))]
    assert all(record.prefill_ns > 0 and record.decode_ns > 0 for record in rows.records)


@pytest.mark.parametrize("tier", ["T3", "T5"])
def test_every_row_of_an_estimate_says_that_it_is_one(tier):
    rows = bill(Server(tier).live(served("plain", 2)))
    assert {record.method for record in rows.records} - {""} == {METHODS[tier]}
    assert {posting.method for posting in rows.postings if posting.kind == "request"} == {METHODS[tier]}
    assert METHODS[tier].startswith("estimated:")


@pytest.mark.parametrize("tier", ["T3", "T5"])
def test_what_waits_is_bounded(monkeypatch, tier):
    monkeypatch.setattr(settle, "PENDING", 50)
    server = Server(tier)
    server.settler.arrived(1, READY_NS)  # it never ends
    for n in range(2, 400):
        at_ns = READY_NS + n * 1_000
        server.settler.arrived(n, at_ns)
        times = Times(at_ns, at_ns + 100, at_ns + 500, ((at_ns, 300, True),))
        server.settler.ended(n, Ended(Facts(n, n, 5, 1, -1, "", -1, -1), "", times, True, "stop", 1, 0))
        server.settle(at_ns + 900)
        assert len(server.settler._lives) + len(server.settler._groups) <= 52
    assert server.settler.assumed == 1


# -- what is told --------------------------------------------------------------------------------------------------


def a_result(**changes):
    request = make_executor("main", [Plan(READY_NS, 10, 4)], metrics=True)
    run(request)
    asked = fake_trtllm_server.GenerationRequest([1] * 10, None)
    result = fake_trtllm_server.GenerationResultBase(asked)
    result._handle_response(last_response(request.seen[0], **changes))
    return result, asked, request.seen[0]


def test_times_of_another_clock_are_not_believed():
    result, asked, request = a_result()
    far_ns = 10**15
    life = told.ended(1, "", result, asked, (far_ns, far_ns + 5, far_ns + 9))
    assert not life.told
    assert (life.times.scheduled_ns, life.times.last_ns, life.times.batches) == (far_ns, far_ns + 9, ())
    near = told.ended(1, "", result, asked, (READY_NS, READY_NS, request.last_token_ns + 10))
    assert near.told
    assert len(near.times.batches) == 4


def test_a_request_that_tells_no_steps_is_no_ground_for_estimates_by_batch():
    result, asked, request = a_result(breakdown=False)
    seen = (READY_NS, READY_NS, request.last_token_ns + 10)
    assert "no time_breakdown_metrics" in told.why_not_by_batch(told.ended(1, "", result, asked, seen))
    result.time_breakdown_metrics = {"ctx_chunk_metrics": request.breakdown["ctx_chunk_metrics"]}
    assert "overlap scheduler" in told.why_not_by_batch(told.ended(1, "", result, asked, seen))
    result.time_breakdown_metrics = request.breakdown
    assert told.why_not_by_batch(told.ended(1, "", result, asked, seen)) == ""


# -- in a server ---------------------------------------------------------------------------------------------------


@pytest.fixture
def served_by(monkeypatch, tmp_path):
    """Lay the hooks of the server's side on the double, for a tier; gives the module."""
    monkeypatch.setattr(process.status, "lost", {})
    monkeypatch.setattr(process.status, "installed", [])
    monkeypatch.setattr(settling, "_settlement", None)
    monkeypatch.setenv("TRTLLM_COSTTRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRTLLM_COSTTRACE_AGENT", "off")
    guard.failures.clear()

    def lay(tier):
        monkeypatch.setenv("TRTLLM_COSTTRACE_TRTLLM_TIER", tier)
        process.forget()
        module = SimpleNamespace()
        for name in ("GenerationRequest", "GenerationResultBase", "GenerationExecutor"):
            original = getattr(fake_trtllm_server, name)
            setattr(module, name, type(name, (original,), dict(vars(original))))
        hooks.lay([hook for hook in HOOKS if hook.name in {"label", "executor", "result"}], module)
        assert process.status.lost == {}
        return module

    yield lay
    if settling._settlement is not None:
        settling._settlement.stop()
    process.forget()


def ask(module, count=3, *, finish=True, **tells):
    """Requests that are served by the double in this process's own time."""
    executor = make_executor("main", [Plan(0, 20, 5) for _ in range(count)], metrics=True)
    asked = [module.GenerationRequest([1] * 20, None) for _ in range(count)]
    base_ns = time.monotonic_ns()
    executor.host.now_ns = base_ns
    run(executor)
    while time.monotonic_ns() < executor.host.now_ns + 1_000_000:
        time.sleep(0.001)
    for request, one in zip(executor.seen, asked, strict=True):
        if finish:
            module.GenerationResultBase(one)._handle_response(last_response(request, **tells))
    return asked


def settled(home):
    for thread in threading.enumerate():
        if thread.name == "costtrace-settle":
            thread.join()
    settling._settlement.stop()
    (journal,) = (home / "journal").iterdir()
    return JournalReader(journal).read().events


def row(events):
    (found,) = [event for event in events if isinstance(event, EngineStarted)]
    return found


@pytest.mark.parametrize("tier", ["T3", "T5"])
def test_a_server_settles_what_its_requests_tell_and_the_books_balance(served_by, tmp_path, tier):
    home = tmp_path / "home"
    module = served_by(tier)
    module.GenerationExecutor.create("engine", model_world_size=2, llm_args=SimpleNamespace(model="org/tiny"))
    ask(module)
    events = settled(home)
    assert (row(events).settings["metering"], row(events).model) == (METHODS[tier], "org/tiny")
    assert len(row(events).devices) == 2
    assert sum(isinstance(event, SequenceFinished) for event in events) == 3
    assert guard.failures == {}
    Agent(Settings(home=home)).run_once()
    verified = CliRunner().invoke(cli, ["verify", "--home", str(home)])
    assert verified.exit_code == 0, verified.output
    by_method = CliRunner().invoke(cli, ["report", "--home", str(home), "--by", "method", "--format", "json"])
    assert METHODS[tier] in by_method.output


def test_the_tenant_of_an_estimate_is_the_one_on_the_request(served_by, tmp_path):
    module = served_by("T5")
    module.GenerationExecutor.create("engine")
    token = frontend._caller.set(frontend.Caller([(b"x-costtrace-tenant", b"acme")], "127.0.0.1", "/v1/completions"))
    ask(module, 1)
    frontend._caller.reset(token)
    (added,) = [event for event in settled(tmp_path / "home") if isinstance(event, SequenceAdded)]
    assert (added.tenant, added.operation) == ("acme", "text_completion")


def test_where_batches_are_not_told_it_falls_back_to_requests_and_says_so(served_by, tmp_path, caplog):
    module = served_by("T3")
    module.GenerationExecutor.create("engine")
    ask(module, 1, breakdown=False)
    events = settled(tmp_path / "home")
    assert row(events).settings["metering"] == METHODS["T5"]
    assert "finished requests have no time_breakdown_metrics" in caplog.text
    assert row(events).lost_hooks[0].startswith("batch times: ")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"enable_attention_dp": True}, "attention data parallelism"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
    ],
)
def test_ranks_with_batches_of_their_own_are_not_settled_by_batch(served_by, tmp_path, caplog, arguments, why):
    module = served_by("T3")
    module.GenerationExecutor.create("engine", llm_args=SimpleNamespace(**arguments))
    ask(module, 1)
    assert row(settled(tmp_path / "home")).settings["tier"] == "T5"
    assert why in caplog.text


def test_a_request_that_is_dropped_does_not_hold_the_others_up(served_by, tmp_path):
    module = served_by("T5")
    module.GenerationExecutor.create("engine")
    dropped = ask(module, 1, finish=False)
    ask(module, 1)
    del dropped
    gc.collect()
    deadline = time.monotonic() + 60
    while (reasons := ends(tmp_path / "home")) != ["abort", "length"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reasons == ["abort", "length"], "while the server goes on"


def ends(home):
    journals = list((home / "journal").iterdir()) if (home / "journal").exists() else []
    events = [event for journal in journals for event in JournalReader(journal).read().events]
    return sorted(event.reason for event in events if isinstance(event, SequenceFinished))


def test_unless_it_is_asked_for_nothing_is_estimated_and_a_response_costs_a_look(served_by, tmp_path):
    module = served_by("auto")
    module.GenerationExecutor.create("engine")
    (request,) = ask(module, 1)
    assert settling._settlement is None
    assert settling.LIFE not in vars(request)
    assert not (tmp_path / "home").exists()


def test_a_version_without_these_hooks_is_said_and_serving_goes_on(served_by, caplog):
    module = served_by("T5")
    process.status.installed.remove("result")
    module.GenerationExecutor.create("engine")
    assert settling._settlement is None
    assert "nothing is recorded of this engine (without the hook result)" in caplog.text


# -- devices without touching one ----------------------------------------------------------------------------------


def boards(root, *uuids):
    for n, uuid in enumerate(uuids):
        path = root / f"0000:{n:02x}:00.0" / "information"
        path.parent.mkdir(parents=True)
        path.write_text(f"Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 1\nGPU UUID: \t {uuid}\nBus Type: \t PCIe\n")
    return root


def test_the_ranks_devices_are_those_that_cuda_shows(tmp_path, monkeypatch):
    proc = boards(tmp_path, "GPU-aa", "GPU-bb", "GPU-cc")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found, visible = gpus.visible_gpus(2, proc)
    assert ([device.uuid for device in found], visible) == (["GPU-aa", "GPU-bb"], "")
    assert {device.name for device in found} == {"NVIDIA H100 80GB HBM3"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-aa")
    assert [device.uuid for device in gpus.visible_gpus(2, proc)[0]] == ["GPU-cc", "GPU-aa"]


def test_a_device_that_cannot_be_told_has_time_and_the_name_of_its_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    host = gpus.clock.host_name()
    hidden = boards(tmp_path / "hidden", "GPU-????????")
    ((device,), visible) = gpus.visible_gpus(1, hidden)
    assert (device.uuid, device.name, visible) == (f"cuda-{host}-0", "NVIDIA H100 80GB HBM3", "0")
    ((device, other), _) = gpus.visible_gpus(2, boards(tmp_path / "one", "GPU-aa"))
    assert (device.uuid, other.uuid, other.host) == ("GPU-aa", f"cuda-{host}-1", "")
