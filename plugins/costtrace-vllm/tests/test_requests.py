"""What a request carries to its engine: tenant, trace and ids, from HTTP or from the process itself."""

import asyncio
from types import SimpleNamespace

import pytest
from costtrace_vllm import request_context
from costtrace_vllm.request_context import HEADER, RequestContext
from costtrace_vllm.server_side import requests
from costtrace_vllm.server_side.caller import Caller

from costtrace.capture.request_context import valid_traceparent
from costtrace.core import guard
from costtrace.core.events import COUNTED_PROMPT, COUNTED_REQUEST, HANDS_OVER

TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


def request(internal="cmpl-x-0-0123abcd", external="cmpl-x-0", headers=None):
    return SimpleNamespace(request_id=internal, external_req_id=external, trace_headers=headers, pooling_params=None)


def scope(path="/v1/completions", headers=(), peer=("127.0.0.1", 5)):
    return {"type": "http", "path": path, "headers": list(headers), "client": peer}


def through_http(the_scope, *engine_requests):
    """The contexts that *engine_requests* get from tasks of an application that is called with *the_scope*."""

    async def add(one):  # as a client's `add_request_async` does: in the server's one loop
        requests.attach_context(one)

    async def handler(self, scope, receive, send):
        await asyncio.gather(*(add(one) for one in engine_requests))

    asyncio.run(requests.wrap_http(handler)(None, the_scope, None, None))
    return [request_context.decode(one.trace_headers[HEADER]) for one in engine_requests]


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


def test_the_id_that_the_server_has_chosen_takes_precedence():
    the_scope = scope("/v1/chat/completions")
    the_scope["state"] = {"request_metadata": SimpleNamespace(request_id="chatcmpl-own_1")}
    (context,) = through_http(the_scope, request("chatcmpl-own_1-0123abcd", "chatcmpl-own_1"))
    assert (context.request_id, context.operation) == ("chatcmpl-own_1", "chat")


def test_a_crafted_id_does_not_make_prompts_of_a_list_one():
    the_scope, name = scope(), "cmpl-x-0123456789abcdef-beam"
    the_scope["state"] = {"request_metadata": SimpleNamespace(request_id=name)}
    prompts = [request(f"{name}-{i}-0123abcd", f"{name}-{i}") for i in (0, 1)]
    first, second = through_http(the_scope, *prompts)
    assert (first.prompt_key, second.prompt_key) == (f"{name}-0-0123abcd", f"{name}-1-0123abcd")
    assert first.request_id == second.request_id == name


def test_the_requests_of_a_beam_search_share_the_prompt_that_it_is_of():
    the_scope = scope()
    the_scope["state"] = {"request_metadata": SimpleNamespace(request_id="cmpl-b")}
    beams = [f"cmpl-b-{prompt}-0123456789abcdef-beam-{beam}" for prompt in (0, 1) for beam in (0, 1)]
    contexts = through_http(the_scope, *(request(f"{name}-0123abcd", name) for name in beams))
    assert [context.prompt_key for context in contexts] == ["cmpl-b-0", "cmpl-b-0", "cmpl-b-1", "cmpl-b-1"]


REQUEST, PROMPT = COUNTED_REQUEST, COUNTED_PROMPT


def test_what_of_a_request_is_counted_with_another_sequence():
    """Three children of one prompt and a second prompt: whichever engines they go to, one counts the request."""
    children = [request(f"{i}_cmpl-x-0-0123abcd") for i in (0, 1, 2)]
    sequences = [*children, request("cmpl-x-1-0123abcd", "cmpl-x-1")]
    contexts = through_http(scope(), *sequences, *sequences)  # a resumable request is sent again for each turn
    assert [context.elsewhere for context in contexts] == [0, REQUEST | PROMPT, REQUEST | PROMPT, REQUEST] * 2
    (other,) = through_http(scope(), request())
    assert other.elsewhere == 0
    the_scope = {**scope(), "state": {"request_metadata": SimpleNamespace(request_id="cmpl-b")}}
    beams = [request(f"{name}-0123abcd", name) for i in (0, 1) if (name := f"cmpl-b-0-{'0' * 16}-beam-{i}")]
    assert [context.elsewhere for context in through_http(the_scope, *beams)] == [0, REQUEST | PROMPT]
    connection = {**scope(), "type": "websocket"}
    assert [context.elsewhere for context in through_http(connection, *sequences)] == [0] * 4


def test_without_http_the_first_child_counts_the_request():
    for internal, elsewhere in (("0_7-0123abcd", 0), ("1_7-0123abcd", REQUEST | PROMPT), ("7-0123abcd", 0)):
        requests.attach_context(one := request(internal, "7"))
        assert request_context.decode(one.trace_headers[HEADER]).elsewhere == elsewhere


@pytest.mark.parametrize(
    ("transfer", "configured", "role", "elsewhere"),
    [
        ({"do_remote_decode": True}, object(), "prefill", HANDS_OVER),
        ({"do_remote_prefill": True}, object(), "decode", COUNTED_PROMPT),
        ({"do_remote_prefill": True}, None, "", 0),
        (None, object(), "", 0),
        ("do_remote_prefill", object(), "", 0),
        ([1], object(), "", 0),
    ],
)
def test_a_request_whose_prompt_and_answer_are_on_different_engines(transfer, configured, role, elsewhere):
    client = SimpleNamespace(vllm_config=SimpleNamespace(kv_transfer_config=configured))
    one = request()
    one.sampling_params = SimpleNamespace(extra_args={"kv_transfer_params": transfer})
    requests.wrap_add(lambda client, request: None)(client, one)
    context = request_context.decode(one.trace_headers[HEADER])
    assert (context.role, context.elsewhere) == (role, elsewhere)


def test_without_http_an_id_that_looks_like_dynamos_joins_nothing():
    one = request("dynamo:uuid-1-0123abcd", "dynamo:uuid-1")
    requests.attach_context(one)
    context = request_context.decode(one.trace_headers[HEADER])
    assert (context.request_key, context.request_id) == ("~dynamo:uuid-1", "dynamo:uuid-1")


@pytest.mark.parametrize("name", ["r" * 25_000_000, "\ud800" * 300], ids=["25 MB", "no text"])
def test_what_a_client_chooses_is_cut(name):
    headers = [(b"traceparent", b"cc" + TRACE[2:].encode() + b"-" + b"x" * 3_000_000)]
    the_scope = scope(headers=headers)
    the_scope["state"] = {"request_metadata": SimpleNamespace(request_id=name)}
    for a_scope in (the_scope, scope(headers=headers)):
        one = request(f"{name}_0-0123abcd", f"{name}_0")
        (context,) = through_http(a_scope, one)
        assert len(one.trace_headers[HEADER]) < 4_000
        assert (len(context.request_id), len(context.prompt_key), len(context.traceparent)) == (273, 273, 273)
        assert valid_traceparent(context.traceparent) == context.traceparent
    requests.attach_context(one)  # without HTTP
    assert len(one.trace_headers[HEADER]) < 4_000


def test_the_id_by_which_a_client_finds_its_request_is_the_ledgers():
    the_scope = scope()
    the_scope["state"] = {"request_metadata": SimpleNamespace(request_id="r" * 3_000_000)}
    (context,) = through_http(the_scope, request("r" * 3_000_000 + "_0-0123abcd", "r" * 3_000_000 + "_0"))
    assert Caller(the_scope).ledger_id() == context.request_id


def test_a_client_from_elsewhere_cannot_name_a_tenant():
    (context,) = through_http(scope(headers=[(b"x-costtrace-tenant", b"acme")], peer=("192.0.2.7", 5)), request())
    assert (context.tenant, context.tenant_source) == ("default", "rejected:untrusted")


def test_without_http_the_process_is_the_tenant(configure):
    configure(COSTTRACE_TENANT_DEFAULT="night")
    one = request("7-0123abcd", "7")
    requests.attach_context(one)
    context = request_context.decode(one.trace_headers[HEADER])
    assert (context.tenant, context.tenant_source, context.request_key) == ("night", "process", "7")


@pytest.mark.swallows
def test_a_request_goes_to_its_engine_even_if_no_context_can_be_attached():
    sent = []
    wrapped = requests.wrap_add(lambda client, request: sent.append(request))
    wrapped(None, broken := object())
    assert sent == [broken]
    assert guard.failures["vllm.add_request"] == 1


def test_only_the_newest_registered_contexts_are_kept(monkeypatch):
    monkeypatch.setattr(requests, "REMEMBERED", 3)
    for number in range(9):
        requests.register_context(str(number), None)
    assert list(requests._registered) == ["6", "7", "8"]
