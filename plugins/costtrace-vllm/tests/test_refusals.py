"""A tenant above a hard budget gets HTTP 429, and no other does."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest
from costtrace_vllm import request_context
from costtrace_vllm.server_side import requests

from costtrace.capture.node_files import refusals
from costtrace.capture.node_files.refusals import Refusal
from costtrace.core import guard

WHY = Refusal("acme-november", int(time.time()) + 3_600)


@pytest.fixture
def server(configure):
    """Send a request through the hook; what the client gets, and whether the server saw it."""

    def serve(path="/v1/completions", method="POST", tenant="acme", *, scope_changes=None, inside=None, **variables):
        configure(**{"COSTTRACE_ADMISSION": "true", **variables})
        sent, seen = [], []

        async def original(self, scope, receive, send):
            seen.append(scope["path"])
            if inside is not None:
                inside()

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"x-costtrace-tenant", tenant.encode())],
            "client": ("127.0.0.1", 5),
            **(scope_changes or {}),
        }
        asyncio.run(requests.wrap_http(original)(None, scope, None, send))
        return sent, seen

    return serve


def test_a_refused_request_gets_429_in_openais_form_and_the_server_never_sees_it(server, tmp_path):
    refusals.write(tmp_path, {"acme": Refusal("acme-november", int(time.time()) + 3_600)}, time.time())
    (start, body), seen = server()
    assert seen == []
    assert start["status"] == 429
    headers = dict(start["headers"])
    assert 3_590 <= int(headers[b"retry-after"]) <= 3_600
    assert int(headers[b"content-length"]) == len(body["body"])
    error = json.loads(body["body"])["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", 429)
    assert "acme-november" in error["message"]


@pytest.mark.swallows
def test_an_error_in_admission_does_not_make_a_request_the_processs_own(server, monkeypatch):
    monkeypatch.setattr(requests.refusals, "refusal_of", lambda caller: 1 / 0)
    one = SimpleNamespace(request_id="a-0123abcd", external_req_id="a", trace_headers=None, pooling_params=None)
    _, seen = server(inside=lambda: requests.attach_context(one))
    context = request_context.decode(one.trace_headers[request_context.HEADER])
    assert seen == ["/v1/completions"]
    assert (context.tenant, context.tenant_source) == ("acme", "header")
    assert guard.failures == {"vllm.http": 1}


def test_a_rolling_budget_has_no_time_to_try_again(server, tmp_path):
    refusals.write(tmp_path, {"acme": Refusal("last-30-days", 0)}, time.time())
    (start, _), _ = server()
    assert b"retry-after" not in dict(start["headers"])


WORK = ["/v1/chat/completions", "/v1/chat/completions/batch", "/cohere/v2/chat", "/invocations", "/v2/embed/", "/score"]


@pytest.mark.parametrize("path", WORK)
def test_every_route_that_makes_an_engine_work_is_refused(server, tmp_path, path):
    refusals.write(tmp_path, {"acme": WHY}, time.time())
    (start, _), seen = server(path)
    assert (start["status"], seen) == (429, [])


@pytest.mark.parametrize(
    ("extensions", "types"),
    [
        ({"websocket.http.response": {}}, ["websocket.http.response.start", "websocket.http.response.body"]),
        (None, ["websocket.close"]),
    ],
    ids=["429", "closed"],
)
def test_a_websocket_is_refused_before_it_is_accepted(server, tmp_path, extensions, types):
    refusals.write(tmp_path, {"acme": WHY}, time.time())
    websocket = {"type": "websocket", "extensions": extensions}
    sent, seen = server("/v1/realtime", None, scope_changes=websocket)
    assert ([message["type"] for message in sent], seen) == (types, [])
    assert sent[0].get("status", 429) == 429
    assert server("/v1/realtime", None, "globex", scope_changes=websocket) == ([], ["/v1/realtime"])


@pytest.mark.parametrize(
    "request_",
    [
        {"tenant": "globex"},
        {"path": "/health", "method": "GET"},
        {"path": "/v1/models", "method": "GET"},
        {"path": "/tokenize"},
        {"path": "/v1/chat/completions/render"},
        {"path": "/sleep"},
        {"path": "/v1/responses/resp_1/cancel"},
        {"COSTTRACE_ADMISSION": "false"},
    ],
    ids=str,
)
def test_what_is_not_refused_reaches_the_server(server, tmp_path, request_):
    refusals.write(tmp_path, {"acme": WHY}, time.time())
    sent, seen = server(**request_)
    assert (sent, seen) == ([], [request_.get("path", "/v1/completions")])


def test_a_tenant_that_an_adapter_may_name_is_not_refused_before_it_is_known(server, tmp_path):
    refusals.write(tmp_path, {"default": WHY}, time.time())
    assert server(tenant="")[1] == []
    assert server(tenant="", COSTTRACE_TENANT_MODELS="lora=acme")[1] == ["/v1/completions"]
