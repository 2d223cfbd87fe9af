"""Installs costtrace's hooks on TensorRT-LLM, in each of its processes, as the modules that are hooked are imported.

`costtrace_tensorrt_llm_autoload` calls `register` in the server, in every MPI or Ray worker and in Dynamo's worker.
No heavy import before a hook is installed; no thread, no file and no socket before one runs.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from costtrace.capture.asgi import wrap_peer
from costtrace.capture.hooks import on_import
from costtrace.capture.hooks.check import check_fields
from costtrace.core.guard import guard
from costtrace_tensorrt_llm.contract.check import check_callable
from costtrace_tensorrt_llm.contract.hook_list import HOOKS, Hook
from costtrace_tensorrt_llm.upstream import Method

_registered = False


def register() -> None:
    """Wait for TensorRT-LLM's modules. Never raises; a second call does nothing."""
    global _registered  # noqa: PLW0603 - once a process
    if _registered:
        return
    _registered = True
    with guard("trtllm.register"):
        on_import.install_when_imported(HOOKS, install)


def wrappers() -> dict[str, Callable[[Method], Method]]:
    """The wrapper of each hook. They are imported with the engine, so that other processes do not pay for them."""
    from costtrace_tensorrt_llm.rank_side import executor  # noqa: PLC0415 - see the docstring
    from costtrace_tensorrt_llm.server_side import requests  # noqa: PLC0415 - see the docstring

    return {
        "forward": executor.wrap_forward,
        "sample": executor.wrap_sample,
        "responses": executor.wrap_responses,
        "errors": executor.wrap_errors,
        "iteration": executor.wrap_iteration,
        "stats": executor.wrap_stats,
        "start": executor.wrap_start,
        "stop": executor.wrap_stop,
        "enqueue": requests.wrap_enqueue,
        "enqueue.1.0": requests.wrap_enqueue,
        "queue item": requests.wrap_queue_item,
        "label": requests.wrap_label,
        "http": requests.wrap_server,
        "peer": wrap_peer,
        "dynamo": requests.wrap_dynamo,
    }


def install(hooks: list[Hook], module: ModuleType) -> None:
    """Install *hooks* on *module* where they fit; log those that do not."""
    from costtrace_tensorrt_llm.process import process  # noqa: PLC0415 - as in `wrappers`
    from costtrace_tensorrt_llm.server_side.requests import unpack_queue_item  # noqa: PLC0415 - as in `wrappers`

    wrapper_of = wrappers()
    for hook in hooks:
        with guard(f"trtllm.hook.{hook.name}"):
            owner = getattr(module, hook.owner, None)
            why = _why_not(owner, hook)
            if not why and owner is not None:
                if hook.function:
                    setattr(owner, hook.function, wrapper_of[hook.name](vars(owner)[hook.function]))
                if hook.name == "queue item" and "__setstate__" not in vars(owner):
                    owner.__setstate__ = unpack_queue_item
                process.status.installed.append(hook.name)
            elif not hook.optional and hook.name != "enqueue.1.0":  # only versions without `enqueue` have it
                process.status.report_lost(hook.name, f"{hook.module}.{hook.owner} {hook.function}: {why}", hook.lost)


def _why_not(owner: Any, hook: Hook) -> str:
    if owner is None:
        return "the class does not exist"
    if hook.fields:
        return check_fields(owner, hook.fields)
    return check_callable(vars(owner).get(hook.function), hook) if hook.function else ""
