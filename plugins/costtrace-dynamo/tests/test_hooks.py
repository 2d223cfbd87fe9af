"""The Dynamo plugin: what it makes of what a worker is handed, and that the Dynamos at hand keep its contract."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from costtrace_dynamo import contract, hooks, identity
from costtrace_vllm import request_context
from costtrace_vllm.engine_side import describe
from costtrace_vllm.engine_side.sequences import Sequences
from costtrace_vllm.request_context import HEADER
from costtrace_vllm.server_side import requests

from costtrace.cli.doctor import hooks as doctor
from costtrace.cli.doctor.findings import OK, WARN
from costtrace.core import guard
from costtrace.core.rows import JOINED

ROOT = Path(__file__).parents[3]
INSTALLED = [
    *sorted((ROOT / "build" / "dynamo" / "vllm").glob("venv/lib/python*/site-packages/dynamo")),
    *sorted((ROOT / "build" / "dynamo").glob("*/packages/dynamo")),
]
ID = "0a1b2c3d-0000-4000-8000-00000000000f"
TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
CHANNELS = ("metadata:tenant", "cache_salt", "annotation:tenant")


@pytest.mark.parametrize("package", INSTALLED, ids=lambda path: path.parts[-2])
def test_an_installed_dynamo_keeps_the_contract(package):
    assert [(check.hook.name, check.why) for check in contract.check_source(package) if not check.ok] == []


def test_a_dynamo_that_has_changed_is_told_with_what_is_lost(tmp_path):
    folder = tmp_path / "vllm"
    folder.mkdir()
    (folder / "main.py").write_text("def setup_vllm_engine(config, more=None): ...\n")
    (folder / "handlers.py").write_text("class DecodeWorkerHandler:\n    async def generate(self, job): ...\n")
    (folder / "sidecar.py").write_text("")
    checks = {check.hook.name: check.why for check in contract.check_source(tmp_path)}
    assert checks["worker"] == ""
    assert checks["decode"] == "its parameters are (job), not (request, context, ...)"
    assert checks["prefill"] == "dynamo.vllm.handlers has no class PrefillWorkerHandler"
    found = list(doctor.check("dynamo", tmp_path))
    assert found[0].level == OK
    assert any(one.level == WARN and "billed to `default`" in one.message for one in found)
    (sidecar,) = [one for one in found if "not supported" in one.message]
    assert "sidecar" in sidecar.message


def test_the_first_channel_that_names_a_tenant_decides():
    request = {"routing": {"cache_salt": "dynamo-cache-salt:globex"}, "annotations": ["other:x", "tenant:initech"]}
    assert identity.tenant_of(CHANNELS, {"tenant": "acme"}, request) == ("acme", "metadata:tenant")
    assert identity.tenant_of(CHANNELS, {}, request) == ("globex", "cache_salt")
    assert identity.tenant_of(CHANNELS[::2], {}, request) == ("initech", "annotation:tenant")
    assert identity.tenant_of(CHANNELS[:1], {}, request) == ("", "default"), "only what was asked for is believed"


@pytest.mark.parametrize("name", ["__other__", "ü", "a" * 200, "a\nb"])
def test_a_name_that_cannot_be_a_tenants_is_rejected_and_nobody_else_is_asked(name):
    request = {"routing": {"cache_salt": "globex"}}
    assert identity.tenant_of(CHANNELS, {"tenant": name}, request) == ("", "rejected:invalid")


@pytest.mark.parametrize(
    "request_", [{}, {"routing": None}, {"routing": {"cache_salt": 7}}, {"annotations": "tenant:x"}]
)
def test_what_is_not_as_it_should_be_names_nobody(request_):
    assert identity.tenant_of(CHANNELS, {"tenant": None}, request_) == ("", "default")


class Context:
    def __init__(self, metadata=None, headers=None):
        self.metadata, self._headers = metadata or {}, headers

    def id(self):
        return ID

    def trace_headers(self):
        return self._headers


class Handler:
    config = SimpleNamespace(disaggregation_mode=SimpleNamespace(value="prefill"))

    async def generate(self, request, context):
        yield request, context


def engine_request(number=0):
    internal = f"{number}_{ID}-0123abcd" if number else f"{ID}-0123abcd"
    return SimpleNamespace(request_id=internal, external_req_id=ID, trace_headers=None, pooling_params=None)


def test_a_part_reaches_its_engine_with_its_request_its_trace_its_tenant_and_its_role():
    wrapped = hooks.wrap_generate(Handler.generate)
    context = Context({"tenant": "acme"}, {"traceparent": TRACE, "request-id": ID})
    assert wrapped(Handler(), {"token_ids": [1]}, context).__class__.__name__ == "async_generator"
    asked = engine_request()
    labelled = threading.Thread(target=requests.attach_context, args=(asked,))  # no context variable leads there
    labelled.start()
    labelled.join()
    header = asked.trace_headers[HEADER]
    found = request_context.decode(header)
    assert (found.request_key, found.request_id, found.role) == (JOINED + ID, ID, "prefill")
    assert (found.tenant, found.tenant_source, found.traceparent) == ("acme", "metadata:tenant", TRACE)
    added = Sequences("tiny", found.boot).add(found.arrived_ns, asked.request_id, header, 18, "", False)
    assert (added.role, added.request_key, added.tenant, added.prompt_key) == (
        "prefill", JOINED + ID, "acme", f"{ID}-0123abcd",
    )  # fmt: skip


def test_without_metadata_and_trace_the_request_is_joined_all_the_same():
    hooks.introduce({}, Context(), "decode")
    requests.attach_context(asked := engine_request())
    found = request_context.decode(asked.trace_headers[HEADER])
    assert (found.tenant, found.tenant_source, found.traceparent) == ("default", "default", "")
    assert (found.request_key, found.role) == (JOINED + ID, "decode")


def test_sequences_of_one_request_share_its_prompt():
    hooks.introduce({}, Context({"tenant": "acme"}), "aggregated")
    keys = set()
    for number in (1, 2):
        requests.attach_context(asked := engine_request(number))
        keys.add(request_context.decode(asked.trace_headers[HEADER]).prompt_key)
    assert len(keys) == 1


@pytest.mark.swallows
def test_a_request_is_served_even_if_nothing_can_be_learnt_of_it():
    before = guard.failures.get("dynamo.generate", 0)
    assert hooks.wrap_generate(lambda *_: "served")(Handler(), {}, object()) == "served"
    assert guard.failures["dynamo.generate"] == before + 1


def test_only_the_newest_callers_are_remembered(monkeypatch):
    monkeypatch.setattr(requests, "REMEMBERED", 3)
    for number in range(9):
        requests.register_context(str(number), None)
    assert list(requests._registered) == ["6", "7", "8"]


@pytest.mark.parametrize(("mode", "role"), [("agg", "aggregated"), ("prefill", "prefill"), ("decode", "decode")])
def test_a_workers_engine_is_told_its_role_and_the_id_that_dynamo_gave_it(monkeypatch, mode, role):
    monkeypatch.delenv(hooks.ROLE, raising=False)
    monkeypatch.delenv(hooks.WORKER, raising=False)
    monkeypatch.setattr(describe, "_declared", ("", {}))
    config = SimpleNamespace(disaggregation_mode=SimpleNamespace(value=mode))
    started = hooks.wrap_setup(lambda config, fpm_worker_id=None: dict(os.environ))(config, fpm_worker_id="77")
    assert (started[hooks.ROLE], started[hooks.WORKER]) == (role, "77")
    hooks._describe_engine(None)
    both = SimpleNamespace(kv_transfer_config=SimpleNamespace(kv_role="kv_both"))
    assert describe.role_of(both) == role
    assert describe.settings_of(both)["dynamo_worker"] == "77"


def test_the_form_for_kubernetes_gives_each_worker_the_plugins_home_and_an_agent_beside_it():
    from yaml import safe_load

    deployment = safe_load((ROOT / "examples" / "dynamo" / "dynamographdeployment.yaml").read_text())
    assert (deployment["apiVersion"], deployment["kind"]) == ("nvidia.com/v1beta1", "DynamoGraphDeployment")
    workers = [part for part in deployment["spec"]["components"] if part["type"] != "frontend"]
    assert {part["type"] for part in workers} == {"prefill", "decode"}
    for part in workers:
        pod = part["podTemplate"]["spec"]
        main, agent = pod["containers"]
        homes = [{e["name"]: e.get("value") for e in c["env"]}["COSTTRACE_HOME"] for c in (main, agent)]
        assert (main["name"], homes[0], agent["command"]) == ("main", homes[1], ["costtrace", "agent"])
        assert f"--disaggregation-mode={part['type']}" in main["args"]
        mounts = {m["mountPath"]: m for m in main["volumeMounts"]}
        assert mounts[homes[0]] in agent["volumeMounts"], "they share the volume of the journals"
        assert {m["name"] for m in agent["volumeMounts"]} <= {v["name"] for v in pod["volumes"]}
