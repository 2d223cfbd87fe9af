"""What a plugin keeps for one process."""

import logging

import pytest

from costtrace.capture.process import EngineProcess


@pytest.mark.parametrize("wrong", [("COSTTRACE_WINDOW_S", "7"), ("COSTTRACE_TENANT_HEADERS", "x tenant")])
def test_with_an_unusable_setting_only_loopback_and_unix_sockets_are_trusted(tmp_path, monkeypatch, caplog, wrong):
    monkeypatch.setenv("COSTTRACE_HOME", str(tmp_path))
    monkeypatch.setenv("COSTTRACE_TENANT_TRUSTED_PEERS", "10.0.0.0/8")
    assert EngineProcess("vllm", lambda: "1").tenancy.trusts("10.0.0.1")
    monkeypatch.setenv(*wrong)
    with caplog.at_level(logging.ERROR):
        process = EngineProcess("vllm", lambda: "1")
        policy = process.tenancy
    assert f"{wrong[0]}='{wrong[1]}'" in caplog.text
    assert process.settings.home == tmp_path
    assert [policy.trusts(peer) for peer in ("10.0.0.1", "127.0.0.1", "::1", None)] == [False, True, True, True]
