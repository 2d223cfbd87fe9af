"""A real vLLM server with costtrace in it, its agent, and a receiver of spans and metrics on a real socket."""

import os
import signal
import socket
import sqlite3
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costtrace_lab.demo.processes import wait_until
from costtrace_lab.demo.server import VllmServer, free_port
from home import WINDOW_S, Home
from http_client import Ask, Reply, ask
from otlp_receiver import Receiver, listening
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from costtrace.capture.node_files.agent_lock import running

PRICES = """
version: e2e-book
label: demo
currency: USD
devices:
  - {match: "*", kind: cpu, per_gpu_hour: 3.37, includes_energy: true, from: 2020-01-01, source: "invented"}
"""

NEWEST = "SELECT max(posting_id) FROM posting UNION ALL SELECT max(usage_id) FROM usage"
WORKED = "costtrace_agent_busy_time_seconds_total"


class Collector(Receiver):
    """A receiver that also keeps the bytes as they came."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def take(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        self.bodies.append(body)
        return super().take(path, body, headers)


class Door:
    """Where the collector listens: it can be closed for a while and opened again on the same port."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._stack = ExitStack()
        self.port = 0

    def open(self) -> None:
        self.port = self._stack.enter_context(listening(self._collector, self.port)).port

    def close(self) -> None:
        self._stack.close()


@dataclass
class Served:
    """A running server, its books and the receiver of its spans."""

    server: VllmServer
    home: Home
    receiver: Collector
    door: Door
    prometheus: str

    @property
    def url(self) -> str:
        return self.server.url

    def ask(self, path: str, content: Mapping[str, Any], *headers: tuple[str, str | bytes], **more: Any) -> Reply:
        return ask(self.url, Ask(path, content, headers, **more))

    def metrics(self) -> list[Sample]:
        """What the agent's Prometheus endpoint shows now."""
        with urllib.request.urlopen(self.prometheus, timeout=20) as answer:
            text = answer.read().decode()
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def answered(self, path: str, content: Mapping[str, Any], *headers: tuple[str, str | bytes]) -> sqlite3.Row:
        """The row of a request that has to be answered."""
        reply = self.ask(path, content, *headers)
        assert reply.status == 200, reply
        self.home.wait_for([reply])
        return self.home.usage(reply.id)


@contextmanager
def serving(
    environment: Path,
    model: Path,
    folder: Path,
    *,
    args: Sequence[str] = (),
    variables: Mapping[str, str | None] | None = None,
    prices: str = PRICES,
    worker_in_engine: bool = False,
    home: Path | None = None,
) -> Iterator[Served]:
    """A server with costtrace, its agent, and a receiver on real sockets; nothing of it is left afterwards."""
    (folder / "prices.yaml").write_text(prices)
    receiver, scrape = Collector(), free_port()
    door = Door(receiver)
    door.open()
    settings: dict[str, str] = {
        "COSTTRACE_PRICES": str(folder / "prices.yaml"),
        "COSTTRACE_WINDOW_S": str(WINDOW_S),
        "COSTTRACE_AGENT_IDLE_EXIT_S": "1",
        "COSTTRACE_PROMETHEUS_PORT": str(scrape),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{door.port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    inherited: dict[str, str | None] = dict.fromkeys(n for n in os.environ if n.startswith(("OTEL_", "COSTTRACE_")))
    variables = {**settings, **(variables or {})}
    books = Home(home or folder / "home", {name: value for name, value in variables.items() if value is not None})
    server = VllmServer(
        environment,
        model,
        books.path,
        args=args,
        env={**inherited, **variables},
        log=folder / "vllm.log",
        worker_in_engine=worker_in_engine,
    )
    try:
        server.start()
        yield Served(server, books, receiver, door, f"http://127.0.0.1:{scrape}/metrics")
    finally:
        server.stop()
        end_agent(books)
        door.close()


def total(samples: Sequence[Sample], name: str, **labels: str) -> float:
    """The sum of a metric over the rows that have these labels."""
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


def settled(world: Served) -> tuple[list[Sample], sqlite3.Connection]:
    """The metrics and a copy of the ledger, from a moment when it stood still."""
    copy = sqlite3.connect(":memory:")
    for _ in range(60):
        with closing(sqlite3.connect(f"file:{world.home.path / 'ledger.sqlite'}?mode=ro", uri=True)) as ledger:
            ledger.backup(copy)
        worked_s = total(world.metrics(), WORKED)
        # A round of the agent's ends after its rows are shown: once another has ended, so are those of the copy.
        assert wait_until(lambda before=worked_s: total(world.metrics(), WORKED) > before, 20)
        metrics = world.metrics()
        if [tuple(row) for row in world.home.rows(NEWEST)] == copy.execute(NEWEST).fetchall():
            return metrics, copy
    raise AssertionError("the ledger never stood still")


def end_agent(home: Home) -> None:
    """An agent outlives its engine by a moment: wait for its end, and help it."""
    if wait_until(lambda: not running(home.path), 15):
        return
    pid = home.agent_pid()
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
