"""Who is at the other end of a connection, as servers say it: an address, a unix socket, or nobody knows."""

import asyncio
import contextlib
import http.client
import socket
import struct
import threading

import pytest
import uvicorn

from costtrace.capture.asgi import PEER_KEY, headers_of, peer_of
from costtrace.capture.tenancy.identity import TenancyPolicy, resolve

CLAIM = (b"x-costtrace-tenant", b"neighbour")


@pytest.mark.parametrize(
    ("scope", "peer"),
    [
        ({"client": ("10.0.0.1", 5), "server": ("127.0.0.1", 8000)}, "10.0.0.1"),
        ({"client": None, "server": ("/run/x.sock", None)}, None),
        ({"client": None, "server": ("127.0.0.1", 8000)}, ""),
        ({"client": [None, 0], "server": ("127.0.0.1", 8000)}, ""),
        ({"client": None, "server": None}, ""),
        ({"client": None, "server": ("127.0.0.1", None)}, ""),
        ({"client": None, "server": ["localhost", None]}, ""),
        ({"client": None, "server": ("/run/x.sock",)}, ""),
        ({}, ""),
        ({PEER_KEY: None, "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 8000)}, ""),
    ],
)
def test_only_a_server_on_a_unix_socket_makes_a_peer_without_an_address_trusted(scope, peer):
    assert peer_of(scope) == peer
    identity = resolve([CLAIM], peer_of(scope), TenancyPolicy())
    expected = ("neighbour", "header") if peer is None else ("default", "rejected:untrusted")
    assert (identity.tenant, identity.source) == expected


@contextlib.contextmanager
def served(family, address):
    """A real server on a socket of *family* at *address*: the socket, what it saw, and how to let it begin."""
    seen, arrived = [], threading.Event()

    async def application(scope, receive, send):
        if scope["type"] == "http":
            seen.append((peer_of(scope), resolve(headers_of(scope), peer_of(scope), TenancyPolicy()).source))
            arrived.set()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(application, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    try:
        yield listener, seen, arrived, thread
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def request():
    return b"GET / HTTP/1.1\r\nhost: x\r\n" + b": ".join(CLAIM) + b"\r\n\r\n"


def test_a_connection_that_was_reset_before_it_was_accepted_is_not_trusted():
    with served(socket.AF_INET, ("127.0.0.1", 0)) as (listener, seen, arrived, thread):
        client = socket.create_connection(listener.getsockname())
        client.sendall(request())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # a reset, before anybody accepts
        thread.start()
        after = http.client.HTTPConnection(*listener.getsockname(), timeout=20)
        after.request("GET", "/", headers={"x-costtrace-tenant": "neighbour"})
        assert after.getresponse().status == 200
        after.close()
        assert arrived.wait(20)
    assert ("127.0.0.1", "header") in seen
    assert all(peer is not None for peer, _ in seen)
    assert {source for peer, source in seen if not peer} <= {"rejected:untrusted"}


def test_a_real_unix_socket_is_trusted(tmp_path):
    with served(socket.AF_UNIX, str(tmp_path / "s")) as (_, seen, arrived, thread):
        thread.start()
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(str(tmp_path / "s"))
        client.sendall(request())
        assert arrived.wait(20)
        client.close()
    assert seen == [(None, "header")]
