"""The header by which a client finds what its request cost: only where it is asked for, and only where it is true."""

import asyncio
from types import SimpleNamespace

import pytest
from costtrace_vllm.process import process
from costtrace_vllm.server_side import answer_estimates, requests

from costtrace.core import guard

NAME = answer_estimates.REQUEST_ID


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Send a request through the hook to a server that chooses *known* as the response's id; its messages."""

    def run(known="cmpl-7", *, on="true", path="/v1/completions", status=200, method="POST", streamed=False):
        monkeypatch.setenv("COSTTRACE_HOME", str(tmp_path))
        monkeypatch.setenv("COSTTRACE_RESPONSE_HINTS", on)
        process.forget()
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

    yield run
    process.forget()


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_names_the_row_of_its_cost_and_is_otherwise_as_it_was(serve, streamed):
    with_hint, without = serve(streamed=streamed), serve(streamed=streamed, on="false")
    assert dict(with_hint[0]["headers"])[NAME] == b"cmpl-7"
    assert with_hint[1:] == without[1:]
    with_hint[0]["headers"].remove((NAME, b"cmpl-7"))
    assert with_hint[0] == without[0]


@pytest.mark.parametrize(
    "case", [{"on": "false"}, {"path": "/health"}, {"method": "GET"}, {"status": 400}, {"known": ""}, {"known": None}]
)
def test_there_is_no_header_where_nobody_asked_or_nothing_is_known(serve, case):
    assert NAME not in dict(serve(**case)[0]["headers"])


@pytest.mark.parametrize("known", ["cmpl-7\r\nset-cookie: a=b", "cmpl-\x00", "cmpl-\N{SNOWMAN}"])
def test_an_id_that_cannot_stand_in_a_header_stands_in_none(serve, known):
    assert NAME not in dict(serve(known)[0]["headers"])


def test_it_is_off_by_default(monkeypatch):
    monkeypatch.delenv("COSTTRACE_RESPONSE_HINTS", raising=False)
    process.forget()
    assert process.settings.response_hints is False
    process.forget()


@pytest.mark.swallows
def test_an_error_of_ours_costs_the_header_and_not_the_answer():
    sent = []

    async def send(message):
        sent.append(message)

    def fail():
        raise RuntimeError("broken")

    before = guard.failures["vllm.hints"]
    start = {"type": "http.response.start", "status": 200, "headers": []}
    asyncio.run(answer_estimates.hinted(send, fail)(start))
    assert sent == [start]
    assert guard.failures["vllm.hints"] == before + 1
    guard.failures.clear()
