"""Simulated engines on simulated boards with a real agent, for tests of what its metrics look like elsewhere."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from costtrace_lab.demo.processes import wait_until
from costtrace_nvml_sim.runner import prepare
from costtrace_nvml_sim.scenario import parse_scenario
from home import Home

from costtrace.capture.node_files.agent_lock import running

ROOT = Path(__file__).parents[2]
RULES = ROOT / "examples" / "prometheus"
DASHBOARDS = sorted((ROOT / "examples" / "grafana").glob("*.json"))
PRICES = """
version: metered
currency: USD
electricity:
  - {per_kwh: "0.31", pue: "1.2", from: 2020-01-01, source: test}
devices:
  - {match: "*", kind: gpu, per_gpu_hour: "2.10", includes_energy: false, from: 2020-01-01, source: test}
"""
WINDOW_S = 2
PANELS = [
    (path.stem, panel["title"], panel["targets"][0]["expr"])
    for path in DASHBOARDS
    for panel in json.loads(path.read_text())["panels"]
    if panel["datasource"]["type"] == "prometheus"
]


def filled(query: str) -> str:
    """A panel's query with values for the variables of its dashboard."""
    for variable, value in (("$__rate_interval", "30s"), ("$__range", "5m"), ("$tenant", ".*"), ("$model", ".*")):
        query = query.replace(variable, value)
    assert "$" not in query
    return query


class Queried:
    """A server on loopback that answers PromQL."""

    def __init__(self, url: str, ready: str, **parameters: str) -> None:
        self.url = url
        self._ready = ready
        self._parameters = parameters

    def ask(self, query: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each sample."""
        parameters = {"query": query, "time": str(at or time.time()), **self._parameters}
        answer = httpx.get(f"{self.url}/api/v1/query", params=parameters).json()
        assert answer["status"] == "success", (query, answer)
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}{self._ready}").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running_server(server: Queried, command: Sequence[str], log: Path) -> Iterator[Queried]:
    """*server*, made by *command*, once it is up."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        assert wait_until(server.is_up, 60), log.read_text()[-2000:]
        yield server
    finally:
        process.terminate()
        process.wait(30)


class Metered(NamedTuple):
    """A home with its agent, and what engines on its boards have to be given."""

    home: Home
    environment: dict[str, str]
    devices: list[str]

    def serve(self, server: Queried) -> float:
        """Engines serve until there is enough to see in *server*, and end. When (epoch, s) they still served."""
        words = [sys.executable, "-m", "costtrace_lab.engines.engine", "--home", str(self.home.path)]
        engines = [
            subprocess.Popen(
                [*words, "--seed", str(seed), "--device", device], env=self.environment, stdout=subprocess.DEVNULL
            )
            for seed, device in enumerate(self.devices)
        ]
        assert wait_until(lambda: (self.home.one("SELECT count(*) FROM usage") or 0) > 200, 120)
        assert wait_until(lambda: bool(server.ask("costtrace_device_energy_residual_ratio")), 120)
        # The rows of a device's first work come all at once, after 20 s: a rate needs what comes after them.
        # Histograms come a little later still: beside other engines, a request's value waits until it is whole.
        for moving in ("costtrace_energy_joules_total", "costtrace_request_cost_count"):
            moves = f"sum(rate({moving}[30s])) > 0"
            assert wait_until(lambda query=moves: bool(server.ask(query)), 120), moving
        time.sleep(3)
        serving = time.time()
        for engine in engines:
            engine.terminate()
        assert [engine.wait(60) for engine in engines] == [0, 0]
        self.home.wait_closed(60)
        shown = "sum(costtrace_requests_total)"
        total: Callable[[], int] = lambda: self.home.one("SELECT count(*) FROM usage")  # noqa: E731
        assert wait_until(lambda: server.ask(shown)[0][1] == total(), 60)
        time.sleep(2)  # what is read or sent after that
        return serving


@contextmanager
def metered(folder: Path, **variables: str) -> Iterator[Metered]:
    """An agent over two simulated boards; *variables* say where its metrics go."""
    double = prepare(parse_scenario({"devices": [{"preset": "H100", "power": 400}] * 2}), folder)
    (folder / "prices.yaml").write_text(PRICES)
    home = Home(folder / "home", {"COSTTRACE_PRICES": str(folder / "prices.yaml")})
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "COSTTRACE_"))},
        **double.variables(),
        "COSTTRACE_HOME": str(home.path),
        "COSTTRACE_PRICES": str(folder / "prices.yaml"),
        "COSTTRACE_WINDOW_S": str(WINDOW_S),
        "COSTTRACE_SENSOR": "nvml",
        **variables,
    }
    with (folder / "agent.log").open("w") as log:
        agent = subprocess.Popen([sys.executable, "-m", "costtrace", "agent"], env=environment, stdout=log, stderr=log)
        try:
            home.wait_for_agent()
            yield Metered(home, environment, [one.uuid for one in double.compiled.devices])
        finally:
            agent.terminate()
            agent.wait(60)
    assert not running(home.path)
