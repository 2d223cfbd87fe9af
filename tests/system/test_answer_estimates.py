"""A real server whose answers state what they have probably cost, read by OpenAI's own client, against the ledger."""

import json
import logging
import subprocess
import threading
import urllib.request
from contextlib import contextmanager
from datetime import UTC
from decimal import Decimal
from pathlib import Path

import pytest
from costtrace_lab.demo.processes import wait_until
from costtrace_ui.web.responses import Responder
from costtrace_ui.web.server import AccessPolicy, Server, load_style
from http_client import CHAT, COMPLETIONS, RESPONSES, Ask, ask_all, chat, completion, tenant
from served_vllm import serving
from vllm_server import BUILD, ENVIRONMENTS, need

pytestmark = [pytest.mark.heavy, pytest.mark.vllm, pytest.mark.timeout(400)]

CLIENT = Path(__file__).parents[1] / "support" / "openai_client.py"
TOLD_S = 90.0
"""The agent writes what requests cost every few seconds, more rarely on a machine that is busy with tests."""
KINDS = ("chat", "completion", "chat-streamed", "completion-streamed")
STREAMED = ("chat-streamed", "completion-streamed")
HEADERS = ("x-costtrace-cost-estimate", "x-costtrace-cost-currency")
log = logging.getLogger(__name__)


def as_client(environment, url, name, *kinds, model="tiny-model"):
    """What OpenAI's client understood of an answer of each kind, asked for by tenant *name*."""
    python = environment / "venv" / "bin" / "python"
    done = subprocess.run(
        [python, CLIENT, url, name, model, *kinds], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def stated(answer):
    return answer["usage"].get("cost_details")


@contextmanager
def final_figures(home):
    """Asks `GET /v1/requests/{id}` for the final figure of a request; of it, the exact cost."""
    server = Server(AccessPolicy("127.0.0.1", ""), 0, Responder(home.path, load_style(), UTC))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def ask(request_id):
        url = f"http://127.0.0.1:{server.server_address[1]}/v1/requests/{request_id}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            (row,) = json.load(answer)["requests"]
        return row

    try:
        yield ask
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def like_before(number):
    """Requests of one tenant, of which several run at once, each time in the same way."""
    asks = [Ask(CHAT, chat(f"{number} {n} bottles", 12 + n), [tenant("acme")]) for n in range(12)]
    mown = [Ask(COMPLETIONS, completion(f"{number} {n} men went to mow " * 8, 9), [tenant("acme")]) for n in range(4)]
    return asks + mown


@pytest.fixture(scope="module")
def adapter():
    return need(BUILD / "tiny-lora", "model")


@pytest.fixture(scope="module", params=ENVIRONMENTS, ids=lambda path: path.name)
def world(request, tiny_model, adapter, tmp_path_factory):
    """A server with a tenant that has asked before, and what it said before anything was known."""
    environment = need(request.param, "setup-vllm").parent / request.param.name
    arguments = ("--enable-lora", "--lora-modules", f"tuned={adapter}", "--enable-prompt-tokens-details")
    variables = {"COSTTRACE_COST_ESTIMATES": "tenant"}
    with serving(environment, tiny_model, tmp_path_factory.mktemp("est"), args=arguments, variables=variables) as made:
        made.environment = environment
        made.at_first = made.ask(CHAT, chat(), tenant("acme"))
        for number in range(2):
            made.home.wait_for(ask_all(made.url, like_before(number)))
        assert wait_until(lambda: "cost" in made.ask(CHAT, chat(), tenant("acme")).usage, TOLD_S, 0.5), made.home.log()
        made.answers = as_client(environment, made.url, "acme", *KINDS, "chat-streamed-without-usage")
        yield made


def test_before_anything_is_known_there_is_the_id_and_no_estimate(world):
    assert world.at_first.headers["x-costtrace-request-id"] == world.at_first.id
    assert not {"cost", "cost_details"} & world.at_first.usage.keys()
    assert not set(HEADERS) & world.at_first.headers.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_openais_client_reads_an_estimate_that_says_so(world, kind):
    answer = world.answers[kind]
    details = stated(answer)
    assert details["estimate"] is True
    assert details["currency"] == "USD"
    assert details["request_id"] == answer["id"] == answer["headers"]["x-costtrace-request-id"]
    assert answer["usage"]["cost"] == float(details["amount"]) > 0
    assert "requests of this tenant for this model" in details["basis"]


def test_the_headers_of_a_whole_answer_have_it_too_and_those_of_a_stream_cannot(world):
    for kind in KINDS:
        headers = {name: world.answers[kind]["headers"].get(name) for name in HEADERS}
        wanted = (None, None) if kind in STREAMED else (stated(world.answers[kind])["amount"], "USD")
        assert tuple(headers.values()) == wanted


def test_a_stream_states_it_once_at_its_end_and_only_where_usage_was_asked_for(world):
    for kind in STREAMED:
        assert ["cost" in usage for usage in world.answers[kind]["stated"]] == [True]
    assert world.answers["chat-streamed-without-usage"]["stated"] == []


def test_usage_in_the_middle_of_a_stream_is_as_it_was(world):
    reply = world.ask(COMPLETIONS, completion("Once upon a time", 12, stream=True), tenant("acme"))
    usages = [event["usage"] for event in reply.events]
    assert len(usages) > 5
    assert ["cost" in usage for usage in usages] == [False] * (len(usages) - 1) + [True]


def test_a_tenant_or_adapter_without_a_history_of_its_own_is_told_nothing(world):
    for name, model in (("globex", "tiny-model"), ("acme", "tuned")):
        reply = world.ask(CHAT, chat() | {"model": model}, tenant(name))
        assert reply.status == 200
        assert not {"cost", "cost_details"} & reply.usage.keys()
        assert not set(HEADERS) & reply.headers.keys()


def test_the_final_figure_is_where_the_answer_says_and_is_of_the_same_order(world):
    """Over requests that share steps as those did that the means are from; one alone costs more than a mean says."""
    replies = ask_all(world.url, like_before(2))
    world.home.wait_for(replies)
    with final_figures(world.home) as ask:
        final = [int(ask(reply.usage["cost_details"]["request_id"])["cost_nano"]) for reply in replies]
        alone = [int(ask(stated(world.answers[kind])["request_id"])["cost_nano"]) for kind in KINDS]
    estimated = [int(Decimal(reply.usage["cost_details"]["amount"]) * 10**9) for reply in replies]
    ratios = sorted(one / other for one, other in zip(estimated, final, strict=True))
    log.info(
        "estimate over final figure: %.2f of all together, %.2f to %.2f of each; of requests alone %s",
        *(sum(estimated) / sum(final), ratios[0], ratios[-1]),
        [round(world.answers[kind]["usage"]["cost"] * 1e9 / one, 2) for kind, one in zip(KINDS, alone, strict=True)],
    )
    assert 1 / 100 < sum(estimated) / sum(final) < 100


def test_messages_have_it_in_their_headers_and_responses_have_the_id_only(world):
    messages = {"model": "tiny-model", "max_tokens": 7, "messages": [{"role": "user", "content": "Hello"}]}
    said = world.ask("/v1/messages", messages, tenant("acme"))
    assert float(said.headers["x-costtrace-cost-estimate"]) > 0
    other = world.ask(RESPONSES, {"model": "tiny-model", "input": "Hello", "max_output_tokens": 9}, tenant("acme"))
    assert "x-costtrace-cost-estimate" not in other.headers
    for reply in (said, other):
        assert reply.status == 200
        assert reply.headers["x-costtrace-request-id"]
        assert not {"cost", "cost_details"} & reply.usage.keys()


def test_no_answer_was_harmed(world):
    errors = list((world.home.path / "run").glob("frontend-*.json"))
    assert errors
    for path in errors:
        said = json.loads(path.read_text())
        assert said["swallowed_errors"] == {}
        assert not [name for name in said["lost_hooks"] if name.startswith("answer")]


def test_an_embedding_states_it_too(vllm_environment, tmp_path):
    model = need(BUILD / "tiny-embedder", "model")
    variables = {"COSTTRACE_COST_ESTIMATES": "model"}
    with serving(vllm_environment, model, tmp_path, args=("--runner", "pooling"), variables=variables) as made:

        def answer():
            return as_client(vllm_environment, made.url, "acme", "embedding")["embedding"]

        asks = [
            Ask("/v1/embeddings", {"model": "tiny-model", "input": f"{n} bottles"}, [tenant("globex")])
            for n in range(20)
        ]
        assert {reply.status for reply in ask_all(made.url, asks)} == {200}
        assert wait_until(lambda: stated(answer()), TOLD_S, 2.0), made.home.log()
        reply = answer()
        assert "requests of all tenants for this model" in stated(reply)["basis"]
        assert reply["headers"]["x-costtrace-cost-estimate"] == stated(reply)["amount"]
