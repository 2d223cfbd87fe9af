import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from costtrace_lab.demo.processes import wait_until
from vllm_server import BUILD, ENVIRONMENTS, VllmServer, need

from costtrace.capture.node_files.agent_lock import running, status

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="session")
def vllm_environment(request):
    """The folder of a vLLM environment: the newest, or the one the test is parametrized with."""
    folder = getattr(request, "param", ENVIRONMENTS[0])
    need(folder / "env.json", "setup-vllm")
    return folder


@pytest.fixture(scope="session")
def tiny_model():
    return need(BUILD / "tiny-model", "model")


@pytest.fixture(scope="session")
def browse():
    """Runs a script of Playwright's in a real Chromium, with arguments; returns what it printed last."""
    chromium, python = shutil.which("chromium"), os.environ.get("COSTTRACE_PEERS_PYTHON", sys.executable)
    if chromium is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    done = subprocess.run([python, "-c", "import playwright, axe_playwright_python"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"playwright is not installed in {python}: run python tools/setup_others.py peers")

    def run(script, *arguments):
        words = [python, SUPPORT / script, chromium, *arguments]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Where screenshots go: COSTTRACE_TEST_SCREENSHOTS, to be looked at, or nowhere in particular."""
    return Path(os.environ.get("COSTTRACE_TEST_SCREENSHOTS") or tmp_path_factory.mktemp("shots"))


@pytest.fixture
def start_vllm(vllm_environment, tiny_model, tmp_path):
    """A function that starts a server with COSTTRACE_HOME in tmp_path/home; all are stopped when the test ends."""
    started = []
    ending = {"COSTTRACE_AGENT_IDLE_EXIT_S": "1"}  # the agent outlives the server, but not the test

    def start(**options):
        server = VllmServer(
            options.pop("environment", vllm_environment),
            options.pop("model", tiny_model),
            options.pop("home", tmp_path / "home"),
            env=ending | options.pop("env", {}),
            **options,
        )
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()
    for home in {server.home for server in started}:
        if not wait_until(lambda home=home: not running(home), 20):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(int(status(home)["pid"]), signal.SIGTERM)
            assert wait_until(lambda home=home: not running(home), 20)


@pytest.fixture
def otel(monkeypatch):
    """No OTEL_* variable but those of the test; short patience."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
    level = logging.getLogger("opentelemetry.exporter.otlp").level
    yield monkeypatch
    logging.getLogger("opentelemetry.exporter.otlp").setLevel(level)
