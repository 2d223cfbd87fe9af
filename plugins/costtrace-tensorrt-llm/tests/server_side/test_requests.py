"""Who asks: from HTTP or Dynamo onto the server's request, and from there to every rank."""

import asyncio
import pickle
from types import SimpleNamespace

import pytest
from costtrace_tensorrt_llm import request_context
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.server_side import requests
from double.executor import RequestQueueItem


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
    monkeypatch.setattr(GenerationRequest, "__init__", requests.wrap_label(GenerationRequest.__init__))
    monkeypatch.setattr(RequestQueueItem, "__init__", requests.wrap_queue_item(RequestQueueItem.__init__))
    monkeypatch.setattr(RequestQueueItem, "__setstate__", requests.unpack_queue_item, raising=False)
    return process.contexts


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
        context = request_context.decode(text)
        assert (context.tenant, context.tenant_source, context.traceparent) == ("acme", "header", PARENT)
        assert context.operation == "chat"
    path._by_id.clear()  # another rank
    pickle.loads(worker.sent)
    assert request_context.decode(path.of(8, -1, -1)).tenant == "acme"
    assert request_context.decode(path.of(9, -1, -1)).tenant == "acme"


def test_a_client_that_is_not_trusted_cannot_name_a_tenant(path):
    request = serve([(b"x-costtrace-tenant", b"neighbour")], client=("203.0.113.9", 1))
    context = request_context.decode(request_context.text_on(request))
    assert (context.tenant, context.tenant_source) == ("default", "rejected:untrusted")


def test_a_request_that_comes_without_http_is_the_processs_own_and_keeps_its_trace(path):
    adapter = SimpleNamespace(lora_name="tuned")
    request = GenerationRequest([1], None, lora_request=adapter, trace_headers={"traceparent": PARENT})
    context = request_context.decode(request_context.text_on(request))
    assert (context.tenant_source, context.traceparent, context.model) == ("process", PARENT, "tuned")


@pytest.mark.parametrize("value", ["00-0-0-0", PARENT + "-more", None, 7])
def test_what_is_no_traceparent_is_not_passed_on(path, value):
    request = GenerationRequest([1], None, trace_headers={"traceparent": value})
    assert request_context.decode(request_context.text_on(request)).traceparent == ""


def test_no_text_of_a_prompt_is_carried(path):
    text = request_context.text_on(serve([(b"authorization", b"Bearer secret"), (b"cookie", b"crumb")]))
    assert "secret" not in text
    assert "crumb" not in text


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
    assert all((context.tenant, context.traceparent) == (asked, PARENT) for asked, context in made)
    assert len(made) == 4


def test_a_context_of_dynamo_without_anything_does_not_keep_the_request_from_being_served(path):
    async def generate_locally(self, request, context):
        yield request

    async def ask():
        return [answer async for answer in requests.wrap_dynamo(generate_locally)(None, "asked", object())]

    assert asyncio.run(ask()) == ["asked"]


def test_what_a_client_chooses_is_cut(path):
    parent, adapter = "cc" + PARENT[2:] + "-" + "x" * 1_000_000, SimpleNamespace(lora_name="l" * 1_000_000)
    request = GenerationRequest([1], None, lora_request=adapter, trace_headers={"traceparent": parent})
    context = request_context.decode(request_context.text_on(request))
    assert (len(context.traceparent), len(context.model)) == (273, 273)
    served = request_context.decode(request_context.text_on(serve([(b"traceparent", parent.encode())])))
    assert served.traceparent == context.traceparent
    assert len(requests._dynamo_key(SimpleNamespace(id=lambda: "d" * 1_000_000))[0]) == len("dynamo:") + 273
