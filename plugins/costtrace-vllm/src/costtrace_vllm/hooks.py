"""The plugin's entry point: lays costtrace's hooks on vLLM, in each of vLLM's processes.

vLLM calls `register` in the server, in every engine core and worker, in the launcher and in a short-lived process that
inspects the model; with ``fork`` it is not called again in the child. So it only arranges for functions to be wrapped
once their modules are loaded by somebody else: no import of weight, no thread, no file, no socket. What a process needs
beyond that is made when its first hook runs.
"""

import os
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from costtrace.capture.asgi import wrap_peer
from costtrace.capture.hooks import on_import as late
from costtrace.capture.hooks.check import check_fields
from costtrace.core.guard import guard
from costtrace_vllm import contract
from costtrace_vllm.process import process

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]

_done = False


def register() -> None:
    """Entry point `costtrace` of the group ``vllm.general_plugins``. Never raises; a second call does nothing."""
    global _done  # noqa: PLW0603 - once a process
    if _done:
        return
    _done = True
    with guard("vllm.register"):
        if not process.settings.enabled:
            return
        _remember_start()
        # Answers are left alone, and no loss is reported, where nobody wants estimates in them.
        estimates = process.settings.cost_estimates != "off"
        late.when_theirs_are(
            (hook for hook in contract.HOOKS if estimates or not hook.name.startswith("answer.")), _lay
        )


def _remember_start() -> None:
    started = (os.getpid(), time.monotonic_ns())
    late.when_imported("vllm.v1.engine.core", lambda _: _engine().set_registered(*started))


def _engine() -> Any:
    from costtrace_vllm.engine_side import engine  # noqa: PLC0415 - see the module's docstring

    return engine


def _wraps() -> dict[str, Callable[[], Wrap]]:
    """What lays each hook; looked up when its module is there."""

    def front(name: str) -> Callable[[], Wrap]:
        def find() -> Wrap:
            from costtrace_vllm.server_side import requests  # noqa: PLC0415 - see the module's docstring

            return getattr(requests, name)  # type: ignore[no-any-return] # the tests check that it is there

        return find

    def core(name: str) -> Callable[[], Wrap]:
        return lambda: getattr(_engine(), name)

    return {
        "http": front("wrap_http"),
        "peer": lambda: wrap_peer,
        "request.async": front("wrap_add_async"),
        "request.data_parallel": front("wrap_add_async"),
        "request.sync": front("wrap_add"),
        "request.inproc": front("wrap_add"),
        "delivered": front("wrap_finish"),
        "abort.async": front("wrap_send"),
        "abort.data_parallel": front("wrap_abort_balanced"),
        "abort.sync": front("wrap_send"),
        "abort.inproc": front("wrap_abort_inproc"),
        **{hook.name: front("wrap_answer") for hook in contract.HOOKS if hook.init},
        "answer.embedding.caller": front("wrap_build"),
        "scheduler": core("wrap_scheduler_class"),
        "devices": core("wrap_devices"),
        "start": core("wrap_start"),
        "shutdown": core("wrap_shutdown"),
        "dummy batch": core("wrap_dummy_batch"),
    }


def _lay(hooks: list[contract.Hook], module: ModuleType) -> None:
    by_name = _wraps()
    for hook in hooks:
        with guard(f"vllm.hook.{hook.name}"):
            owner = getattr(module, hook.owner, None)
            why = _why_not(owner, hook)
            if why:
                process.status.say_lost(hook.name, f"{hook.module}.{hook.owner} {hook.function}: {why}", hook.lost)
            elif hook.name in by_name:
                # Whatever class has it: a class of vLLM's inherits its `__init__`.
                laid = hook.function or "__init__"
                original = getattr(owner, laid) if hook.init else vars(owner)[laid]
                setattr(owner, laid, by_name[hook.name]()(original))
                process.status.installed.append(hook.name)


def _why_not(owner: type | None, hook: contract.Hook) -> str:
    if owner is None:
        return "the class does not exist"
    lost = [name for name in hook.needs if name in process.status.lost]
    if lost:
        return f"it needs the hook {lost[0]}"
    if hook.fields and not hook.function:
        return check_fields(owner, hook.fields)
    return contract.check_callable(vars(owner).get(hook.function), hook.parameters, is_async=hook.is_async)
