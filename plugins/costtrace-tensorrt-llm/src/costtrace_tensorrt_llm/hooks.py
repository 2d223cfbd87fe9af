"""Lays costtrace's hooks on TensorRT-LLM, in each of its processes, once somebody imports what they are laid on.

The .pth file leads here (`costtrace_tensorrt_llm_autoload`), in the server, in every MPI or Ray worker and in Dynamo's
worker alike. No import of weight, no thread, no file, no socket before the first hook runs.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from costtrace.capture.asgi import wrap_peer
from costtrace.capture.hooks import on_import as late
from costtrace.capture.hooks.check import check_fields
from costtrace.core.guard import guard
from costtrace_tensorrt_llm.contract.check import check_callable
from costtrace_tensorrt_llm.contract.hooks_by_version import HOOKS, Hook
from costtrace_tensorrt_llm.process import process

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]

_done = False


def register() -> None:
    """Wait for TensorRT-LLM's modules. Never raises; a second call does nothing."""
    global _done  # noqa: PLW0603 - once a process
    if _done:
        return
    _done = True
    with guard("trtllm.register"):
        late.when_theirs_are(HOOKS, lay)


def wraps_of() -> dict[str, Wrap]:
    """What lays each hook. The modules with the wrappers are imported only where a module of the engine is."""
    from costtrace_tensorrt_llm.rank_side import executor  # noqa: PLC0415 - as said above
    from costtrace_tensorrt_llm.server_side import requests  # noqa: PLC0415 - as said above

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


def lay(hooks: list[Hook], module: ModuleType) -> None:
    """Lay *hooks* on *module*, where they fit; say which do not."""
    by_name = wraps_of()
    for hook in hooks:
        with guard(f"trtllm.hook.{hook.name}"):
            owner = getattr(module, hook.owner, None)
            why = _why_not(owner, hook)
            if not why and owner is not None:
                if hook.function:
                    setattr(owner, hook.function, by_name[hook.name](vars(owner)[hook.function]))
                if hook.name == "queue item" and "__setstate__" not in vars(owner):
                    from costtrace_tensorrt_llm.server_side.requests import unpack_queue_item  # noqa: PLC0415 - see `wraps_of`

                    owner.__setstate__ = unpack_queue_item
                process.status.installed.append(hook.name)
            elif not hook.optional and hook.name != "enqueue.1.0":  # it is there only where `enqueue` is not
                process.status.say_lost(hook.name, f"{hook.module}.{hook.owner} {hook.function}: {why}", hook.lost)


def _why_not(owner: Any, hook: Hook) -> str:
    if owner is None:
        return "the class does not exist"
    if hook.fields:
        return check_fields(owner, hook.fields)
    return check_callable(vars(owner).get(hook.function), hook) if hook.function else ""
