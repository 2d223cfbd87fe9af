"""How the hooks get into vLLM: late, once, only where they fit, and without ever harming what they are laid on."""

import asyncio
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
from costtrace_vllm import contract, hooks, request_context
from costtrace_vllm.engine_side import engine, scheduler_hooks
from costtrace_vllm.process import process
from costtrace_vllm.request_context import HEADER, RequestContext
from costtrace_vllm.server_side import requests

from costtrace.capture.hooks import on_import as late
from costtrace.capture.recorder import NOTE, STEP, Recorder
from costtrace.capture.request_context import traceparent_of, valid_traceparent
from costtrace.core import guard


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(process.status, "lost", {})
    monkeypatch.setattr(process.status, "installed", [])
    guard.failures.clear()
    requests._delivered.clear()


# -- how they get in -----------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "late_one.py").write_text("class Thing:\n    def act(self, what): return what\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "late_one"
    sys.modules.pop("late_one", None)


def test_an_action_waits_for_somebody_else_to_import_its_module(package):
    seen = []
    late.when_imported(package, seen.append)
    assert package not in sys.modules
    module = __import__(package)
    assert seen == [module]
    assert "exec_module" not in vars(module.__spec__.loader), "the loader is itself again"


def test_an_action_runs_at_once_on_a_module_that_is_loaded(package):
    module, seen = __import__(package), []
    late.when_imported(package, seen.append)
    assert seen == [module]


@pytest.mark.swallows
def test_a_failing_action_does_not_break_the_import(package):
    late.when_imported(package, lambda _: 1 / 0)
    assert __import__(package).Thing().act(3) == 3
    assert guard.failures[f"late.{package}"] == 1


def test_registering_imports_no_engine_and_starts_no_thread(tmp_path):
    program = """
        import os, sys, threading
        from costtrace_vllm.hooks import register
        register(); register()
        print(sorted(m for m in sys.modules if m.partition(".")[0] in {"vllm", "torch", "starlette", "opentelemetry"}))
        print(threading.active_count(), os.listdir("."))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": ":".join(sys.path), "COSTTRACE_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["[]", "1 []"]
    assert done.stderr == ""


def test_a_bad_setting_is_said_and_does_not_keep_vllm_from_starting(tmp_path):
    program = "from costtrace_vllm.hooks import register; register(); print('serving')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), "COSTTRACE_WINDOWS": "3", "COSTTRACE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "serving\n"
    assert "COSTTRACE_WINDOWS" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_hook_of_the_contract_has_its_wrapper():
    only_read = {"request", "request.blocks"}
    wrapped = {hook.name for hook in contract.HOOKS if (hook.function or hook.init) and hook.name not in only_read}
    assert hooks._wraps().keys() == wrapped
    for name in wrapped:
        assert callable(hooks._wraps()[name]())


def test_a_hook_that_does_not_fit_is_left_out_and_said_once(package, caplog):
    module = __import__(package)
    original = module.Thing.act
    hook = contract.Hook("http", "front end", package, "Thing", "act", ("something", "else"), "the tenant")
    hooks._lay([hook], module)
    hooks._lay([hook], module)
    assert module.Thing.act is original
    (line,) = [record.getMessage() for record in caplog.records]
    assert "`http` does not fit" in line
    assert "lost: the tenant" in line
    why = f"{package}.Thing act: its parameters are (what), not (something, else, ...)"
    assert process.status.lost_hooks() == (f"http: {why}; lost: the tenant",)


def test_a_hook_that_needs_a_lost_one_is_left_out_too(package):
    process.status.lost["delivered"] = "gone"
    hook = contract.Hook("abort.sync", "front end", package, "Thing", "act", ("what",), "x", needs=("delivered",))
    module = __import__(package)
    original = module.Thing.act
    hooks._lay([hook], module)
    assert module.Thing.act is original


# -- the scheduler's closures --------------------------------------------------------------------------------------


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
    scheduler_hooks.trace_scheduler(scheduler, recorder)
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
    assert recorder.wake.is_set(), "an end is written at once"


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
    scheduler.add_request(request)  # more input of an open session
    assert request.trace_headers is None
    assert recorder.drain() == []


def test_the_hashes_of_a_requests_blocks_are_taken_only_where_they_are_asked_for():
    request = SimpleNamespace(
        request_id="a",
        trace_headers=None,
        num_prompt_tokens=7,
        lora_request=None,
        pooling_params=None,
        block_hashes=[b"hash"],
    )
    for wanted, found in ((False, ()), (True, [b"hash"])):
        scheduler, recorder = Scheduler(), Recorder()
        scheduler_hooks.trace_scheduler(scheduler, recorder, prefixes=wanted)
        scheduler.add_request(request)
        assert recorder.drain()[0][-1] == found


def test_what_was_delivered_is_taken_out_of_an_abort():
    scheduler, recorder = make()
    assert scheduler.finish_requests(["a", request_context.stop_note(3, "a"), "b"], "aborted") == ["a", "b"]
    assert [record[2:] for record in recorder.drain()] == [("delivered", "a", 3, "stop")]
    assert scheduler.finish_requests("a", "aborted") == "a"
    assert scheduler.finish_requests(None, "aborted") is None


@pytest.mark.swallows
def test_an_error_of_ours_never_reaches_the_scheduler():
    scheduler, recorder = make()
    assert scheduler.update_from_output("a batch that nobody dispatched", "mro") == "outputs"
    scheduler.add_request(SimpleNamespace(request_id="a"))
    assert scheduler._free_request(object()) == "freed"
    assert scheduler.finish_requests(["costtrace:stop:x:y"], "aborted") == []
    # A batch that nobody dispatched is not an error: the recorder passes over it.
    assert len(guard.failures) == 3
    assert [record for record in recorder.drain() if record[0] != NOTE] == []


def test_a_scheduler_without_a_method_is_traced_in_the_others():
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


def test_the_traced_class_goes_by_the_name_of_its_base_and_is_made_once():
    made = engine.traced(Scheduler)
    assert made is engine.traced(Scheduler)
    assert made is engine.traced(made)
    assert (made.__module__, made.__qualname__) == (Scheduler.__module__, Scheduler.__qualname__)
    assert issubclass(made, Scheduler)


# -- the front end -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("COSTTRACE_HOME", str(tmp_path / "home"))
    process.forget()
    requests._said_pid = 0


def request(internal="cmpl-x-0-0123abcd", external="cmpl-x-0", headers=None):
    return SimpleNamespace(request_id=internal, external_req_id=external, trace_headers=headers, pooling_params=None)


def scope(path="/v1/completions", headers=(), peer=("127.0.0.1", 5)):
    return {"type": "http", "path": path, "headers": list(headers), "client": peer}


def through_http(the_scope, *engine_requests):
    """Label *engine_requests* from within tasks of an application that was called with *the_scope*."""

    async def add(one):  # as a client's `add_request_async` does: in the server's one loop
        requests.label(one)

    async def handler(self, scope, receive, send):
        await asyncio.gather(*(add(one) for one in engine_requests))

    asyncio.run(requests.wrap_http(handler)(None, the_scope, None, None))
    return [request_context.decode(one.trace_headers[HEADER]) for one in engine_requests]


TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


def test_a_request_carries_its_tenant_trace_and_ids_to_the_engine():
    shared = {"traceparent": "kept"}
    children = [request(f"{i}_cmpl-x-0-0123abcd", headers=shared) for i in (0, 1)]
    first, second = through_http(
        scope(headers=[(b"x-costtrace-tenant", b"acme"), (b"traceparent", TRACE.encode())]), *children
    )
    assert isinstance(first, RequestContext)
    assert (first.tenant, first.tenant_source, first.traceparent) == ("acme", "header", TRACE)
    assert (first.request_id, first.operation) == ("cmpl-x", "text_completion")
    assert first.request_key == second.request_key != ""
    assert first.prompt_key == second.prompt_key == "cmpl-x-0-0123abcd"
    assert first.arrived_ns > 0
    assert shared == {"traceparent": "kept"}, "the children share this dict"
    assert children[0].trace_headers["traceparent"] == "kept"


def test_the_id_that_the_server_has_chosen_goes_first():
    the_scope = scope("/v1/chat/completions")
    the_scope["state"] = {"request_metadata": SimpleNamespace(request_id="chatcmpl-own_1")}
    (found,) = through_http(the_scope, request("chatcmpl-own_1-0123abcd", "chatcmpl-own_1"))
    assert (found.request_id, found.operation) == ("chatcmpl-own_1", "chat")


def test_a_client_from_elsewhere_cannot_name_a_tenant():
    (found,) = through_http(scope(headers=[(b"x-costtrace-tenant", b"acme")], peer=("192.0.2.7", 5)), request())
    assert (found.tenant, found.tenant_source) == ("default", "rejected:untrusted")


def test_without_http_the_process_is_the_tenant(monkeypatch):
    monkeypatch.setenv("COSTTRACE_TENANT_DEFAULT", "night")
    process.forget()
    one = request("7-0123abcd", "7")
    requests.label(one)
    found = request_context.decode(one.trace_headers[HEADER])
    assert (found.tenant, found.tenant_source, found.request_key) == ("night", "process", "7")


@pytest.mark.swallows
def test_a_request_goes_to_its_engine_even_if_it_cannot_be_labelled():
    sent = []
    wrapped = requests.wrap_add(lambda client, request: sent.append(request))
    wrapped(None, broken := object())
    assert sent == [broken]
    assert guard.failures["vllm.add_request"] == 1


class Client:
    """A data-parallel client: it knows which engine has a request, until that engine has said that it is done."""

    core_engines = ("engine-0", "engine-1")
    resources = SimpleNamespace(engine_dead=False)

    def __init__(self, in_flight):
        self.in_flight, self.sent = in_flight, []

    async def _send_input(self, request_type, request, engine=None):
        self.sent.append((request_type.value, request, engine))

    async def abort_requests_async(self, request_ids):
        known = [name for name in request_ids if name in self.in_flight]
        if known:
            await self._send_input(SimpleNamespace(value=b"\x01"), known, self.in_flight[known[0]])


def finish(name, tokens, stop=("x",)):
    state = SimpleNamespace(request_id=name, detokenizer=SimpleNamespace(stop=stop, num_output_tokens=lambda: tokens))
    requests.wrap_finish(lambda processor, req_state: None)(None, state)


def test_an_abort_says_what_the_client_got_of_a_request_that_the_server_ended():
    client = Client({})
    send = requests.wrap_send(Client._send_input)
    finish("a", 3)
    finish("b", 3, stop=())
    asyncio.run(send(client, SimpleNamespace(value=b"\x01"), ["a", "b"]))
    asyncio.run(send(client, SimpleNamespace(value=b"\x00"), "an added request"))
    assert client.sent == [
        (b"\x01", ["a", "b", "costtrace:stop:3:a"], None),
        (b"\x00", "an added request", None),
    ]


def test_every_engine_is_told_where_the_client_has_forgotten_which_one_it_was(monkeypatch):
    abort = SimpleNamespace(EngineCoreRequestType=SimpleNamespace(ABORT=SimpleNamespace(value=b"\x01")))
    monkeypatch.setitem(sys.modules, "vllm.v1.engine", abort)
    monkeypatch.setattr(Client, "_send_input", requests.wrap_send(Client._send_input))
    client = Client({"a": "engine-1"})
    wrapped = requests.wrap_abort_balanced(Client.abort_requests_async)
    finish("a", 3)
    finish("b", 5)
    asyncio.run(wrapped(client, ["a", "b"]))
    assert client.sent == [
        (b"\x01", ["a", "costtrace:stop:3:a"], "engine-1"),
        (b"\x01", ["costtrace:stop:5:b"], "engine-0"),
        (b"\x01", ["costtrace:stop:5:b"], "engine-1"),
    ]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (TRACE, True),
        (TRACE[:-2] + "00", True),
        ("cc" + TRACE[2:] + "-more", True),
        (TRACE + "-more", False),
        ("ff" + TRACE[2:], False),
        (TRACE.upper(), False),
        ("00-" + "0" * 32 + TRACE[35:], False),
        (TRACE[:36] + "0" * 16 + "-01", False),
        ("", False),
    ],
)
def test_a_traceparent_is_kept_as_it_is_or_not_at_all(value, kept):
    header = (b"Traceparent", value.encode())
    assert traceparent_of([(b"accept", b"x"), header]) == valid_traceparent(value) == (value if kept else "")
    assert traceparent_of([header, header]) == ""


@pytest.mark.parametrize(
    ("external", "pooling", "shown"),
    [
        ("chatcmpl-own_1", False, "chatcmpl-own_1"),
        ("cmpl-mine-2-3-0", False, "cmpl-mine-2-3"),
        ("cmpl-b-15-0123456789abcdef-beam-1", False, "cmpl-b"),
        ("embd-x-1", True, "embd-x"),
        ("embd-x-prompt-0-chunk-2", True, "embd-x"),
        ("7", False, "7"),
    ],
)
def test_the_response_id_is_what_the_client_sees(external, pooling, shown):
    assert request_context.response_id(external, pooling=pooling) == shown
