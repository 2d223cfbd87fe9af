"""A server's connections: so many at a time, none for ever, and a pause where descriptors have run out."""

import contextlib
import errno
import http.client
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from costtrace.core import bounded_server
from costtrace.core.bounded_server import BoundedServer


class Handler(BaseHTTPRequestHandler):
    timeout = 20

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_args):
        pass


class Server(BoundedServer, HTTPServer):
    most, least_s = 4, 0.0


@pytest.fixture
def server():
    with serving(Server(("127.0.0.1", 0), Handler)) as one:
        yield one


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def connect(server):
    return contextlib.closing(socket.create_connection(server.server_address, timeout=20))


def asked(server):
    """The status of a request's answer; 0 where there is none."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def closed(connection):
    """Whether the server has closed this connection; waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_the_oldest_make_room_and_a_request_gets_through(server):
    with contextlib.ExitStack() as idle:
        connections = [idle.enter_context(connect(server)) for _ in range(50)]
        assert asked(server) == 200
        assert len(server._open) <= server.most
        assert all(map(closed, connections[:46]))


def test_where_none_is_old_enough_the_new_one_is_closed_at_once_and_later_there_is_room():
    Server.least_s, before = 3_600.0, Server.least_s
    try:
        with serving(Server(("127.0.0.1", 0), Handler)) as server, contextlib.ExitStack() as idle:
            young = [idle.enter_context(connect(server)) for _ in range(4)]
            assert asked(server) == 0
            server.least_s = 0.0
            assert asked(server) == 200
            assert closed(young[0])
    finally:
        Server.least_s = before


def test_a_connection_that_sends_a_byte_now_and_then_is_closed(server):
    server.longest_s, ends = 0.5, time.monotonic() + 60
    with connect(server) as slow:
        slow.settimeout(0.05)
        gone = False
        while not gone and time.monotonic() < ends:
            with contextlib.suppress(TimeoutError):
                try:
                    slow.sendall(b"G")
                    gone = slow.recv(1) == b""
                except (BrokenPipeError, ConnectionResetError):
                    gone = True
    assert gone


def test_without_descriptors_it_pauses_says_so_once_and_goes_on(server, monkeypatch, caplog):
    monkeypatch.setattr(bounded_server, "PAUSE_S", 0.01)
    accept, refused = HTTPServer.get_request, []

    def no_descriptor(self):
        if len(refused) < 5:
            refused.append(1)
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(self)

    monkeypatch.setattr(HTTPServer, "get_request", no_descriptor)
    assert asked(server) == 200
    assert len(refused) == 5
    (record,) = caplog.records
    assert "Raise the limit of open files" in record.getMessage()
