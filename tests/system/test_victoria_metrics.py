"""Metrics in a real VictoriaMetrics, by OTLP and by scraping, read back, against the ledger.

Engines and GPUs are simulated. There are two VictoriaMetrics: in one, the same counters would be there twice, under the
labels of each way.
"""

import json
import shutil

import pytest
import yaml
from costtrace_lab.demo.processes import wait_until
from costtrace_lab.demo.server import free_port
from otlp_receiver import Receiver, listening
from simulated_engines import PANELS, RULES, Queried, filled, metered, running_server
from vllm_server import BUILD

BINARY = BUILD / "victoria-metrics" / "usr" / "bin" / "victoria-metrics"
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not BINARY.exists(), reason="no VictoriaMetrics here: run python tools/setup_others.py victoria-metrics"
    ),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc on the PATH"),
]
RULE_EXPRESSIONS = [
    (path.name, rule.get("record") or rule["alert"], rule["expr"])
    for path in sorted(RULES.glob("*.yaml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]


def victoria(folder, port, *arguments):
    """One that listens on *port* and keeps its data below *folder*."""
    command = [str(BINARY), f"-httpListenAddr=127.0.0.1:{port}", f"-storageDataPath={folder / 'data'}"]
    # Unless it is set otherwise, it answers without the newest 30 s.
    server = Queried(f"http://127.0.0.1:{port}", "/health", latency_offset="1ms", nocache="1")
    folder.mkdir()
    return running_server(server, [*command, "-loggerLevel=WARN", *arguments], folder / "victoria.log")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two simulated engines have served and ended; the agent has sent its metrics to one, and another scrapes it."""
    folder = tmp_path_factory.mktemp("victoria")
    to, by, agent = free_port(), free_port(), free_port()
    scrape = {"job_name": "costtrace", "static_configs": [{"targets": [f"127.0.0.1:{agent}"]}]}
    (folder / "scrape.yaml").write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))
    with listening(Receiver()) as spans:
        variables = {
            "COSTTRACE_PROMETHEUS_PORT": str(agent),
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{to}/opentelemetry/v1/metrics",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{spans.url}/v1/traces",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        }
        with (
            victoria(folder / "to", to, "-opentelemetry.usePrometheusNaming") as sent,
            victoria(folder / "by", by, f"-promscrape.config={folder / 'scrape.yaml'}") as scraped,
            metered(folder, **variables) as made,
        ):
            serving = made.serve(scraped)
            everything = made.home.one("SELECT count(*) FROM usage")
            assert wait_until(lambda: sent.ask("sum(costtrace_requests_total)")[0][1] == everything, 60)
            yield sent, scraped, made.home, serving


def exact(samples, unit, *labels):
    """Sums of *samples* by *labels*, as the integers that the doubles were made of."""
    return {tuple(of.get(label, "") for label in labels): round(value * unit) for of, value in samples}


SUMS = [
    ("costtrace_gpu_time_seconds_total", 1e9, "gpu_ns"),
    ("costtrace_cost_total", 1e9, "device_nano + coalesce(energy_nano, 0)"),
    ("costtrace_energy_joules_total", 1e6, "coalesce(energy_uj, 0)"),
]
KINDS = ["costtrace_kind", "tenant_id", "gen_ai_request_model"]


@pytest.mark.parametrize(("metric", "unit", "column"), SUMS, ids=[metric for metric, *_ in SUMS])
def test_what_was_sent_is_what_the_ledger_has_by_kind_tenant_and_model(world, metric, unit, column):
    sent, _, home, _ = world
    sums = exact(sent.ask(f"sum by ({', '.join(KINDS)}) ({metric})"), unit, *KINDS)
    rows = home.rows(
        f"SELECT kind, tenant, CASE kind WHEN 'request' THEN model ELSE m END, sum({column}) FROM "
        "(SELECT p.*, e.model AS m FROM posting p JOIN engine e USING (engine_id)) GROUP BY 1, 2, 3"
    )
    booked = {(kind, tenant, model): total for kind, tenant, model, total in rows if total}
    assert len(booked) >= 5
    assert sums == booked


def test_what_was_sent_is_what_report_says(world):
    sent, _, home, _ = world
    lines = json.loads(home.command("report", "--by", "tenant", "--format", "json").stdout)["summary"]
    billed = {(line["tenant"],): int(line["cost_nano"]) for line in lines if line["kind"] == "request"}
    asked = {(line["tenant"],): line["requests"] for line in lines if line["kind"] == "request"}
    assert len(billed) > 2
    assert (
        exact(sent.ask('sum by (tenant_id) (costtrace_cost_total{costtrace_kind="request"})'), 1e9, "tenant_id")
        == billed
    )
    assert exact(sent.ask("sum by (tenant_id) (costtrace_requests_total)"), 1, "tenant_id") == asked


def test_what_was_scraped_is_what_was_sent(world):
    sent, scraped, _, _ = world
    for metric, unit, _ in SUMS:
        by_name = exact(scraped.ask(f"sum by (kind, tenant, model) ({metric})"), unit, "kind", "tenant", "model")
        assert by_name == exact(sent.ask(f"sum by ({', '.join(KINDS)}) ({metric})"), unit, *KINDS)


@pytest.mark.parametrize(("board", "title", "query"), PANELS, ids=[f"{board}: {title}" for board, title, _ in PANELS])
def test_each_panel_has_data_of_the_run_that_was_scraped(world, board, title, query):
    _, scraped, _, serving = world
    assert scraped.ask(filled(query), serving), query


@pytest.mark.parametrize(
    ("file", "name", "expression"), RULE_EXPRESSIONS, ids=[name for _, name, _ in RULE_EXPRESSIONS]
)
def test_each_rule_is_understood_and_a_recording_has_data(world, file, name, expression):
    _, scraped, _, serving = world
    series = scraped.ask(expression, serving)
    # Nothing of this run went unobserved, and nothing is there to alert of.
    assert series or file != "recording-rules.yaml" or "unobserved" in expression
