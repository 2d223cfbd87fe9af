"""Rules and dashboards on a real Prometheus that scrapes a real agent; its engine and its GPU are simulated."""

import json
import shutil
import subprocess

import pytest
from costtrace_lab.demo.processes import wait_until
from costtrace_lab.demo.server import free_port
from otlp_receiver import Receiver, listening
from simulated_engines import PANELS, ROOT, RULES, WINDOW_S, Queried, filled, metered, running_server

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
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    return running_server(Queried(f"http://{address}", "/-/ready"), command, folder / "prometheus.log")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two simulated engines on two simulated boards have served and ended; the agent and Prometheus are still there."""
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    with listening(Receiver()) as there:
        variables = {
            "COSTTRACE_PROMETHEUS_PORT": str(port),
            "OTEL_EXPORTER_OTLP_ENDPOINT": there.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
        }
        with metered(folder, **variables) as made, prometheus(folder, f"127.0.0.1:{port}") as server:
            assert wait_until(lambda: [value for _, value in server.ask("up")] == [1.0], 60)
            yield server, made.home, made.serve(server)


@pytest.mark.parametrize(("board", "title", "query"), PANELS, ids=[f"{board}: {title}" for board, title, _ in PANELS])
def test_each_panel_has_data_of_the_run(world, board, title, query):
    server, _, serving = world
    assert server.ask(filled(query), serving), query


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
