"""The plugin's entry point: takes from Dynamo's vLLM worker what its engine has to know of a request.

vLLM loads it as it loads costtrace-vllm, in each of a worker's processes, and like that it only arranges for functions
to be wrapped once somebody else has imported their modules. What is measured, and how, is costtrace-vllm's alone.
"""

import os
import time
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from costtrace_vllm.process import process

from costtrace.capture.hooks import on_import as late
from costtrace.core import clock
from costtrace.core.guard import guard
from costtrace_dynamo import contract, identity

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]

ROLE, WORKER = "DYN_COSTTRACE_ROLE", "DYN_COSTTRACE_WORKER"
"""How a worker's main process tells its engine processes, which it starts, what they work for."""
ROLES = {"agg": "aggregated", "prefill": "prefill", "decode": "decode"}
"""Dynamo's disaggregation modes that have an engine, in costtrace's words."""

_done = False
_boot = clock.boot_id()


def register() -> None:
    """Entry point `costtrace_dynamo` of the group ``vllm.general_plugins``. Never raises; twice does nothing."""
    global _done  # noqa: PLW0603 - once a process
    if _done:
        return
    _done = True
    with guard("dynamo.register"):
        if not process.settings.enabled:
            return
        late.when_theirs_are(contract.HOOKS, _lay)
        if os.environ.get(ROLE):
            late.when_imported("vllm.v1.engine.core", _describe_engine)


def _describe_engine(_module: ModuleType) -> None:
    """In an engine's process: its rows show the worker's role, and the id by which Dynamo's own metrics name it."""
    from costtrace_vllm.engine_side import describe  # noqa: PLC0415 - only an engine's process needs it

    describe.declare(os.environ[ROLE], {"dynamo_worker": os.environ.get(WORKER, "")})


def _lay(hooks: list[contract.Hook], module: ModuleType) -> None:
    wraps_by_name: dict[str, Wrap] = {"worker": wrap_setup, "decode": wrap_generate, "prefill": wrap_generate}
    for hook in hooks:
        with guard(f"dynamo.hook.{hook.name}"):
            owner = getattr(module, hook.owner, None) if hook.owner else module
            why = contract.why_not(owner, hook)
            if why:
                process.status.say_lost(f"dynamo.{hook.name}", f"{hook.module} {hook.function}: {why}", hook.lost)
                continue
            setattr(owner, hook.function, wraps_by_name[hook.name](vars(owner)[hook.function]))
            process.status.installed.append(f"dynamo.{hook.name}")


def wrap_setup(original: Callable[..., Any]) -> Callable[..., Any]:
    """`dynamo.vllm.main.setup_vllm_engine`: the engine's processes start in it, and inherit what is said here."""

    @wraps(original)
    def setup_vllm_engine(config: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("dynamo.worker"):
            os.environ[ROLE] = role_of(config)
            os.environ[WORKER] = str(kwargs.get("fpm_worker_id") or "")
        return original(config, *args, **kwargs)

    return setup_vllm_engine


def role_of(config: Any) -> str:
    """The role of a worker, by its configuration."""
    mode = getattr(config, "disaggregation_mode", None)
    return ROLES.get(str(getattr(mode, "value", mode)), "aggregated")


def wrap_generate(original: Callable[..., Any]) -> Callable[..., Any]:
    """`generate` of a worker's handler: remember who asks, until the engine's client is asked for this id.

    It is called once a request and hands back the handler's own generator: a token costs nothing.
    """

    @wraps(original)
    def generate(self: Any, request: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("dynamo.generate"):
            introduce(request, context, role_of(getattr(self, "config", None)))
        return original(self, request, context, *args, **kwargs)

    return generate


def introduce(request: Any, context: Any, role: str) -> None:
    """Tell the vLLM plugin who is behind the id of *context*."""
    from costtrace_vllm.server_side import requests  # noqa: PLC0415 - only a worker's main process needs it

    current = process.settings
    headers = context.trace_headers()
    found = identity.request_context(
        context.id(),
        role,
        identity.tenant_of(current.dynamo_tenant, dict(context.metadata.items()), request),
        current.tenant_default,
        traceparent=identity.traceparent_of(headers),
        arrived_ns=time.monotonic_ns(),
        boot=_boot,
    )
    requests.register_context(context.id(), found)
