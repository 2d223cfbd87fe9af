"""A thousand connections on the port of a real agent's metrics: it serves, books and lives on."""

import resource
import socket
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from costtrace_lab.demo.processes import wait_until
from costtrace_lab.demo.server import free_port
from costtrace_lab.engines.schedules import started
from home import Home

from costtrace.core.events import EngineReady, EngineStopped, SequenceAdded, SequenceFinished, Snapshot, Step
from costtrace.journal.writer import JournalWriter

CONNECTIONS = 1_000


@pytest.fixture
def descriptors():
    """Enough of them for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * CONNECTIONS:
        pytest.skip(f"needs {4 * CONNECTIONS} descriptors (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * CONNECTIONS, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def serve_one(home, name):
    """The journal of an engine that serves one request with this id, and ends."""
    writer = JournalWriter(home, f"vllm-{name}", lambda n: Snapshot(n, 1, 0, (), ()), cap_bytes=1 << 30)
    at = time.monotonic_ns()
    added = SequenceAdded(1, at, name, name, name, name, 5, "m", "acme", "header")
    step = Step(0, at + 1_000, at + 2_000, (), (), ((1, 5, 0),))
    finished = SequenceFinished(1, at + 2_000, 0, "stop", 1)
    writer.append([started((f"GPU-{name}",), at), EngineReady(at), added, step, finished, EngineStopped(at + 3_000)])
    writer.close()


def booked(home, name):
    return home.one("SELECT count(*) FROM usage WHERE request_id = ?", name) == 1


def scrape(port):
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return answer.status
    return 0


def test_a_thousand_connections_do_not_end_the_agent(tmp_path, descriptors):
    port = free_port()
    home = Home(tmp_path / "home", {"COSTTRACE_PROMETHEUS_PORT": str(port), "COSTTRACE_WINDOW_S": "2"})
    with home.agent_by_hand() as agent:
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (256, 256))
        assert wait_until(lambda: scrape(port) == 200, 30)
        with ExitStack() as held:
            hold(held, port, CONNECTIONS)
            serve_one(home.path, "meanwhile")
            assert wait_until(lambda: booked(home, "meanwhile"), 60), home.log()
            assert wait_until(lambda: scrape(port) == 200, 60)
        assert agent.poll() is None


def test_an_agent_without_descriptors_pauses_and_goes_on(tmp_path, descriptors):
    port = free_port()
    home = Home(tmp_path / "home", {"COSTTRACE_PROMETHEUS_PORT": str(port), "COSTTRACE_WINDOW_S": "2"})
    with home.agent_by_hand() as agent:
        assert wait_until(lambda: scrape(port) == 200, 30)
        used = len(list(Path(f"/proc/{agent.pid}/fd").iterdir()))
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (used + 8, used + 8))
        with ExitStack() as held:
            hold(held, port, 100)
            serve_one(home.path, "meanwhile")
            said = tmp_path / "by-hand.log"
            assert wait_until(lambda: "cannot read the journals for a while" in said.read_text(), 60)
            assert agent.poll() is None
        assert wait_until(lambda: booked(home, "meanwhile"), 90), said.read_text()[-3_000:]
        assert wait_until(lambda: scrape(port) == 200, 60)
        home.verify()
    text = said.read_text()
    assert "Traceback" not in text
    assert text.count("a port accepts no connections for a while") <= 3


def hold(held, port, number):
    """Open so many connections and keep them; the agent may close some of them."""
    for _ in range(number):
        held.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=20)))
