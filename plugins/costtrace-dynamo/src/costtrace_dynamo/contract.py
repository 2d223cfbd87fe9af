"""What costtrace hooks in Dynamo, as data: checked when a worker starts, by `costtrace doctor`, and by the tests.

The engine's own hooks are costtrace-vllm's, and checked against vLLM. A hook that does not fit is left out and logged
once; serving goes on.
"""

import ast
from pathlib import Path
from typing import Any, NamedTuple

from costtrace.capture.hooks.check import HookCheck, check_callable, compare


class Hook(NamedTuple):
    """A function of Dynamo that is wrapped."""

    name: str
    module: str
    owner: str
    """Class; '' for a function of the module itself."""
    function: str
    parameters: tuple[str, ...]
    """Parameters that it must have, without self, in this order. Others may follow."""
    lost: str


_NO_IDENTITY = (
    "tenant, trace and request id of this role's requests: each is billed to `default`, as a request of its own"
)

HOOKS: tuple[Hook, ...] = (
    Hook(
        "worker", "dynamo.vllm.main", "", "setup_vllm_engine", ("config",),
        "role and worker id on the engine's rows: a worker's idle time is shown as aggregated",
    ),
    Hook("decode", "dynamo.vllm.handlers", "DecodeWorkerHandler", "generate", ("request", "context"), _NO_IDENTITY),
    Hook("prefill", "dynamo.vllm.handlers", "PrefillWorkerHandler", "generate", ("request", "context"), _NO_IDENTITY),
)  # fmt: skip

UNSUPPORTED: dict[str, str] = {
    "vllm/sidecar.py": "`python -m dynamo.vllm.sidecar` talks to a plain vLLM over gRPC: its requests are measured, "
    "but come without Dynamo's context, and are billed to `default`, each part by itself. Use `python -m dynamo.vllm`.",
    "mocker/main.py": "`python -m dynamo.mocker`, and any worker without an engine in Python: nothing is measured. "
    "What such a worker publishes of its forward passes makes an estimate: `costtrace dynamo estimate`.",
    "common/backend/worker.py": "engines written for the unified backend (`dynamo.common.backend`): not hooked. A vLLM "
    "in one is measured, but its requests come without Dynamo's context, and are billed to `default`.",
    "sglang/main.py": "costtrace has no plugin for SGLang: `python -m dynamo.sglang` workers are not billed.",
    "tokenspeed/llm_engine.py": "costtrace has no plugin for this engine: `python -m dynamo.tokenspeed` is not billed.",
    "trtllm/main.py": "`python -m dynamo.trtllm` is not hooked by this plugin but by costtrace-tensorrt-llm, which has "
    "to be installed in its environment: parts are joined, the tenant is by the metadata key `x-costtrace-tenant`.",
}
"""Kinds of workers that are not billed, or not fully: a file that only such a Dynamo has -> what that means."""


def why_not(owner: Any, hook: Hook) -> str:
    """Why *hook* does not fit the class or module *owner*; '' where it does."""
    if owner is None:
        return f"{hook.owner} does not exist"
    return check_callable(vars(owner).get(hook.function), hook.parameters, kind=None)


def check_source(package_dir: Path) -> list[HookCheck[Hook]]:
    """Check every hook against the source in *package_dir* (the folder ``dynamo``), without importing it."""
    checks = []
    for hook in HOOKS:
        why = _why_source(package_dir, hook)
        checks.append(HookCheck(hook, ok=not why, why=why))
    return checks


def unsupported(package_dir: Path) -> list[tuple[str, str]]:
    """The kinds of workers in *package_dir* that are not billed, or not fully, and what that means for each."""
    return [(file, meaning) for file, meaning in UNSUPPORTED.items() if (package_dir / file).is_file()]


def _why_source(package_dir: Path, hook: Hook) -> str:
    path = package_dir.joinpath(*hook.module.split(".")[1:]).with_suffix(".py")
    if not path.is_file():
        return f"there is no {path}"
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    if hook.owner:
        classes = [node for node in body if isinstance(node, ast.ClassDef) and node.name == hook.owner]
        if not classes:
            return f"{hook.module} has no class {hook.owner}"
        body = classes[-1].body
    functions = [node for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for function in functions:
        if function.name == hook.function:
            return compare([argument.arg for argument in function.args.args], hook.parameters)
    return "it does not exist"
