import os
import signal
import sys
from pathlib import Path

import pytest

from costtrace.agent.lock import running, status
from costtrace.demo.processes import wait_until

sys.path.insert(0, str(Path(__file__).parent))

from vllm_server import BUILD, ENVIRONMENTS, VllmServer, need


@pytest.fixture(scope="session")
def vllm_environment(request):
    """The folder of a vLLM environment: the newest, or the one the test is parametrized with."""
    folder = getattr(request, "param", ENVIRONMENTS[0])
    need(folder / "env.json", "setup-vllm")
    return folder


@pytest.fixture(scope="session")
def tiny_model():
    return need(BUILD / "tiny-model", "model")


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
            os.kill(int(status(home)["pid"]), signal.SIGTERM)
            assert wait_until(lambda home=home: not running(home), 20)
