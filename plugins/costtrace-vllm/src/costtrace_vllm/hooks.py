"""The plugin's entry point: installs costtrace's hooks on vLLM, in each of vLLM's processes.

vLLM calls `register` in the server, in every engine core and worker, in the launcher and in a short-lived process that
inspects the model; with ``fork`` it is not called again in the child. So `register` only arranges that functions are
wrapped once vLLM itself has imported their modules: no heavy import, no thread, no file, no socket. What a process
needs beyond that is made when its first hook runs.
"""

import os
import time
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from costtrace.capture.hooks import on_import
from costtrace.capture.hooks.check import check_fields
from costtrace.core.guard import guard
from costtrace_vllm import contract
from costtrace_vllm.process import process

_SERVER, _ENGINE = "costtrace_vllm.server_side", "costtrace_vllm.engine_side.engine"

WRAPPERS: dict[str, tuple[str, str]] = {
    "http": (f"{_SERVER}.requests", "wrap_http"),
    "peer": ("costtrace.capture.asgi", "wrap_peer"),
    "request.async": (f"{_SERVER}.requests", "wrap_add_async"),
    "request.data_parallel": (f"{_SERVER}.requests", "wrap_add_async"),
    "request.sync": (f"{_SERVER}.requests", "wrap_add"),
    "request.inproc": (f"{_SERVER}.requests", "wrap_add"),
    "delivered": (f"{_SERVER}.aborts", "wrap_finish"),
    "abort.async": (f"{_SERVER}.aborts", "wrap_send"),
    "abort.data_parallel": (f"{_SERVER}.aborts", "wrap_abort_balanced"),
    "abort.sync": (f"{_SERVER}.aborts", "wrap_send"),
    "abort.inproc": (f"{_SERVER}.aborts", "wrap_abort_inproc"),
    **{hook.name: (f"{_SERVER}.answer_estimates", "wrap_answer") for hook in contract.HOOKS if hook.init},
    "answer.embedding.caller": (f"{_SERVER}.answer_estimates", "wrap_build"),
    "scheduler": (_ENGINE, "wrap_scheduler_class"),
    "devices": (_ENGINE, "wrap_devices"),
    "start": (_ENGINE, "wrap_start"),
    "shutdown": (_ENGINE, "wrap_shutdown"),
    "dummy batch": (_ENGINE, "wrap_dummy_batch"),
}
"""Name of a hook -> module and function that wraps it. The module is imported when the hook is installed."""

_registered = False


def register() -> None:
    """Entry point `costtrace` of the group ``vllm.general_plugins``. Never raises; a second call does nothing."""
    global _registered  # noqa: PLW0603 - once a process
    if _registered:
        return
    _registered = True
    with guard("vllm.register"):
        if not process.settings.enabled:
            return
        _remember_start()
        # Without estimates, answers are left alone and a hook on them that does not fit is no loss.
        estimates = process.settings.cost_estimates != "off"
        on_import.install_when_imported(
            (hook for hook in contract.HOOKS if estimates or not hook.name.startswith("answer.")), _install
        )


def _remember_start() -> None:
    registered = (os.getpid(), time.monotonic_ns())

    def set_registered(_module: ModuleType) -> None:
        from costtrace_vllm.engine_side import engine  # noqa: PLC0415 - see the module's docstring

        engine.set_registered(*registered)

    on_import.when_imported("vllm.v1.engine.core", set_registered)


def _wrapper(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    module, function = WRAPPERS[name]
    return getattr(import_module(module), function)  # type: ignore[no-any-return] # a test checks that each is there


def _install(hooks: list[contract.Hook], module: ModuleType) -> None:
    for hook in hooks:
        with guard(f"vllm.hook.{hook.name}"):
            owner = getattr(module, hook.owner, None)
            why = _why_not(owner, hook)
            if why:
                process.status.report_lost(hook.name, f"{hook.module}.{hook.owner} {hook.function}: {why}", hook.lost)
            elif hook.name in WRAPPERS:
                name = hook.function or "__init__"
                # vLLM's own class may inherit its `__init__`.
                original = getattr(owner, name) if hook.init else vars(owner)[name]
                setattr(owner, name, _wrapper(hook.name)(original))
                process.status.installed.append(hook.name)


def _why_not(owner: type | None, hook: contract.Hook) -> str:
    """Why *hook* does not fit; '' where it does."""
    if owner is None:
        return "the class does not exist"
    lost = [name for name in hook.needs if name in process.status.lost]
    if lost:
        return f"it needs the hook {lost[0]}"
    if hook.fields and not hook.function:
        return check_fields(owner, hook.fields)
    return contract.check_callable(vars(owner).get(hook.function), hook.parameters, is_async=hook.is_async)
