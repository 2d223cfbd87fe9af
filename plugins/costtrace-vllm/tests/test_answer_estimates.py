"""The cost of an answer, in its usage and in headers: only where that is switched on and something is known."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest
from cost_means import means
from costtrace_vllm import contract, hooks
from costtrace_vllm.process import process
from costtrace_vllm.server_side import answer_estimates, requests
from costtrace_vllm.server_side.caller import SCOPE_KEY, current_caller

from costtrace.capture.node_files import cost_estimates
from costtrace.capture.node_files.cost_estimates import MODEL, TENANT
from costtrace.core import guard

# -- headers ---------------------------------------------------------------------------------------------------------


NAME = answer_estimates.REQUEST_ID


@pytest.fixture
def serve(configure):
    """Send a request through the hook to a server that chooses *known* as the response's id; its messages."""

    def run(known="cmpl-7", *, on="true", path="/v1/completions", status=200, method="POST", streamed=False):
        configure(COSTTRACE_RESPONSE_HINTS=on)
        sent = []

        async def send(message):
            sent.append(message)

        async def original(self, scope, receive, send):
            scope.setdefault("state", {})["request_metadata"] = SimpleNamespace(request_id=known)
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"x")]})
            for piece in (b"a", b"b") if streamed else (b"ab",):
                await send({"type": "http.response.body", "body": piece, "more_body": streamed})

        scope = {"type": "http", "method": method, "path": path, "headers": [], "client": ("127.0.0.1", 5)}
        asyncio.run(requests.wrap_http(original)(None, scope, None, send))
        return sent

    return run


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_names_the_row_of_its_cost_and_is_otherwise_as_it_was(serve, streamed):
    with_header, without = serve(streamed=streamed), serve(streamed=streamed, on="false")
    assert dict(with_header[0]["headers"])[NAME] == b"cmpl-7"
    assert with_header[1:] == without[1:]
    with_header[0]["headers"].remove((NAME, b"cmpl-7"))
    assert with_header[0] == without[0]


@pytest.mark.parametrize(
    "case", [{"on": "false"}, {"path": "/health"}, {"method": "GET"}, {"status": 400}, {"known": ""}, {"known": None}]
)
def test_there_is_no_header_where_it_is_off_or_nothing_is_known(serve, case):
    assert NAME not in dict(serve(**case)[0]["headers"])


@pytest.mark.parametrize("known", ["cmpl-7\r\nset-cookie: a=b", "cmpl-\x00", "cmpl-\N{SNOWMAN}"])
def test_an_id_that_could_break_a_header_is_left_out(serve, known):
    assert NAME not in dict(serve(known)[0]["headers"])


def test_the_header_is_off_by_default(monkeypatch):
    monkeypatch.delenv("COSTTRACE_RESPONSE_HINTS", raising=False)
    assert process.settings.response_hints is False


@pytest.mark.swallows
def test_an_error_in_the_hook_loses_the_header_and_not_the_answer():
    sent = []

    async def send(message):
        sent.append(message)

    def fail():
        raise RuntimeError("broken")

    before = guard.failures["vllm.hints"]
    start = {"type": "http.response.start", "status": 200, "headers": []}
    asyncio.run(answer_estimates.with_headers(send, fail)(start))
    assert sent == [start]
    assert guard.failures["vllm.hints"] == before + 1


# -- estimates -------------------------------------------------------------------------------------------------------


class Base:
    """What the hook uses of a class of vLLM's: it inherits its `__init__`."""

    def __init__(self, **fields):
        self.__dict__.update(fields)


class Answer(Base):
    model: str
    usage: object


def use(prompt=1_000, answer=100, **details):
    stated = SimpleNamespace(**details) if details else None
    return SimpleNamespace(prompt_tokens=prompt, completion_tokens=answer, prompt_tokens_details=stated)


@pytest.fixture
def answering(tmp_path, configure):
    """Make an answer on behalf of a caller, as a server does; the answer and the headers of its response."""

    def run(tenant="acme", scope=TENANT, **fields):
        configure(COSTTRACE_COST_ESTIMATES=scope)
        owner = type("Owner", (Answer,), {})
        owner.__init__ = answer_estimates.wrap_answer(owner.__init__)
        answers, sent = [], []

        async def send(message):
            sent.append(message)

        async def original(self, scope, receive, send):
            scope.setdefault("state", {})["request_metadata"] = SimpleNamespace(request_id="cmpl-7")
            caller = current_caller.get()
            caller.identity = tenant and SimpleNamespace(tenant=tenant)
            answers.append(owner(**{"model": "m", "usage": use(), **fields}))
            await send({"type": "http.response.start", "status": 200, "headers": []})

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "client": None}
        asyncio.run(requests.wrap_http(original)(None, scope, None, send))
        return answers[0], dict(sent[0]["headers"])

    cost_estimates.write(tmp_path, TENANT, [means()], time.time())
    return run


def test_an_answer_states_its_estimate_in_its_usage_and_in_its_headers(answering):
    answer, headers = answering()
    assert answer.usage.cost == 11e-6
    assert answer.usage.cost_details["estimate"] is True
    assert answer.usage.cost_details["amount"] == "0.000011000"
    assert answer.usage.cost_details["request_id"] == "cmpl-7"
    json.dumps(answer.usage.cost_details)
    assert headers == {
        answer_estimates.REQUEST_ID: b"cmpl-7",
        answer_estimates.COST_ESTIMATE: b"0.000011000",
        answer_estimates.COST_CURRENCY: b"USD",
    }


def test_tokens_that_the_server_reports_as_cached_are_not_estimated_as_computed(answering):
    assert answering(usage=use(cached_tokens=900))[0].usage.cost == (100 * 10 + 100 * 50) / 10**9
    assert answering(usage=use(cached_tokens=None))[0].usage.cost == 11e-6


def test_usage_cost_is_in_dollars_only(answering, tmp_path):
    cost_estimates.write(tmp_path, TENANT, [means(currency="EUR")], time.time())
    answer, headers = answering()
    assert not hasattr(answer.usage, "cost")
    assert (answer.usage.cost_details["currency"], headers[answer_estimates.COST_CURRENCY]) == ("EUR", b"EUR")


@pytest.mark.parametrize(
    "case",
    [{"tenant": "globex"}, {"tenant": None}, {"model": "adapter"}, {"model": None}, {"scope": MODEL}, {"usage": None}],
    ids=["another tenant", "no tenant", "another model", "no model", "another scope", "the middle of a stream"],
)
def test_where_nothing_is_known_an_answer_is_as_it_was(answering, case):
    answer, headers = answering(**case)
    assert not {"cost", "cost_details"} & vars(answer.usage or SimpleNamespace()).keys()
    assert headers == {answer_estimates.REQUEST_ID: b"cmpl-7"}
    assert not guard.failures


@pytest.mark.swallows
def test_an_error_in_the_hook_loses_the_estimate_and_not_the_answer(answering):
    answer, headers = answering(usage=SimpleNamespace(prompt_tokens=3))
    assert vars(answer.usage) == {"prompt_tokens": 3}
    assert headers == {answer_estimates.REQUEST_ID: b"cmpl-7"}
    assert guard.failures["vllm.estimate"] == 1


def test_an_answer_without_a_caller_is_left_alone():
    answer = Answer(model="m", usage=use())
    answer_estimates.note_answer(answer)
    assert not hasattr(answer.usage, "cost_details")


@pytest.mark.swallows
def test_an_answer_made_in_another_thread_still_belongs_to_its_caller():
    seen = []
    build = answer_estimates.wrap_build(lambda _, ctx: seen.append(current_caller.get()) or ctx)
    caller = object()
    for raw in (SimpleNamespace(scope={SCOPE_KEY: caller}), SimpleNamespace(scope={}), None):
        ctx = SimpleNamespace(raw_request=raw)
        assert build(None, ctx) is ctx
        assert current_caller.get() is None
    ctx = SimpleNamespace()  # of another version
    assert build(None, ctx) is ctx
    assert seen == [caller, None, None, None]
    assert guard.failures["vllm.estimate"] == 1


HOOK = next(hook for hook in contract.HOOKS if hook.name == "answer.chat")


def test_the_hook_is_installed_on_a_class_that_inherits_its_init():
    owner, other = (type(HOOK.owner, (Answer,), {}) for _ in range(2))
    hooks._install([HOOK], SimpleNamespace(ChatCompletionResponse=owner))
    assert owner.__init__.__wrapped__ is Base.__init__
    assert owner(model="m", usage=None).model == "m"
    assert other.__init__ is Base.__init__
    assert "answer.chat" in process.status.installed


def test_a_class_that_does_not_fit_is_left_alone_and_the_loss_is_logged(caplog):
    owner = type(HOOK.owner, (Base,), {})
    hooks._install([HOOK], SimpleNamespace(ChatCompletionResponse=owner))
    assert owner.__init__ is Base.__init__
    (line,) = [record.getMessage() for record in caplog.records]
    assert "`answer.chat` does not fit" in line
    assert "lost: estimates of the cost in answers" in line


@pytest.mark.parametrize(("on", "wanted"), [("off", 0), ("tenant", 6), ("model", 6)])
def test_answers_are_hooked_only_where_estimates_are_wanted(configure, monkeypatch, on, wanted):
    configure(COSTTRACE_COST_ESTIMATES=on)
    installed = []
    monkeypatch.setattr(hooks, "_registered", False)
    monkeypatch.setattr(hooks, "_remember_start", lambda: None)
    monkeypatch.setattr(hooks.on_import, "install_when_imported", lambda these, _: installed.extend(these))
    hooks.register()
    assert len([hook for hook in installed if hook.name.startswith("answer")]) == wanted
    assert len(installed) == len(contract.HOOKS) - 6 + wanted
