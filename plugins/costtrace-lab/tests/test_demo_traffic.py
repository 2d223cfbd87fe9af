import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from costtrace_lab.demo import traffic
from costtrace_lab.demo.traffic import CHAT, COMPLETIONS, Request, chat, completion, plan, send, send_all

BROKEN = b'data: {"id": "cmpl-1", "choices": [{"index": 0, "finish_reason": null}]}\n\ndata: {"id": "cmp'


@contextmanager
def server(status=200, body=b"{}"):
    """A server that gives every request the same answer; the real server has its own tests."""

    class Handler(BaseHTTPRequestHandler):
        seen: list[dict[str, str]] = []  # noqa: RUF012 -- one list for one server is what is wanted

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.seen.append(dict(self.headers))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}", Handler.seen
        finally:
            running.shutdown()
            thread.join()


def test_the_same_seed_plans_the_same_traffic_and_another_seed_another():
    assert plan("m", seed=3) == plan("m", seed=3)
    assert plan("m", seed=3) != plan("m", seed=4)


def test_the_plan_has_everything_that_a_bill_can_get_wrong():
    requests = plan("m", rounds=1)
    assert {request.tenant for request in requests} == {*traffic.TENANTS, None}
    assert {(request.endpoint, bool(request.body.get("stream"))) for request in requests} == {
        (CHAT, True),
        (CHAT, False),
        (COMPLETIONS, True),
        (COMPLETIONS, False),
    }
    assert sum(request.body.get("n") == 2 for request in requests) == 2
    assert sum("stop" in request.body for request in requests) == 1
    assert sum(request.disconnect_after is not None for request in requests) == 1
    shared = [r for r in requests if traffic.SHARED_PREFIX in json.dumps(r.body)]
    assert len(shared) == 2
    contexts = [request.traceparent for request in requests if request.traceparent]
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", context) for context in contexts)
    assert [context[-2:] for context in contexts] == ["00", "01", "01", "01"]
    assert len({context[3:35] for context in contexts}) == len(contexts)


def test_no_two_prompts_are_alike_so_that_only_the_shared_prefix_is_shared():
    bodies = [json.dumps([r.body.get("prompt"), r.body.get("messages")]) for r in plan("m", rounds=5)]
    assert len(set(bodies)) == len(bodies)


def test_a_stream_is_asked_for_its_usage_in_every_piece():
    assert chat("m", "hi", 4, stream=True)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert "stream_options" not in completion("m", "hi", 4)


def test_a_server_that_is_not_there_is_a_result_and_no_exception():
    sent = send("http://127.0.0.1:9", Request("x", CHAT, chat("m", "hi", 4), "acme"), timeout_s=2)
    assert (sent.status, sent.tenant, sent.response_id) == (0, "acme", None)
    assert sent.error is not None
    assert "ConnectionRefusedError" in sent.error


def test_a_refusal_keeps_its_status_and_its_reason():
    with server(404, b"no such model") as (url, _):
        sent = send(url, Request("x", CHAT, chat("m", "hi", 4)))
    assert (sent.status, sent.error, sent.completion_tokens) == (404, "no such model", None)


@pytest.mark.parametrize("body", [b"not json", BROKEN])
def test_a_damaged_answer_is_an_error_of_that_request(body):
    with server(200, body) as (url, _):
        sent = send(url, Request("x", COMPLETIONS, completion("m", "hi", 4, stream=body is BROKEN)))
    assert sent.status == 200
    assert sent.error is not None
    assert sent.error.startswith("JSONDecodeError")


def test_tenant_trace_and_other_headers_travel_as_they_are():
    with server() as (url, seen):
        send(url, Request("x", CHAT, {}, "acme", "00-ab-cd-01", {"authorization": "Bearer k"}))
        send(url, Request("x", CHAT, {}))
    assert (seen[0]["x-costtrace-tenant"], seen[0]["traceparent"], seen[0]["authorization"]) == (
        "acme",
        "00-ab-cd-01",
        "Bearer k",
    )
    assert seen[0]["x-workload"] == "assistant"
    assert not {"x-costtrace-tenant", "x-workload", "traceparent"} & set(seen[1])


def test_results_come_in_the_order_of_the_plan_and_progress_counts_up():
    progress = []
    with server() as (url, _):
        requests = [Request(str(number), CHAT, {}) for number in range(20)]
        sent = send_all(url, requests, on_progress=lambda done, total, _: progress.append((done, total)))
    assert [one.label for one in sent] == [str(number) for number in range(20)]
    assert progress == [(number, 20) for number in range(1, 21)]
