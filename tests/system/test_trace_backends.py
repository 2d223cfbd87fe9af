"""Cost spans in backends that others have built, read back by their own APIs and compared with the ledger."""

import base64
import json
import os
import subprocess
from contextlib import contextmanager

import httpx
import pytest
from costtrace_lab.demo.server import free_port
from otlp_receiver import MS, PARENT, TRACE, emitting, new_ledger, record, turn, until, write
from vllm_server import BUILD

from costtrace.core.rows import UsageCost
from costtrace.ledger.reader import open_ledger
from costtrace.telemetry.span_ids import span_ids

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(240)]

BACKENDS = BUILD / "backends" / "bin"
ROWS = 24
READY_S = 150
NAMES = ["costtrace.decode", "costtrace.prefill", "costtrace.queue", "costtrace.request"]
FIGURES = {
    "costtrace.gpu.time": ("gpu_ns", 1e9),
    "costtrace.wasted.gpu_time": ("wasted_ns", 1e9),
    "costtrace.energy": ("energy_uj", 1e6),
    "costtrace.cost.amount": ("cost_nano", 1e9),
    "gen_ai.usage.input_tokens": ("input_tokens", 1),
    "gen_ai.usage.output_tokens": ("output_tokens", 1),
}
"""Attribute of a span -> column of the ledger, and how many of its units are one of the attribute's."""
PHOENIX = """
import sys
from grpc.aio import _server
add = _server.Server.add_insecure_port
_server.Server.add_insecure_port = lambda self, where: add(self, "127.0.0.1:" + where.rpartition(":")[2])
from phoenix.server.main import main
sys.argv = ["phoenix", "serve"]
main()
"""
"""Phoenix, with its gRPC port on the loopback interface: it has no setting for that."""


@contextmanager
def backend(command, ready, folder, **variables):
    """A backend's process below *folder*, once *ready* answers; ended afterwards."""
    if not BACKENDS.exists():
        pytest.skip("no backends here: `make test-heavy` installs them (tools/setup_others.py backends)")
    log = folder / "backend.log"
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "COSTTRACE_", "PYTHON"))}
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**plain, "HOME": str(folder), **variables},
        )

    def answers():
        assert process.poll() is None, log.read_text()[-3_000:]
        try:
            return httpx.get(ready, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        assert until(answers, READY_S), log.read_text()[-3_000:]
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@pytest.fixture
def asked():
    """Requests that differ in every figure; the last one is part of a caller's trace."""
    made = [
        record(
            number,
            gpu_ns=30 * MS + number * 7_919,
            decode_ns=20 * MS + number * 7_919,
            wasted_ns=number * 1_009,
            energy_uj=9_000_000 + number * 13,
            decode_uj=5_000_000 + number * 13,
            input_tokens=100 + number,
            output_tokens=50 + number % 7,
        )
        for number in range(1, ROWS)
    ]
    return [*made, record(ROWS, traceparent=f"00-{TRACE}-{PARENT}-01")]


@pytest.fixture
def ledger(asked, tmp_path):
    (tmp_path / "home").mkdir()
    made = new_ledger(tmp_path / "home")
    for number, one in enumerate(asked):
        write(
            made, turn([one], UsageCost(30_001 + number * 17, 10_001, 20_000 + number * 17, "USD", "b"), window=number)
        )
    return made


def rows(tmp_path):
    with open_ledger(tmp_path / "home") as store:
        names = ", ".join({column for column, _ in FIGURES.values()} | {"record_id", "tenant"})
        records = [dict(zip(names.split(", "), one, strict=True)) for one in store.rows(f"SELECT {names} FROM usage")]
    return {row["record_id"]: row for row in records}


def check(spans, expected):
    """*spans*: attributes of each costtrace.request span by record id."""
    assert spans.keys() == expected.keys()
    for record_id, attributes in spans.items():
        assert attributes["tenant.id"] == expected[record_id]["tenant"]
        for name, (column, unit) in FIGURES.items():
            assert float(attributes[name]) == expected[record_id][column] / unit, (record_id, name)
    for name, (column, unit) in FIGURES.items():  # and so do the sums, as the ledger's integers
        assert sum(round(float(one[name]) * unit) for one in spans.values()) == sum(
            r[column] for r in expected.values()
        )


def test_mlflow_has_every_cost_as_the_ledger_has_it(ledger, asked, tmp_path, otel):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        BACKENDS / "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--port",
        str(port),
    ]
    command += ["--default-artifact-root", str(tmp_path / "art"), "--host", "127.0.0.1", "--workers", "1"]
    with backend([str(word) for word in command], f"{url}/health", tmp_path):
        made = httpx.post(f"{url}/api/2.0/mlflow/experiments/create", json={"name": "costs"}, timeout=60).json()
        otel.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-mlflow-experiment-id={made['experiment_id']}")
        otel.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
        with emitting(ledger, url) as emission:
            assert until(emission.drained, 90)
        attributes = {}
        for one in asked:
            trace = {"trace_id": f"tr-{span_ids(one).trace_id:032x}"}
            kept = httpx.get(f"{url}/api/3.0/mlflow/traces/get", params=trace, timeout=60).json()["trace"]
            tokens = json.loads(kept["trace_info"]["trace_metadata"]["mlflow.trace.tokenUsage"])
            assert (tokens["input_tokens"], tokens["output_tokens"]) == (one.input_tokens, one.output_tokens)
            spans = kept["spans"]
            assert sorted(span["name"] for span in spans) == NAMES
            [root] = [span for span in spans if span["name"] == NAMES[-1]]
            assert root["start_time_unix_nano"] == one.arrived_ns, "to the nanosecond"
            if one.traceparent:
                assert base64.b64decode(root["parent_span_id"]).hex() == PARENT
            plain = {each["key"]: next(iter(each["value"].values())) for each in root["attributes"]}
            attributes[plain["costtrace.record.id"]] = plain
    check(attributes, rows(tmp_path))


def test_phoenix_has_every_cost_as_the_ledger_has_it(ledger, asked, tmp_path, otel):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {"PHOENIX_WORKING_DIR": str(tmp_path), "PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": str(port)}
    variables |= {"PHOENIX_GRPC_PORT": str(free_port()), "PHOENIX_TELEMETRY_ENABLED": "false"}
    with backend([str(BACKENDS / "python"), "-c", PHOENIX], f"{url}/healthz", tmp_path, **variables):
        otel.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
        with emitting(ledger, url) as emission:
            assert until(emission.drained, 90)

        def spans():
            answer = httpx.get(f"{url}/v1/projects/default/spans", params={"limit": 1000}, timeout=60).json()
            return answer.get("data", [])

        assert until(lambda: len(spans()) == len(NAMES) * ROWS, 90), "it takes them in in its own time"
        roots = [span for span in spans() if span["name"] == NAMES[-1]]
    check({span["attributes"]["costtrace.record.id"]: span["attributes"] for span in roots}, rows(tmp_path))
    traces = {span["context"]["trace_id"]: span for span in roots}
    assert traces.keys() == {f"{span_ids(one).trace_id:032x}" for one in asked}
    assert traces[TRACE]["parent_id"] == PARENT
