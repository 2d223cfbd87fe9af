"""A hundred thousand tenants, each with a request: the ledger has all of them, metrics as many as they may show."""

import itertools
import json
import os
import subprocess
import sys
import urllib.request
from collections import Counter

import pytest
from costtrace_lab.demo.processes import wait_until
from costtrace_lab.demo.server import free_port
from costtrace_lab.engines import Profile, RandomEngine
from costtrace_lab.engines.engine import JournalEngine
from home import Home
from prometheus_client.parser import text_string_to_metric_families

TENANTS = 100_000
LIMIT = 500
PRICES = """
version: test
currency: USD
devices:
  - {match: "*", kind: gpu, per_gpu_hour: 3.21, includes_energy: true, from: 2020-01-01, source: test}
"""


class Fresh:
    """Tenants to choose from: each choice is somebody new."""

    def __init__(self):
        self._numbers = itertools.count()

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return f"tenant-{next(self._numbers)}"


def shown_requests(port):
    """How many requests metrics show, by tenant."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    (requests,) = (family for family in families if family.name == "costtrace_requests")
    shown = Counter()
    for sample in requests.samples:
        if sample.name.endswith("_total"):
            shown[sample.labels["tenant"]] += sample.value
    return shown


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_a_hundred_thousand_tenants_are_all_on_the_bill_and_metrics_stay_bounded(tmp_path):
    (tmp_path / "prices.yaml").write_text(PRICES)
    profile = Profile(arrivals=8.0, max_running=256, token_budget=8_192, prompt_tokens=20, output_tokens=2, pause=0.0)
    calm = {"dummy": 0.0, "several": 0.0, "preempt": 0.0, "abort": 0.0, "skip": 0.0, "speculative": 0.0}
    fields = {name: getattr(profile, name) for name in profile.__struct_fields__} | calm | {"tenants": Fresh()}
    engine = JournalEngine(
        tmp_path / "home", RandomEngine(1, Profile(**fields)), speed=0, capacity=1 << 30, cap_bytes=1 << 34
    )
    engine.run(rounds=TENANTS // 8 + 2_000)

    port = free_port()
    settings = {
        "COSTTRACE_PRICES": str(tmp_path / "prices.yaml"),
        "COSTTRACE_TENANT_METRIC_LIMIT": str(LIMIT),
        "COSTTRACE_PROMETHEUS_PORT": str(port),
        "COSTTRACE_SENSOR": "none",
    }
    home = Home(tmp_path / "home", settings)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "COSTTRACE_"))}
    agent = subprocess.Popen(
        [sys.executable, "-m", "costtrace", "agent", "--home", str(home.path)], env={**environment, **settings}
    )
    try:
        closed = "SELECT count(*) FROM position WHERE done = 1"
        assert wait_until(lambda: home.one(closed) == 1, 600, 1.0), "the journal is booked to its end"
        tenants = home.one("SELECT count(DISTINCT tenant) FROM usage")
        assert tenants >= TENANTS
        assert home.one("SELECT count(*) FROM usage") == tenants, "each has one request"

        # Metrics are shown after the transaction.
        assert wait_until(lambda: shown_requests(port).total() == tenants, 60, 1.0)
        shown = shown_requests(port)
        assert len(shown) == LIMIT + 1
        assert "__other__" in shown
    finally:
        agent.terminate()
        agent.wait(60)
    home.verify()
    report = json.loads(home.command("report", "--by", "tenant", "--format", "json").stdout)["summary"]
    *lines, everything = (row for row in report if row["kind"] in {"request", "everything"})
    assert len(lines) == tenants
    assert everything["cost_nano"] == home.one("SELECT sum(device_nano + energy_nano) FROM posting")
