"""What the tests with a real vLLM share: the environments that `make setup-vllm` made, the tiny model, the server.

    with VllmServer(environment, model, tmp_path / "home") as server: ...

The tests skip where set-up has not been run; `make test` runs it, and sets COSTTRACE_TEST_VLLM=required.
"""

import os
from pathlib import Path

import pytest
from costtrace_lab.demo.server import VllmServer

__all__ = ["BUILD", "ENVIRONMENTS", "VllmServer", "need", "oldest_and_newest"]

BUILD = Path(__file__).resolve().parents[2] / "build"
VERSIONS = os.environ.get("VLLM_VERSIONS", "0.32.0 0.28.0").split()
ENVIRONMENTS = [BUILD / f"vllm-{version}" for version in VERSIONS]
"""The newest first."""


def need(path: Path, rule: str) -> Path:
    """Return a path that set-up makes; skip the test when it is not there, or fail where it has to be."""
    if not path.exists():
        message = f"{path} is not there: run `make {rule}` first"
        if os.environ.get("COSTTRACE_TEST_VLLM") == "required":
            pytest.fail(message)
        pytest.skip(message)
    return path


oldest_and_newest = pytest.mark.parametrize("vllm_environment", ENVIRONMENTS, indirect=True, ids=lambda path: path.name)
"""Runs a test on each of the versions of vLLM; without it, the newest is used."""
