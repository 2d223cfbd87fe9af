"""A process in which the plugin has done nothing yet, new for each test."""

import pytest
from costtrace_vllm.engine_side import describe
from costtrace_vllm.process import process
from costtrace_vllm.server_side import aborts, requests, status_file


@pytest.fixture(autouse=True)
def _fresh_process(tmp_path, monkeypatch):
    """Settings are read again, with *tmp_path* as home; caches and the status of hooks are empty."""
    monkeypatch.setenv("COSTTRACE_HOME", str(tmp_path))
    monkeypatch.setattr(process.status, "lost", {})
    monkeypatch.setattr(process.status, "installed", [])
    monkeypatch.setattr(status_file, "_written_by", 0)
    monkeypatch.setattr(status_file, "_rewrite_is_due", False)
    monkeypatch.setattr(describe, "_declared", ("", {}))
    process.forget()
    yield
    aborts._delivered.clear()
    requests._registered.clear()
    process.forget()


@pytest.fixture
def configure(monkeypatch):
    """Set environment variables, by name, and have the process read its settings again."""

    def set_variables(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        process.forget()

    return set_variables
