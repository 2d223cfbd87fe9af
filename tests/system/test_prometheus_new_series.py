"""What a real Prometheus counts from its first scrape on is what the ledger has, new series included."""

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import otlp_receiver
import pytest
from costtrace_lab.demo.processes import wait_until
from costtrace_lab.demo.server import free_port
from otlp_receiver import emitting, new_ledger, record, turn, write
from simulated_engines import Queried, running_server

from costtrace.telemetry import Emission

PROGRAM = os.environ.get("COSTTRACE_TEST_PROMETHEUS") or shutil.which("prometheus")
FEATURE = "created-timestamp-zero-ingestion"


def _version() -> tuple[int, ...]:
    if PROGRAM is None:
        return ()
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+)\.(\d+)", done.stdout + done.stderr)
    return tuple(map(int, found.groups())) if found else ()


pytestmark = [
    pytest.mark.usefixtures("otel"),
    pytest.mark.skipif(
        _version() < (3, 0),
        reason="needs a Prometheus from 3.0 on, as `prometheus` on the PATH or in COSTTRACE_TEST_PROMETHEUS",
    ),
]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(tmp_path: Path, port: int) -> Iterator[Queried]:
    """One that scrapes *port* each second."""
    scrape = {"job_name": "costtrace", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    config = tmp_path / "prometheus.yml"
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(PROGRAM),
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address={address}",
        f"--enable-feature={FEATURE}",
    ]
    with running_server(Queried(f"http://{address}", "/-/ready"), command, tmp_path / "prometheus.log") as running:
        yield running


def series(server: Queried, name: str) -> list[list[float]]:
    """The values of each of its series, in the order of time."""
    answer = httpx.get(f"{server.url}/api/v1/query", params={"query": f"{name}[1h]"}).json()
    assert answer["status"] == "success", answer
    return [[float(value) for _, value in one["values"]] for one in answer["data"]["result"]]


def gained(values: list[float], unit: float) -> int:
    """What a counter has gained since its first sample, in whole units: as `increase` counts, resets included."""
    counts = [round(value * unit) for value in values]
    return sum(now - before if now >= before else now for before, now in itertools.pairwise(counts))


def test_counters_from_the_first_scrape_on_equal_the_ledger_over_a_restart(tmp_path, server, port, monkeypatch):
    monkeypatch.setattr(otlp_receiver, "WALL", time.time_ns() - 600 * 10**9)  # windows of the last minutes
    ledger = new_ledger(tmp_path / "home")

    def one(sql: str) -> int:
        return ledger.connection.execute(sql).fetchone()[0]

    def commit(emission: Emission, window: int, *numbers: int, tenant: str) -> None:
        """A transaction, and the scrape that has it."""
        records = [record(number, tenant=tenant) for number in numbers]
        emission.publish(write(ledger, turn(records, window=window)))
        requests = "sum(costtrace_requests_total)"
        assert wait_until(lambda: [v for _, v in server.ask(requests)] == [one("SELECT count(*) FROM usage")], 60)

    with emitting(ledger, prometheus_port=port) as emission:
        assert wait_until(lambda: [value for _, value in server.ask("up")] == [1.0], 60)
        emission.health.add("agent.errors", 2)
        commit(emission, 0, 1, 2, 3, tenant="acme")
        commit(emission, 1, 4, tenant="zoo")
        commit(emission, 2, 5, 6, tenant="acme")
    with emitting(ledger, prometheus_port=port) as emission:
        emission.health.add("agent.errors", 3)
        commit(emission, 3, 7, 8, 9, tenant="zoo")
        commit(emission, 4, 10, tenant="new")
        assert wait_until(lambda: sum(gained(s, 1) for s in series(server, "costtrace_agent_errors_total")) == 5, 60)

    for name, unit, sql in (
        ("costtrace_cost_total", 1e9, "SELECT sum(device_nano + energy_nano) FROM posting"),
        ("costtrace_requests_total", 1, "SELECT count(*) FROM usage"),
        ("costtrace_tokens_total", 1, "SELECT sum(input_tokens + output_tokens) FROM usage"),
        ("costtrace_gpu_time_seconds_total", 1e9, "SELECT sum(gpu_ns) FROM posting"),
        ("costtrace_energy_joules_total", 1e6, "SELECT sum(energy_uj) FROM posting"),
        ("costtrace_device_time_seconds_total", 1e9, "SELECT sum(gpu_ns) FROM posting"),
    ):
        of_name = series(server, name)
        assert {values[0] for values in of_name} == {0.0}, name
        assert all(values == sorted(values) for values in of_name), f"{name} was reset"
        assert sum(round(values[-1] * unit) - round(values[0] * unit) for values in of_name) == one(sql), name
    # Histograms and costtrace's own health begin again with the agent, and nothing of either life is missed.
    counts = series(server, "costtrace_request_cost_count")
    assert {values[0] for values in counts} == {0.0}
    assert sum(gained(values, 1) for values in counts) == one("SELECT count(*) FROM usage")
