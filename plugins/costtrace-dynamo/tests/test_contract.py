"""The contract with Dynamo: how it checks a source tree, and that the installed Dynamos keep it."""

from pathlib import Path

import pytest
from costtrace_dynamo import contract

from costtrace.cli.doctor import hooks as doctor
from costtrace.cli.doctor.findings import OK, WARN

ROOT = Path(__file__).parents[3]
INSTALLED = [
    *sorted((ROOT / "build" / "dynamo" / "vllm").glob("venv/lib/python*/site-packages/dynamo")),
    *sorted((ROOT / "build" / "dynamo").glob("*/packages/dynamo")),
]


@pytest.mark.parametrize("package", INSTALLED, ids=lambda path: path.parts[-2])
def test_an_installed_dynamo_keeps_the_contract(package):
    assert [(check.hook.name, check.why) for check in contract.check_source(package) if not check.ok] == []


def test_a_changed_dynamo_is_reported_with_what_is_lost(tmp_path):
    folder = tmp_path / "vllm"
    folder.mkdir()
    (folder / "main.py").write_text("def setup_vllm_engine(config, more=None): ...\n")
    (folder / "handlers.py").write_text("class DecodeWorkerHandler:\n    async def generate(self, job): ...\n")
    (folder / "sidecar.py").write_text("")
    checks = {check.hook.name: check.why for check in contract.check_source(tmp_path)}
    assert checks["worker"] == ""
    assert checks["decode"] == "its parameters are (job), not (request, context, ...)"
    assert checks["prefill"] == "dynamo.vllm.handlers has no class PrefillWorkerHandler"
    findings = list(doctor.check("dynamo", tmp_path))
    assert findings[0].level == OK
    assert any(each.level == WARN and "billed to `default`" in each.message for each in findings)
    (sidecar,) = [each for each in findings if "not supported" in each.message]
    assert "sidecar" in sidecar.message
