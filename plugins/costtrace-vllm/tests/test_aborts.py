"""What an abort says of requests that the server itself has ended."""

import asyncio
import sys
from types import SimpleNamespace

from costtrace_vllm.server_side import aborts


class Client:
    """A data-parallel client: it knows which engine has a request until that engine reports its end."""

    core_engines = ("engine-0", "engine-1")
    resources = SimpleNamespace(engine_dead=False)

    def __init__(self, in_flight):
        self.in_flight, self.sent = in_flight, []

    async def _send_input(self, request_type, request, engine=None):
        self.sent.append((request_type.value, request, engine))

    async def abort_requests_async(self, request_ids):
        known = [name for name in request_ids if name in self.in_flight]
        if known:
            await self._send_input(SimpleNamespace(value=b"\x01"), known, self.in_flight[known[0]])


def finish(name, tokens, stop=("x",)):
    state = SimpleNamespace(request_id=name, detokenizer=SimpleNamespace(stop=stop, num_output_tokens=lambda: tokens))
    aborts.wrap_finish(lambda processor, req_state: None)(None, state)


def test_an_abort_says_what_the_client_got_of_a_request_that_the_server_ended():
    client = Client({})
    send = aborts.wrap_send(Client._send_input)
    finish("a", 3)
    finish("b", 3, stop=())
    asyncio.run(send(client, SimpleNamespace(value=b"\x01"), ["a", "b"]))
    asyncio.run(send(client, SimpleNamespace(value=b"\x00"), "an added request"))
    assert client.sent == [
        (b"\x01", ["a", "b", 3, "a"], None),
        (b"\x00", "an added request", None),
    ]


def test_every_engine_gets_the_note_where_the_client_no_longer_knows_which_one_it_was(monkeypatch):
    abort = SimpleNamespace(EngineCoreRequestType=SimpleNamespace(ABORT=SimpleNamespace(value=b"\x01")))
    monkeypatch.setitem(sys.modules, "vllm.v1.engine", abort)
    monkeypatch.setattr(Client, "_send_input", aborts.wrap_send(Client._send_input))
    client = Client({"a": "engine-1"})
    wrapped = aborts.wrap_abort_balanced(Client.abort_requests_async)
    finish("a", 3)
    finish("b", 5)
    asyncio.run(wrapped(client, ["a", "b"]))
    assert client.sent == [
        (b"\x01", ["a", 3, "a"], "engine-1"),
        (b"\x01", [5, "b"], "engine-0"),
        (b"\x01", [5, "b"], "engine-1"),
    ]


def test_what_is_remembered_of_an_id_is_short():
    name = "x" * 1_000_000
    finish(name, 3)
    assert [len(kept) for kept in aborts._delivered] == [273]
    assert aborts._stop_notes(["a", name]) == [3, name]
    assert not aborts._delivered
