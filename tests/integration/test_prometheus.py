"""Rules and dashboards on a real Prometheus that scrapes a real agent; its engine and its GPU are simulated."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from books import Home
from emission_world import Receiver, listening

from costtrace.agent.lock import running
from costtrace.demo.processes import wait_until
from costtrace.demo.server import free_port
from costtrace.nvml_sim.runner import prepare
from costtrace.nvml_sim.scenario import parse_scenario

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
NEEDED = ("promtool", "prometheus", "gcc")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not all(map(shutil.which, NEEDED)), reason=f"needs {', '.join(NEEDED)} (Debian: prometheus, gcc) on the PATH"
    ),
]


def test_promtool_takes_the_rules_and_each_alert_fires_where_it_should():
    files = sorted(str(path) for path in RULES.glob("*.yaml"))
    for words in (
        ["check", "rules", *files],
        ["test", "rules", str(ROOT / "tests" / "prometheus" / "rules_test.yaml")],
    ):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A server of its own on loopback."""

    def __init__(self, url):
        self.url = url

    def ask(self, query, at=None):
        """Labels and value of each sample."""
        found = httpx.get(f"{self.url}/api/v1/query", params={"query": query, "time": at or time.time()}).json()
        assert found["status"] == "success", (query, found)
        return [(one["metric"], float(one["value"][1])) for one in found["data"]["result"]]

    def is_up(self):
        try:
            return httpx.get(f"{self.url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def prometheus(folder, target):
    """One that scrapes *target* each second, with the project's rules, worked out each second too."""
    for name in ("recording-rules.yaml", "alerts.yaml"):
        (folder / name).write_text((RULES / name).read_text().replace("interval: 1m", "interval: 1s"))
    (folder / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(folder / "recording-rules.yaml"), str(folder / "alerts.yaml")],
                "scrape_configs": [{"job_name": "costtrace", "static_configs": [{"targets": [target]}]}],
            }
        )
    )
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        server = Prometheus(f"http://{address}")
        assert wait_until(server.is_up, 60), (folder / "prometheus.log").read_text()[-2000:]
        yield server
    finally:
        process.terminate()
        process.wait(30)


def serve(server, home, environment, devices):
    """Engines that serve until there is enough to see, and end. Returns when (epoch, s) they still served."""
    assert wait_until(lambda: [value for _, value in server.ask("up")] == [1.0], 60)
    words = [sys.executable, "-m", "costtrace.testing.engine", "--home", str(home.path)]
    engines = [
        subprocess.Popen([*words, "--seed", str(seed), "--device", device], env=environment, stdout=subprocess.DEVNULL)
        for seed, device in enumerate(devices)
    ]
    assert wait_until(lambda: (home.one("SELECT count(*) FROM usage") or 0) > 200, 120)
    assert wait_until(lambda: server.ask("costtrace_device_energy_residual_ratio"), 120)
    serving = time.time()
    for engine in engines:
        engine.terminate()
    assert [engine.wait(60) for engine in engines] == [0, 0]
    home.wait_closed(60)
    shown = "sum(costtrace_requests_total)"
    assert wait_until(lambda: server.ask(shown)[0][1] == home.one("SELECT count(*) FROM usage"), 60)
    time.sleep(2)  # the scrape after that
    return serving


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two simulated engines on two simulated boards have served and ended; the agent and Prometheus are still there."""
    folder = tmp_path_factory.mktemp("prometheus")
    double = prepare(parse_scenario({"devices": [{"preset": "H100", "power": 400}] * 2}), folder)
    (folder / "prices.yaml").write_text(PRICES)
    home = Home(folder / "home", {"COSTTRACE_PRICES": str(folder / "prices.yaml")})
    port = free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "COSTTRACE_"))},
        **double.variables(),
        "COSTTRACE_HOME": str(home.path),
        "COSTTRACE_PRICES": str(folder / "prices.yaml"),
        "COSTTRACE_WINDOW_S": str(WINDOW_S),
        "COSTTRACE_SENSOR": "nvml",
        "COSTTRACE_PROMETHEUS_PORT": str(port),
    }
    receiver = Receiver()
    with listening(receiver) as there, (folder / "agent.log").open("w") as log:
        environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{there.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
        }
        agent = subprocess.Popen([sys.executable, "-m", "costtrace", "agent"], env=environment, stdout=log, stderr=log)
        try:
            home.wait_for_agent()
            with prometheus(folder, f"127.0.0.1:{port}") as server:
                yield server, home, serve(server, home, environment, [one.uuid for one in double.compiled.devices])
        finally:
            agent.terminate()
            agent.wait(60)
    assert not running(home.path)


PANELS = [
    (path.stem, panel["title"], panel["targets"][0]["expr"])
    for path in DASHBOARDS
    for panel in json.loads(path.read_text())["panels"]
    if panel["datasource"]["type"] == "prometheus"
]


@pytest.mark.parametrize(("board", "title", "query"), PANELS, ids=[f"{board}: {title}" for board, title, _ in PANELS])
def test_each_panel_has_data_of_the_run(world, board, title, query):
    server, _, serving = world
    for variable, value in (("$__rate_interval", "30s"), ("$__range", "5m"), ("$tenant", ".*"), ("$model", ".*")):
        query = query.replace(variable, value)
    assert "$" not in query
    assert server.ask(query, serving), query


def test_the_sums_on_the_dashboards_are_those_of_the_ledger_and_of_report(world):
    server, home, _ = world
    assert server.ask("sum(costtrace_requests_total)")[0][1] == home.one("SELECT count(*) FROM usage")
    by_kind = {
        labels["kind"]: value for labels, value in server.ask("sum by (kind) (costtrace_gpu_time_seconds_total)")
    }
    for kind, gpu_ns in home.rows("SELECT kind, sum(gpu_ns) FROM posting GROUP BY kind"):
        assert by_kind[kind] == pytest.approx(gpu_ns / 1e9, abs=1e-6)
    lines = json.loads(home.command("report", "--by", "tenant", "--format", "json").stdout)["summary"]
    shown = {
        labels["tenant"]: value
        for labels, value in server.ask('sum by (tenant) (costtrace_cost_total{kind="request"})')
    }
    billed = {line["tenant"]: line["cost_nano"] / 1e9 for line in lines if line["kind"] == "request"}
    assert billed
    assert shown == pytest.approx(billed, abs=1e-8)


def test_the_rows_meet_the_meter_and_are_never_further_off_than_the_windows_that_are_open(world):
    server, _, serving = world
    residual = "costtrace:conservation_residual:seconds"
    ((_, devices),) = server.ask("costtrace:devices:count", serving)
    assert devices == 2
    assert server.ask(residual, serving)[0][1] <= 2 * WINDOW_S * devices
    assert server.ask(residual)[0][1] == pytest.approx(0, abs=1e-6), "sums of doubles; the ledger is compared with =="
    ((_, idle),) = server.ask("costtrace:idle_ratio:rate1h")
    assert 0 < idle < 1
