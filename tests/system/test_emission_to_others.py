"""Spans and metrics to receivers that others have built: oteltap, rotel and the OpenTelemetry Collector."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from costtrace_lab.demo.server import free_port
from otlp_receiver import (
    MS,
    Receiver,
    emitting,
    expected,
    listening,
    new_ledger,
    record,
    record_ids,
    turn,
    until,
    write,
)

pytestmark = pytest.mark.usefixtures("otel")


@contextmanager
def process(*command: str, port: int, log: Path):
    with log.open("w") as output:
        started = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        assert until(lambda: _listens(port)), log.read_text()
        yield started
    finally:
        started.terminate()
        started.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_oteltap_receives_over_http(tmp_path):
    ledger, port, log = new_ledger(tmp_path, 20), free_port(), tmp_path / "oteltap.ndjson"
    with (
        process(sys.executable, "-m", "oteltap", "--port", str(port), port=port, log=log),
        emitting(ledger, f"http://127.0.0.1:{port}") as emission,
    ):
        assert until(emission.drained)
        assert until(lambda: log.read_text().count("costtrace.request") >= 20)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    roots = [line for line in lines if line.get("name") == "costtrace.request"]
    assert len(roots) == 20
    assert len({json.dumps(line.get("spanId") or line.get("span_id")) for line in roots}) == 20


def rotel() -> str:
    spec = find_spec("rotel")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "rotel-agent")


def test_rotel_receives_over_grpc(tmp_path):
    ledger, receiver = new_ledger(tmp_path, 700), Receiver()
    port, log = free_port(), tmp_path / "rotel.log"
    with listening(receiver) as behind:
        command = [
            *(rotel(), "start", "--pid-file", str(tmp_path / "pid"), "--exporter", "otlp"),
            *("--otlp-grpc-endpoint", f"127.0.0.1:{port}", "--otlp-http-endpoint", f"127.0.0.1:{free_port()}"),
            *("--otlp-exporter-endpoint", behind.url, "--otlp-exporter-protocol", "http"),
        ]
        with process(*command, port=port, log=log):
            os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "grpc"
            try:
                with emitting(ledger, f"http://127.0.0.1:{port}") as emission:
                    assert until(emission.drained)
                    assert receiver.wait(lambda: len(receiver.roots) >= 700), log.read_text()
            finally:
                del os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"]
    assert record_ids(receiver) == expected(*range(1, 701))
    assert len(receiver.spans) == 4 * 700


def test_a_grpc_receiver_that_comes_late_gets_everything_once(tmp_path, otel):
    otel.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    ledger, receiver = new_ledger(tmp_path, 30), Receiver()
    port, log = free_port(), tmp_path / "rotel.log"
    with listening(receiver) as behind, emitting(ledger, f"http://127.0.0.1:{port}") as emission:
        assert until(lambda: not emission.shipped.up)
        command = [
            *(rotel(), "start", "--pid-file", str(tmp_path / "pid"), "--exporter", "otlp"),
            *("--otlp-grpc-endpoint", f"127.0.0.1:{port}", "--otlp-http-endpoint", f"127.0.0.1:{free_port()}"),
            *("--otlp-exporter-endpoint", behind.url, "--otlp-exporter-protocol", "http"),
        ]
        with process(*command, port=port, log=log):
            assert until(emission.drained, 40)
            assert receiver.wait(lambda: len(receiver.roots) >= 30), log.read_text()
    assert record_ids(receiver) == expected(*range(1, 31))


@pytest.mark.heavy
def test_the_genuine_collector_receives_spans_and_metrics_over_grpc_through_a_restart(tmp_path, otel):
    binary = os.environ.get("OTELCOL", "")
    if not shutil.which(binary):
        pytest.skip("set OTELCOL to the path of an OpenTelemetry Collector")
    otel.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    ledger, receiver, port = new_ledger(tmp_path, 600), Receiver(), free_port()
    with listening(receiver) as behind:
        config = tmp_path / "otelcol.yaml"
        config.write_text(f"""
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{port}"}}}}}}}}
exporters: {{otlphttp: {{endpoint: "{behind.url}"}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [otlphttp]}}
    metrics: {{receivers: [otlp], exporters: [otlphttp]}}
""")
        command = [binary, "--config", str(config)]
        with emitting(ledger, f"http://127.0.0.1:{port}", traces_only=False) as emission:
            with process(*command, port=port, log=tmp_path / "first.log"):
                assert until(emission.drained, 40)
                assert receiver.wait(lambda: len(receiver.roots) >= 600)
            emission.publish(write(ledger, turn([record(n) for n in range(1_000, 1_100)], window=1)))
            assert until(lambda: not emission.shipped.up)
            with process(*command, port=port, log=tmp_path / "second.log"):
                assert until(emission.drained, 40)
                assert receiver.wait(lambda: len(receiver.roots) >= 700)
                assert receiver.wait(
                    lambda: any(
                        sum(p.as_int for p in m.sum.data_points) == 700
                        for m in receiver.metrics
                        if m.name == "costtrace.requests"
                    )
                )
    assert record_ids(receiver) == expected(*range(1, 601), *range(1_000, 1_100))
    root = receiver.roots[0]
    assert root.end_time_unix_nano - root.start_time_unix_nano == 100 * MS
