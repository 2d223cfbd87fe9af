"""Ids that a client crafts, on a real server: they change nobody's bill but its own, and keep no request alive."""

import http.client
import json
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from costtrace_lab.demo.processes import wait_until
from http_client import COMPLETIONS, RESPONSES, Ask, ask, completion, tenant
from served_vllm import serving
from vllm_server import oldest_and_newest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

TOKENS = 700
LONG = "r" * 25_000_000


@pytest.fixture
def world(vllm_environment, tiny_model, tmp_path):
    with serving(vllm_environment, tiny_model, tmp_path) as made:
        yield made


def long_answer(name):
    return {
        "model": "tiny-model",
        "input": "Hello",
        "request_id": name,
        "max_output_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
    }


@oldest_and_newest
def test_ids_that_a_client_crafts_change_nothing_but_its_own_request(world):
    check_crafted(world)
    check_long(world)


def check_crafted(world):
    """One that looks like a note of costtrace's: the request ends with its client."""
    name = "costtrace:stop:1:zz"
    reply = ask(world.url, Ask(RESPONSES, long_answer(name), [tenant("attacker")], hang_up_after=8))
    assert reply.hung_up
    assert wait_until(lambda: world.home.one("SELECT 1 FROM usage WHERE request_id = ?", name), 60)
    row = world.home.usage(name)
    assert row["finish_reasons"] == '["abort"]'
    assert row["output_tokens"] < TOKENS // 2


def check_long(world):
    """One of 25 MB that stays open: whoever is served meanwhile is on the bill, and the journal is small."""
    address = urlsplit(world.url)
    with closing(http.client.HTTPConnection(address.hostname, address.port, timeout=120)) as slow:
        content = json.dumps(long_answer(LONG))
        slow.request("POST", RESPONSES, content, {"content-type": "application/json", "x-costtrace-tenant": "attacker"})
        with slow.getresponse() as answer:
            assert answer.status == 200
            answer.read(1)
            replies = [world.ask(COMPLETIONS, completion(), tenant("globex")) for _ in range(20)]
            assert {reply.status for reply in replies} == {200}
    world.home.wait_for(replies)
    assert wait_until(lambda: world.home.one("SELECT 1 FROM usage WHERE length(request_id) = 273"), 60)
    assert world.home.one("SELECT count(*) FROM usage WHERE tenant = 'globex'") == 20
    assert world.home.one("SELECT coalesce(sum(gpu_ns), 0) FROM posting WHERE kind = 'unobserved'") == 0
    written = sum(path.stat().st_size for path in world.home.path.glob("journal/vllm-*/*.ctj"))
    assert written < 1_000_000
    world.home.verify()
