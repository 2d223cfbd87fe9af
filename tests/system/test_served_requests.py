"""A real server, mixed traffic: every answered request is on the bill once, in its trace, and nothing else gets out."""

import base64
import http.client
import json
import os
import time
import urllib.parse
from collections import Counter
from contextlib import closing
from itertools import pairwise

import httpx
import msgspec
import pytest
from balance import KINDS
from costtrace_lab.demo.processes import wait_until
from http_client import CHAT, COMPLETIONS, RESPONSES, Ask, ask, ask_all, chat, completion, tenant
from otlp_receiver import attributes
from served_vllm import serving, settled, total

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

KEY = "sk-canary-5b1fPq0cWtl3yVQxkEJ7"
PROMPT = "canary Zanzibar 4471 wombat: the quick violet prompt"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
AUTHORIZED = ("authorization", f"Bearer {KEY}")
LONG = "Every request gets its share of the time, and the rows add up to the meter. " * 12
LIMIT = 150
BUDGETS = """
currency: USD
budgets:
  - {name: pocket-money, tenant: spendthrift, amount: 0.01, soft_percent: 1, hard_percent: 1}
"""
ENOUGH_TENANTS = 1_000
"""Above the metrics' limit; `test_thousands_of_tenants` is the heavy one."""


@pytest.fixture(scope="module")
def world(vllm_environment, tiny_model, tmp_path_factory):
    arguments = ("--max-num-batched-tokens", "256", "--enable-prompt-tokens-details", "--api-key", KEY)
    folder = tmp_path_factory.mktemp("requests")
    (folder / "budgets.yaml").write_text(BUDGETS)
    variables = {
        "COSTTRACE_TENANT_METRIC_LIMIT": str(LIMIT),
        "COSTTRACE_BUDGETS": str(folder / "budgets.yaml"),
        "COSTTRACE_ADMISSION": "true",
        "COSTTRACE_RESPONSE_HINTS": "true",
    }
    with serving(vllm_environment, tiny_model, folder, args=arguments, variables=variables) as made:
        yield made


def messages(**more):
    return {"model": "tiny-model", "max_tokens": 7, "messages": [{"role": "user", "content": "Hello"}], **more}


def responses(**more):
    return {"model": "tiny-model", "input": "Hello there", "max_output_tokens": 9, **more}


PAIR = ["one prompt", "another prompt, and a longer one"]
STOPS = {"tokens": 64, "stop": ["e", "a", "t", "o"]}
STOP_IDS = {"tokens": 64, "stop_token_ids": [100], "min_tokens": 5, "logit_bias": {"100": 100}}
CASES = {
    "chat": (CHAT, chat()),
    "chat-streamed": (CHAT, chat("Tell me more", 20, stream=True)),
    "completion": (COMPLETIONS, completion("Once upon a time", 30)),
    "completion-streamed": (COMPLETIONS, completion("Once upon a time", 31, stream=True)),
    "one-token": (CHAT, chat(tokens=1)),
    "two-answers": (CHAT, chat(n=2, temperature=1)),
    "three-answers-streamed": (COMPLETIONS, completion(n=3, stream=True, temperature=1)),
    "two-prompts": (COMPLETIONS, completion(PAIR, 6)),
    "two-prompts-two-answers-each": (COMPLETIONS, completion(PAIR, 6, n=2, temperature=1)),
    "the-same-prompt-twice": (COMPLETIONS, completion(["same prompt", "same prompt"], 6)),
    "token-ids": (COMPLETIONS, completion([[5, 6, 7, 8, 9], [11, 12]], 6)),
    "stop-string": (COMPLETIONS, completion("Stop soon", **STOPS)),
    "stop-string-streamed": (COMPLETIONS, completion("Stop soon", **STOPS, stream=True)),
    "stop-string-chat": (CHAT, chat("Stop soon", **STOPS)),
    "stop-string-of-two": (COMPLETIONS, completion("Stop soon", **STOPS, n=2, temperature=1)),
    "stop-token": (COMPLETIONS, completion(**STOP_IDS)),
    "stop-token-streamed": (CHAT, chat(**STOP_IDS, stream=True)),
    "end-of-sequence": (COMPLETIONS, completion(tokens=64, ignore_eos=False, logit_bias={"2": 100})),
    "long-prompt": (COMPLETIONS, completion(f"A story. {LONG}", 4)),
    "long-prompt-streamed": (CHAT, chat(f"Another one. {LONG}", 5, stream=True)),
    "log-probabilities": (COMPLETIONS, completion(tokens=5, logprobs=2)),
    "echo": (COMPLETIONS, completion(tokens=5, echo=True)),
    "responses": (RESPONSES, responses()),
    "responses-streamed": (RESPONSES, responses(stream=True)),
    "messages": ("/v1/messages", messages()),
    "messages-streamed": ("/v1/messages", messages(stream=True)),
    "json": (CHAT, chat(tokens=12, response_format={"type": "json_object"})),
}


@pytest.fixture(scope="module")
def replies(world):
    """What the server said to each case; all were in the engine together."""
    asks = [Ask(path, content, [tenant(name), AUTHORIZED]) for name, (path, content) in CASES.items()]
    replies = ask_all(world.url, asks)
    world.home.wait_for(replies)
    return dict(zip(CASES, replies, strict=True))


# -- every request once, as the server says --------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_an_answered_request_is_in_the_ledger_once_with_the_servers_own_tokens(world, replies, case):
    reply = replies[case]
    assert reply.status == 200, reply.text
    row = world.home.usage(reply.id)
    assert (row["tenant"], row["tenant_source"], row["model"]) == (case, "header", "tiny-model")
    assert (row["input_tokens"], row["output_tokens"]) == reply.tokens
    assert row["output_tokens"] > 0
    assert row["cached_tokens"] == reply.cached
    content = CASES[case][1]
    answers = content.get("n", 1) * (len(content["prompt"]) if isinstance(content.get("prompt"), list) else 1)
    assert row["sequences"] == answers
    if reply.reasons:  # responses and messages say it in words of their own
        assert json.loads(row["finish_reasons"]) == reply.reasons
    assert row["operation"] == ("text_completion" if CASES[case][0] == COMPLETIONS else "chat")
    assert world.home.one("SELECT count(*) FROM usage WHERE tenant = ?", case) == 1
    assert row["gpu_ns"] > 0
    assert row["cost_nano"] > 0
    assert row["arrived_ns"] <= row["scheduled_ns"] <= row["decode_ns_at"] <= row["ended_ns"]


@pytest.mark.parametrize("case", CASES)
def test_the_header_of_an_answer_leads_to_its_row(world, replies, case):
    known = replies[case].headers["x-costtrace-request-id"]
    assert world.home.one("SELECT tenant FROM usage WHERE ? IN (request_id, request_key)", known) == case
    assert world.home.usage(replies[case].id)["request_id"] == replies[case].id


def test_the_header_is_what_the_command_line_takes(world, replies):
    known = replies["chat-streamed"].headers["x-costtrace-request-id"]
    shown = world.home.command("requests", "--id", known, "--format", "json")
    assert shown.returncode == 0, shown.stderr
    assert replies["chat-streamed"].id in shown.stdout


def test_what_makes_no_engine_work_has_no_header(world):
    reply = ask(world.url, Ask("/tokenize", {"model": "tiny-model", "prompt": "x"}, [AUTHORIZED]))
    assert reply.status == 200, reply.text
    assert "x-costtrace-request-id" not in reply.headers


def test_a_prompt_beyond_the_batchs_budget_is_computed_in_chunks_and_counted_once(world, replies):
    row = world.home.usage(replies["long-prompt"].id)
    assert row["input_tokens"] > 256
    assert row["computed_tokens"] == row["input_tokens"] - row["cached_tokens"] + row["output_tokens"] - 1
    assert row["steps"] > row["output_tokens"]


def test_a_prefix_hit_is_what_the_server_says_and_is_not_paid_for(world):
    first, second = (
        world.ask(COMPLETIONS, completion(f"A shared prefix. {LONG}", 4), tenant("prefix"), AUTHORIZED)
        for _ in range(2)
    )
    world.home.wait_for([first, second])
    missed, hit = world.home.usage(first.id), world.home.usage(second.id)
    assert (missed["cached_tokens"], hit["cached_tokens"]) == (first.cached, second.cached)
    assert second.cached >= 128
    assert hit["computed_tokens"] == missed["computed_tokens"] - second.cached
    assert hit["input_tokens"] == missed["input_tokens"]


def test_two_requests_of_the_same_id_are_two_rows(world):
    """A client may choose the id of the response, and choose the same one again."""
    for number in (1, 2):
        reply = world.ask(COMPLETIONS, completion(tokens=number), ("x-request-id", "mine"), tenant("ids"), AUTHORIZED)
        assert reply.id == "cmpl-mine"
    ids = "SELECT output_tokens FROM usage WHERE request_id = 'cmpl-mine' ORDER BY usage_id"
    assert wait_until(lambda: len(world.home.rows(ids)) == 2, 20)
    assert [row[0] for row in world.home.rows(ids)] == [1, 2]


def test_a_beam_search_is_one_request_with_its_prompt_counted_once(world):
    reply = world.ask(COMPLETIONS, completion(tokens=5, n=2, use_beam_search=True), tenant("beams"), AUTHORIZED)
    assert reply.status == 200, reply.text
    rows = "SELECT * FROM usage WHERE tenant = 'beams'"
    assert wait_until(lambda: world.home.rows(rows), 20)
    time.sleep(1)
    (row,) = world.home.rows(rows)
    assert (row["request_id"], row["input_tokens"]) == (reply.id, reply.tokens[0])
    # The engine generated 1 + 4 x 2 tokens; the client is shown two beams of 5, which share the first.
    assert (row["output_tokens"], reply.tokens[1]) == (9, 10)


def test_a_client_that_leaves_pays_for_what_was_done_until_then(world):
    stream = Ask(COMPLETIONS, completion(tokens=800, stream=True), [tenant("left"), AUTHORIZED], hang_up_after=10)
    reply = ask(world.url, stream)
    assert reply.hung_up
    world.home.wait_for([reply])
    row = world.home.usage(reply.id)
    assert json.loads(row["finish_reasons"]) == ["abort"]
    assert (row["input_tokens"], row["tenant"]) == (reply.tokens[0], "left")
    assert reply.tokens[1] <= row["output_tokens"] < 800
    assert row["output_tokens"] - 1 <= row["computed_tokens"] - row["input_tokens"] <= row["output_tokens"] + 2
    assert row["gpu_ns"] > 0
    assert row["wasted_ns"] == row["gpu_ns"]
    assert row["cost_nano"] > 0


def test_a_client_that_leaves_without_a_word_of_answer_pays_too(world):
    """It waits for a whole answer, and hangs up before there is one."""
    headers = [tenant("silent"), ("x-request-id", "silent"), AUTHORIZED]
    rows = "SELECT * FROM usage WHERE tenant = 'silent'"
    for pause_s in (0.2, 1, 3):  # a busy server may not have taken the request by then
        ask(world.url, Ask(COMPLETIONS, completion(LONG, tokens=100), headers, hang_up_s=pause_s))
        if wait_until(lambda: world.home.rows(rows), 30):
            break
    (row,) = world.home.rows(rows)
    assert row["request_id"] == "cmpl-silent"
    assert json.loads(row["finish_reasons"]) in (["abort"], ["length"])  # a busy machine may notice late
    assert row["output_tokens"] <= 100


def test_what_is_refused_is_answered_and_on_nobodys_bill(world):
    before = world.home.one("SELECT count(*) FROM usage")
    refused = [
        world.ask(COMPLETIONS, {**completion(), "model": "another"}, tenant("refused"), AUTHORIZED),
        world.ask(COMPLETIONS, completion("x " * 3_000), tenant("refused"), AUTHORIZED),
        world.ask(COMPLETIONS, completion(), tenant("refused")),
        world.ask(COMPLETIONS, completion(), tenant("refused"), ("authorization", "Bearer wrong")),
    ]
    assert [reply.status for reply in refused] == [404, 400, 401, 401]
    world.answered(COMPLETIONS, completion(tokens=2), tenant("after"), AUTHORIZED)
    assert world.home.one("SELECT count(*) FROM usage") == before + 1


# -- traces -----------------------------------------------------------------------------------------------------------


def spans_of(world, row):
    """The request's span, and its children."""
    mine = {"costtrace.record.id": row["record_id"]}

    def roots():
        return [span for span in world.receiver.roots if mine.items() <= attributes(span).items()]

    assert world.receiver.wait(roots), row["record_id"]
    (root,) = roots()
    assert world.receiver.wait(lambda: len(children(world, root)) == 3)
    return root, children(world, root)


def children(world, root):
    return [span for span in world.receiver.spans if span.parent_span_id == root.span_id]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_with_a_traceparent_is_a_child_of_its_caller_in_that_trace(world, streamed):
    trace = os.urandom(16).hex()
    header = ("traceparent", f"00-{trace}-{CALLER}-01")
    row = world.answered(CHAT, chat(tokens=12, stream=streamed), header, tenant("traced"), AUTHORIZED)
    root, parts = spans_of(world, row)
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (trace, CALLER)
    assert {span.trace_id for span in parts} == {root.trace_id}
    assert [span.name for span in sorted(parts, key=lambda span: span.start_time_unix_nano)] == [
        "costtrace.queue",
        "costtrace.prefill",
        "costtrace.decode",
    ]
    for span in parts:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (row["arrived_ns"], row["ended_ns"])
    values = attributes(root)
    assert values["costtrace.gpu.time"] == row["gpu_ns"] / 1e9
    assert values["costtrace.cost.amount"] == row["cost_nano"] / 1e9
    assert (values["costtrace.cost.currency"], values["tenant.id"]) == ("USD", "traced")
    assert (values["gen_ai.usage.input_tokens"], values["gen_ai.usage.output_tokens"]) == (16, 12)
    assert values["gen_ai.response.finish_reasons"] == ("length",)


def test_requests_without_a_traceparent_each_have_a_trace_of_their_own(world):
    rows = [world.answered(CHAT, chat(tokens=2), tenant("alone"), AUTHORIZED) for _ in range(2)]
    roots = [spans_of(world, row)[0] for row in rows]
    assert [span.parent_span_id for span in roots] == [b"", b""]
    assert len({span.trace_id for span in roots}) == 2


def test_the_answers_and_prompts_of_one_request_are_one_span(world):
    trace = os.urandom(16).hex()
    content = completion(PAIR, 6, n=2, temperature=1)
    row = world.answered(COMPLETIONS, content, ("traceparent", f"00-{trace}-{CALLER}-01"), AUTHORIZED)
    root, _ = spans_of(world, row)
    assert root.trace_id.hex() == trace
    assert attributes(root)["costtrace.request.sequences"] == 4
    assert [span for span in world.receiver.roots if span.trace_id.hex() == trace] == [root]


def test_a_request_has_its_workload_and_its_route_in_the_ledger_and_on_its_span(world):
    workload = ("x-costtrace-workload", "nightly summaries")
    row = world.answered(CHAT, chat(tokens=2), tenant("labelled"), workload, AUTHORIZED)
    assert json.loads(row["labels"]) == {"workload": "nightly summaries", "route": "chat/completions"}
    values = attributes(spans_of(world, row)[0])
    assert values["costtrace.label.workload"] == "nightly summaries"
    assert values["costtrace.label.route"] == "chat/completions"
    row = world.answered(RESPONSES, responses(), tenant("labelled"), AUTHORIZED)
    assert json.loads(row["labels"]) == {"route": "responses"}


def upgraded(world, path, *headers):
    """The status by which a websocket is answered."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(world.url).netloc, timeout=20)
    with closing(connection):
        connection.request("GET", path, headers={**upgrade, **key, **dict(headers)})
        return connection.getresponse().status


def test_a_tenant_above_its_hard_budget_is_refused_and_the_others_are_served(world):
    spend = Ask(COMPLETIONS, completion("Money is no object", 60), [tenant("spendthrift"), AUTHORIZED])
    served = []

    def refused():
        reply = ask(world.url, spend)
        served.extend([reply.id] if reply.status == 200 else [])
        return reply.status == 429

    assert wait_until(refused, 90, 0.2)
    reply = ask(world.url, spend)
    assert reply.status == 429
    assert "pocket-money" in reply.text
    others = {"/invocations": completion(), "/v1/chat/completions/batch": chat(), "/v1/embeddings": {"input": "x"}}
    for path, content in others.items():
        assert ask(world.url, Ask(path, content, [tenant("spendthrift"), AUTHORIZED])).status == 429, path
    assert upgraded(world, "/v1/realtime", tenant("spendthrift")) == 429
    assert upgraded(world, "/v1/realtime", tenant("thrifty")) != 429
    assert ask(world.url, Ask(COMPLETIONS, completion(tokens=2), [tenant("thrifty"), AUTHORIZED])).status == 200
    ids = "SELECT request_id FROM usage WHERE tenant = 'spendthrift'"
    assert wait_until(lambda: {row[0] for row in world.home.rows(ids)} == set(served), 60), "a refusal is no request"
    assert wait_until(lambda: total(world.metrics(), "costtrace_admission_refused_total") >= 2, 30)


def test_a_trace_that_is_not_sampled_has_no_span_and_stands_on_the_bill(world):
    trace = os.urandom(16).hex()
    header = ("traceparent", f"00-{trace}-{CALLER}-00")
    row = world.answered(CHAT, chat(tokens=12), header, tenant("unsampled"), AUTHORIZED)
    assert (row["traceparent"], row["output_tokens"]) == (header[1], 12)
    assert row["cost_nano"] > 0
    assert wait_until(lambda: total(world.metrics(), "costtrace_requests_total", tenant="unsampled") == 1, 10)
    spans_of(world, world.answered(CHAT, chat(tokens=2), tenant("later"), AUTHORIZED))
    assert [span for span in world.receiver.spans if span.trace_id.hex() == trace] == []


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_the_prometheus_endpoint_adds_up_to_the_ledger(world, replies):
    shown, ledger = settled(world)

    def kept(sql):
        return ledger.execute(sql).fetchone()[0]

    for name, sql, unit in (
        ("costtrace_gpu_time_seconds_total", "SELECT sum(gpu_ns) FROM posting", 10**9),
        ("costtrace_cost_total", "SELECT sum(device_nano + energy_nano) FROM posting", 10**9),
        ("costtrace_wasted_gpu_time_seconds_total", "SELECT sum(wasted_ns) FROM posting", 10**9),
        ("costtrace_requests_total", "SELECT count(*) FROM usage", 1),
        ("costtrace_tokens_total", "SELECT sum(input_tokens + output_tokens) FROM usage", 1),
    ):
        assert total(shown, name) == pytest.approx(kept(sql) / unit, rel=1e-9), name
    for kind, gpu_ns in ledger.execute("SELECT kind, sum(gpu_ns) FROM posting GROUP BY 1"):
        assert gpu_ns > 0
        assert total(shown, "costtrace_gpu_time_seconds_total", kind=kind) == pytest.approx(gpu_ns / 1e9, rel=1e-9)
    for kind in KINDS:
        due = kept(f"SELECT sum({kind}_ns) FROM meter") / 1e9
        assert total(shown, "costtrace_device_time_seconds_total", kind=kind) == pytest.approx(due, rel=1e-9)


@pytest.mark.parametrize("case", ["chat", "two-prompts-two-answers-each", "long-prompt"])
def test_the_metrics_of_a_tenant_are_its_row(world, replies, case):
    row, shown = world.home.usage(replies[case].id), world.metrics()
    seconds = total(shown, "costtrace_gpu_time_seconds_total", tenant=case)
    assert seconds == pytest.approx(row["gpu_ns"] / 1e9, rel=1e-9)
    tokens = {kind: total(shown, "costtrace_tokens_total", tenant=case, type=kind) for kind in ("input", "output")}
    assert tokens == {"input": row["input_tokens"] - row["cached_tokens"], "output": row["output_tokens"]}
    assert total(shown, "costtrace_cost_total", tenant=case) == pytest.approx(row["cost_nano"] / 1e9, rel=1e-9)


# -- hostile input ----------------------------------------------------------------------------------------------------

HOSTILE = {
    "10 kB": ([tenant("x" * 10_000)], "default", "rejected:invalid"),
    "binary": ([tenant(bytes(range(128, 256)))], "default", "rejected:invalid"),
    "UTF-8": ([tenant("Müller".encode())], "default", "rejected:invalid"),
    "empty": ([tenant("")], "default", "rejected:invalid"),
    "our own row": ([tenant("__other__")], "default", "rejected:invalid"),
    "twice": ([tenant("a"), tenant("b")], "default", "rejected:invalid"),
    "a list": ([tenant("a, b")], "default", "rejected:invalid"),
    "twice the same": ([tenant("same"), tenant("same")], "same", "header"),
    "a thousand times": ([tenant("a")] * 90, "a", "header"),
    "SQL": ([tenant("x'); DROP TABLE usage; --")], "x'); DROP TABLE usage; --", "header"),
    "a path": ([tenant("../../etc/passwd")], "../../etc/passwd", "header"),
    "a template": ([tenant("{0.__class__} %s %n ${HOME}")], "{0.__class__} %s %n ${HOME}", "header"),
    "our header": ([("x-costtrace", '["k","r","p","chat","victim","header"]')], "default", "default"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_any_tenant_header_is_answered_and_booked_to_somebody(world, name):
    headers, who, source = HOSTILE[name]
    row = world.answered(COMPLETIONS, completion(tokens=2), *headers, AUTHORIZED)
    assert (row["tenant"], row["tenant_source"]) == (who, source)


GOOD = f"00-{TRACE}-{CALLER}-01"
TRACEPARENTS = {
    "garbage": [("traceparent", "garbage")],
    "binary": [("traceparent", b"\xff\xfe\x80")],
    "no trace": [("traceparent", f"00-{'0' * 32}-{CALLER}-01")],
    "no caller": [("traceparent", f"00-{TRACE}-{'0' * 16}-01")],
    "forbidden version": [("traceparent", f"ff-{TRACE}-{CALLER}-01")],
    "upper case": [("traceparent", GOOD.upper())],
    "too long": [("traceparent", GOOD + "x" * 5_000)],
    "twice": [("traceparent", GOOD), ("traceparent", GOOD.replace("4", "5"))],
    "empty": [("traceparent", "")],
}


@pytest.mark.parametrize("name", TRACEPARENTS)
def test_a_traceparent_that_is_none_leads_to_a_trace_of_its_own(world, name):
    row = world.answered(COMPLETIONS, completion(tokens=2), *TRACEPARENTS[name], AUTHORIZED)
    assert row["traceparent"] == ""
    root, _ = spans_of(world, row)
    assert root.parent_span_id == b""
    assert root.trace_id.hex() != TRACE


def test_odd_request_ids_are_kept_as_they_are(world):
    for name in ("quote\" ' \\ %s", b"\xff\xfe"):
        reply = world.ask(COMPLETIONS, completion(tokens=2), ("x-request-id", name), AUTHORIZED)
        assert reply.status == 200, reply
        world.home.wait_for([reply])
        assert world.home.usage(reply.id)["output_tokens"] == 2


def test_a_long_request_id_is_cut_and_its_request_is_billed(world):
    reply = world.ask(COMPLETIONS, completion(tokens=2), ("x-request-id", "r" * 5_000), AUTHORIZED)
    assert (reply.status, len(reply.id)) == (200, 5_005)
    sql = "SELECT request_id, output_tokens FROM usage WHERE request_id LIKE ? || '%'"
    assert wait_until(lambda: world.home.rows(sql, reply.id[:256]), 30)
    ((kept, tokens),) = world.home.rows(sql, reply.id[:256])
    assert (len(kept), kept[256], tokens) == (273, "#", 2)


def test_more_tenants_than_metrics_can_show_are_all_on_the_bill(world):
    send_tenants(world, "many", ENOUGH_TENANTS)


@pytest.mark.heavy
def test_thousands_of_tenants_are_all_on_the_bill(world):
    send_tenants(world, "very-many", 5_000)


def send_tenants(world, prefix, count):
    asks = [Ask(COMPLETIONS, completion(tokens=1), [tenant(f"{prefix}-{n}"), AUTHORIZED]) for n in range(count)]
    replies = ask_all(world.url, asks, workers=48)
    assert Counter(reply.status for reply in replies) == {200: count}
    world.home.wait_for(replies)
    rows = world.home.rows("SELECT tenant, count(*) FROM usage WHERE tenant LIKE ? GROUP BY 1", f"{prefix}-%")
    assert {row[0]: row[1] for row in rows} == {f"{prefix}-{n}": 1 for n in range(count)}

    shown, ledger = settled(world)
    requests = [sample for sample in shown if sample.name == "costtrace_requests_total"]
    rows = ledger.execute("SELECT count(*) FROM usage").fetchone()[0]
    assert sum(sample.value for sample in requests) == rows
    tenants = {sample.labels["tenant"] for sample in requests}
    assert "__other__" in tenants
    assert len(tenants) <= LIMIT + 1
    assert wait_until(lambda: world.home.one("SELECT usage_id FROM cursor") == rows, 60), "all have been sent"
    sent = Counter(span.span_id for span in world.receiver.roots)
    assert set(sent.values()) == {1}


# -- nothing of what they said ----------------------------------------------------------------------------------------


def forms(text):
    """Ways in which a text could lie on a disk or go over a wire."""
    raw = text.encode()
    yield from (raw, raw.hex().encode(), raw.hex().upper().encode(), raw[::-1])
    yield from (text.encode(name) for name in ("utf-16-le", "utf-16-be", "utf-32-le"))
    # Base64 depends on where the text begins; its middle does not change.
    yield from (base64.b64encode(b"x" * shift + raw)[4:-4] for shift in range(3))
    yield text.replace(" ", "+").encode()
    yield text.replace(" ", "%20").encode()


def token_forms(ids):
    yield msgspec.msgpack.encode(ids)[1:]
    yield b"".join(n.to_bytes(8, "little") for n in ids)
    yield b"".join(n.to_bytes(4, "little") for n in ids)
    for separator in (",", ", ", " "):
        yield separator.join(map(str, ids)).encode()


def everything(world):
    """All bytes that costtrace has written, sent or said, by where they are."""
    contents = {str(path): path.read_bytes() for path in sorted(world.home.path.rglob("*")) if path.is_file()}
    contents |= {f"export {n}": body for n, body in enumerate(world.receiver.bodies)}
    contents["metrics"] = httpx.get(world.prometheus).content
    lines = world.server.log_path.read_bytes().split(b"\n")
    contents["what it says in vLLM's log"] = b"\n".join(line for line in lines if b"costtrace" in line.lower())
    return contents


def test_neither_prompts_nor_answers_nor_keys_are_written_or_sent(world):
    ids = httpx.post(
        f"{world.url}/tokenize", json={"model": "tiny-model", "prompt": PROMPT}, headers=dict([AUTHORIZED])
    ).json()["tokens"]
    others = [("cookie", f"session={KEY}"), ("x-api-key", KEY), ("baggage", f"key={KEY}"), ("tracestate", f"a={KEY}")]
    asks = [
        Ask(COMPLETIONS, completion(PROMPT, 6, echo=True), [tenant("canary"), AUTHORIZED, *others]),
        Ask(COMPLETIONS, completion(ids, 6, stop=[PROMPT]), [tenant("canary"), AUTHORIZED]),
        Ask(CHAT, chat(PROMPT, 6, stream=True, user=KEY), [tenant("canary"), AUTHORIZED]),
        Ask(CHAT, chat("x", 600, stream=True, stop=[PROMPT]), [tenant("canary"), AUTHORIZED], hang_up_after=5),
        Ask(RESPONSES, responses(input=PROMPT, instructions=PROMPT), [tenant("canary"), AUTHORIZED]),
        Ask(COMPLETIONS, {**completion(PROMPT), "model": PROMPT}, [tenant("canary"), AUTHORIZED]),
        Ask(COMPLETIONS, completion(PROMPT), [tenant("canary"), ("authorization", f"Bearer {KEY}-not")]),
        Ask(COMPLETIONS, completion(PROMPT * 300), [tenant("canary"), AUTHORIZED]),
    ]
    replies = ask_all(world.url, asks)
    assert PROMPT in json.dumps(replies[0].events), "the server has echoed it"
    world.home.wait_for(replies)
    time.sleep(2.5)  # another window, another export of metrics
    answers = [choice["text"] for body in replies[1].bodies for choice in body["choices"]]
    haystacks = everything(world)
    secrets = [what for what in (PROMPT, KEY, KEY.removeprefix("sk-"), *answers) if len(what) > 5]
    needles = {needle: what for what in secrets for needle in forms(what)}
    needles |= dict.fromkeys(token_forms(ids[:12]), "token ids")
    leaks = [
        (where, what) for where, content in haystacks.items() for needle, what in needles.items() if needle in content
    ]
    assert leaks == []
    # The same search finds what has to be there, in each kind of place.
    for kind, word in (
        ("ledger.sqlite", "canary"),
        (".ctj", "canary"),
        ("export", "canary"),
        ("metrics", "tiny-model"),
    ):
        assert any(kind in where and word.encode() in content for where, content in haystacks.items()), kind


def test_everything_is_for_its_owner_only(world, replies):
    for path in (world.home.path, *world.home.path.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


# -- the trial balance ------------------------------------------------------------------------------------------------


def test_after_all_of_this_the_books_balance_while_it_runs_and_when_it_has_ended(world, replies):
    world.home.verify()
    world.home.check_open_books()
    world.server.stop()
    world.home.wait_closed()
    world.home.verify()
    world.home.check_closed_books()
    assert world.home.one("SELECT sum(gpu_ns) FROM posting WHERE kind = 'unobserved'") is None
    reasons = {row[0] for row in world.home.rows("SELECT DISTINCT reason FROM posting WHERE kind = 'overhead'")}
    assert reasons == {"startup"}
    starts = [row[0] for row in world.home.rows("SELECT DISTINCT window_ns FROM meter ORDER BY 1")]
    assert all(after - before == 2 * 10**9 for before, after in pairwise(starts)), "no window is missing"
    assert world.home.rows("SELECT request_key FROM usage GROUP BY 1 HAVING count(*) > 1") == []
