"""What a worker passes on to its engine: each request's id, trace, tenant and role, and its own role and id."""

import os
import threading
from types import SimpleNamespace

import pytest
from costtrace_dynamo import hooks
from costtrace_vllm import request_context
from costtrace_vllm.engine_side import describe
from costtrace_vllm.engine_side.sequences import Sequences
from costtrace_vllm.request_context import HEADER
from costtrace_vllm.server_side import requests

from costtrace.core import guard
from costtrace.core.events import COUNTED_PROMPT, COUNTED_REQUEST, HANDS_OVER
from costtrace.core.rows import JOINED

ID = "0a1b2c3d-0000-4000-8000-00000000000f"
TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


class Context:
    def __init__(self, metadata=None, headers=None, name=ID):
        self.metadata, self._headers, self._name = metadata or {}, headers, name

    def id(self):
        return self._name

    def trace_headers(self):
        return self._headers


class Handler:
    config = SimpleNamespace(disaggregation_mode=SimpleNamespace(value="prefill"))

    async def generate(self, request, context):
        yield request, context


def engine_request(number=0, name=ID):
    internal = f"{number}_{name}-0123abcd" if number else f"{name}-0123abcd"
    return SimpleNamespace(request_id=internal, external_req_id=name, trace_headers=None, pooling_params=None)


def test_a_part_reaches_its_engine_with_its_request_its_trace_its_tenant_and_its_role():
    wrapped = hooks.wrap_generate(Handler.generate)
    handed = Context({"tenant": "acme"}, {"traceparent": TRACE, "request-id": ID})
    assert wrapped(Handler(), {"token_ids": [1]}, handed).__class__.__name__ == "async_generator"
    sent = engine_request()
    thread = threading.Thread(target=requests.attach_context, args=(sent,))  # a context variable is not inherited
    thread.start()
    thread.join()
    header = sent.trace_headers[HEADER]
    context = request_context.decode(header)
    assert (context.request_key, context.request_id, context.role) == (JOINED + ID, ID, "prefill")
    assert (context.tenant, context.tenant_source, context.traceparent) == ("acme", "metadata:tenant", TRACE)
    added = Sequences("tiny", context.boot).add(context.arrived_ns, sent.request_id, header, 18, "", False)
    assert (added.role, added.request_key, added.tenant, added.prompt_key) == (
        "prefill", JOINED + ID, "acme", f"{ID}-0123abcd",
    )  # fmt: skip


def test_without_metadata_and_trace_the_request_is_still_joined():
    hooks.register_context({}, Context(), "decode")
    requests.attach_context(sent := engine_request())
    context = request_context.decode(sent.trace_headers[HEADER])
    assert (context.tenant, context.tenant_source, context.traceparent) == ("default", "default", "")
    assert (context.request_key, context.role) == (JOINED + ID, "decode")


@pytest.mark.parametrize(
    ("name", "role", "request_", "key", "elsewhere"),
    [
        (ID, "prefill", {}, ID, HANDS_OVER),
        (ID, "decode", {"prefill_result": {"disaggregated_params": {}}}, ID, COUNTED_PROMPT),
        (ID, "decode", {}, ID, 0),  # a decode worker computes a short prompt itself
        (f"{ID}-0", "aggregated", {}, f"{ID}/0", 0),
        (f"{ID}-11", "aggregated", {}, f"{ID}/11", COUNTED_REQUEST),
        ("own-1", "aggregated", {}, "own-1", 0),
    ],
)
def test_what_of_a_part_is_counted_with_another(name, role, request_, key, elsewhere):
    hooks.register_context(request_, Context(name=name), role)
    requests.attach_context(sent := engine_request(name=name))
    context = request_context.decode(sent.trace_headers[HEADER])
    assert (context.request_key, context.request_id, context.elsewhere) == (JOINED + key, name, elsewhere)
    requests.attach_context(second := engine_request(1, name))
    both = request_context.decode(second.trace_headers[HEADER]).elsewhere
    assert both == elsewhere | COUNTED_REQUEST | COUNTED_PROMPT


def test_sequences_of_one_request_share_its_prompt():
    hooks.register_context({}, Context({"tenant": "acme"}), "aggregated")
    keys = set()
    for number in (1, 2):
        requests.attach_context(sent := engine_request(number))
        keys.add(request_context.decode(sent.trace_headers[HEADER]).prompt_key)
    assert len(keys) == 1


@pytest.mark.swallows
def test_a_request_is_served_even_if_its_context_cannot_be_read():
    before = guard.failures.get("dynamo.generate", 0)
    assert hooks.wrap_generate(lambda *_: "served")(Handler(), {}, object()) == "served"
    assert guard.failures["dynamo.generate"] == before + 1


@pytest.mark.parametrize(("mode", "role"), [("agg", "aggregated"), ("prefill", "prefill"), ("decode", "decode")])
def test_a_workers_engine_gets_its_role_and_the_id_that_dynamo_gave_it(monkeypatch, mode, role):
    monkeypatch.delenv(hooks.ROLE, raising=False)
    monkeypatch.delenv(hooks.WORKER, raising=False)
    config = SimpleNamespace(disaggregation_mode=SimpleNamespace(value=mode))
    started = hooks.wrap_setup(lambda config, fpm_worker_id=None: dict(os.environ))(config, fpm_worker_id="77")
    assert (started[hooks.ROLE], started[hooks.WORKER]) == (role, "77")
    hooks._describe_engine(None)
    both = SimpleNamespace(kv_transfer_config=SimpleNamespace(kv_role="kv_both"))
    assert describe.role_of(both) == role
    assert describe.settings_of(both)["dynamo_worker"] == "77"
