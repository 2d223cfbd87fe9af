"""The contract with vLLM: how it checks a source tree, and that the installed vLLMs keep it."""

import os
import zipfile
from pathlib import Path

import pytest
from costtrace_vllm import contract

ROOT = Path(__file__).parents[3]
INSTALLED = sorted((ROOT / "build").glob("vllm-*/venv/lib/python*/site-packages/vllm"))
WHEELS = sorted(Path(os.environ.get("COSTTRACE_TEST_WHEELS", ROOT / "build" / "wheels")).glob("vllm-*.whl"))


def broken(checks):
    return [(check.hook.name, check.why) for check in checks if not check.ok]


@pytest.mark.parametrize("package", INSTALLED, ids=lambda path: path.parents[4].name)
def test_an_installed_vllm_keeps_the_contract(package):
    checks = contract.check_source(package)
    assert len(checks) > 20
    assert broken(checks) == []


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda path: path.name)
def test_a_vllm_wheel_keeps_the_contract_without_being_installed(wheel, tmp_path):
    modules = {check.hook.module for check in contract.check_source(tmp_path)}
    wanted = {name for module in modules for name in paths(module)}
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path, members=wanted & set(archive.namelist()))
    assert broken(contract.check_source(tmp_path / "vllm")) == []


def paths(module):
    path = module.replace(".", "/")
    return f"{path}.py", f"{path}/__init__.py"


@pytest.fixture
def tree(tmp_path):
    """A source tree that keeps the contract, made from the contract itself."""
    classes: dict[str, dict[str, list[str]]] = {}
    for check in contract.check_source(tmp_path / "nothing"):
        hook = check.hook
        body = classes.setdefault(hook.module, {}).setdefault(hook.owner, ["    pass"])
        if hook.function:
            start = "async def" if hook.is_async else "def"
            body.append(f"    {start} {hook.function}({', '.join(('self', *hook.parameters))}, more=None): ...")
        body += [f"    {name}: int" for name in hook.fields]
    package = tmp_path / "vllm"
    for module, owners in classes.items():
        path = package.joinpath(*module.split(".")[1:], "__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(f"class {name}:\n" + "\n".join(body) for name, body in owners.items()))
    return package


def edit(tree, module, old, new):
    path = tree.joinpath(*module.split("."), "__init__.py")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_tree_that_keeps_the_contract_passes(tree):
    assert broken(contract.check_source(tree)) == []


def test_a_renamed_parameter_is_found(tree):
    edit(tree, "v1.core.sched.scheduler", "scheduler_output, model_runner_output", "batch, model_runner_output")
    ((name, why),) = broken(contract.check_source(tree))
    assert name == "scheduler.update_from_output"
    assert why == (
        "its parameters are (batch, model_runner_output, more), not (scheduler_output, model_runner_output, ...)"
    )


def test_a_field_that_is_gone_is_found(tree):
    edit(tree, "v1.core.sched.output", "    finished_req_ids: int", "")
    assert broken(contract.check_source(tree)) == [("batch", "without finished_req_ids")]


def test_a_function_that_is_no_coroutine_any_more_is_found(tree):
    edit(tree, "v1.engine.core_client", "    async def abort_requests_async", "    def abort_requests_async")
    assert broken(contract.check_source(tree)) == [("abort.data_parallel", "it is no coroutine function")]


def test_a_class_that_is_gone_is_found(tree):
    edit(tree, "v1.engine.output_processor", "class OutputProcessor", "class Other")
    assert broken(contract.check_source(tree)) == [
        ("delivered", "vllm.v1.engine.output_processor has no class OutputProcessor")
    ]
