"""The plugin's entry point: passes on from Dynamo's vLLM worker what its engine has to know of a request.

vLLM loads it in each of a worker's processes, as it loads costtrace-vllm. Like that plugin it only arranges that
functions are wrapped once Dynamo itself has imported their modules. All measuring is costtrace-vllm's.
"""

import os
import time
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from costtrace_vllm.process import process

from costtrace.capture.hooks import on_import
from costtrace.core import clock
from costtrace.core.guard import guard
from costtrace_dynamo import contract, identity

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]

ROLE, WORKER = "DYN_COSTTRACE_ROLE", "DYN_COSTTRACE_WORKER"
"""Environment variables by which a worker's main process gives its role and id to its engine processes."""
ROLES = {"agg": "aggregated", "prefill": "prefill", "decode": "decode"}
"""Dynamo's disaggregation modes that have an engine -> costtrace's roles."""

_registered = False
_boot = clock.boot_id()


def register() -> None:
    """Entry point `costtrace_dynamo` of ``vllm.general_plugins``. Never raises; a second call does nothing."""
    global _registered  # noqa: PLW0603 - once a process
    if _registered:
        return
    _registered = True
    with guard("dynamo.register"):
        if not process.settings.enabled:
            return
        on_import.install_when_imported(contract.HOOKS, _install)
        if os.environ.get(ROLE):
            on_import.when_imported("vllm.v1.engine.core", _describe_engine)


def _describe_engine(_module: ModuleType) -> None:
    """In an engine's process: put the worker's role and Dynamo's id of it on the engine's rows."""
    from costtrace_vllm.engine_side import describe  # noqa: PLC0415 - only an engine's process needs it

    describe.declare(os.environ[ROLE], {"dynamo_worker": os.environ.get(WORKER, "")})


def _install(hooks: list[contract.Hook], module: ModuleType) -> None:
    wrappers: dict[str, Wrap] = {"worker": wrap_setup, "decode": wrap_generate, "prefill": wrap_generate}
    for hook in hooks:
        with guard(f"dynamo.hook.{hook.name}"):
            owner = getattr(module, hook.owner, None) if hook.owner else module
            why = contract.why_not(owner, hook)
            if why:
                process.status.report_lost(f"dynamo.{hook.name}", f"{hook.module} {hook.function}: {why}", hook.lost)
                continue
            setattr(owner, hook.function, wrappers[hook.name](vars(owner)[hook.function]))
            process.status.installed.append(f"dynamo.{hook.name}")


def wrap_setup(original: Callable[..., Any]) -> Callable[..., Any]:
    """`dynamo.vllm.main.setup_vllm_engine`: it starts the engine's processes, which inherit the variables set here."""

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
    """`generate` of a worker's handler: register who asks, before the request goes to the engine.

    It is called once a request and returns the handler's own generator, so that tokens do not pass through here.
    """

    @wraps(original)
    def generate(self: Any, request: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("dynamo.generate"):
            register_context(request, context, role_of(getattr(self, "config", None)))
        return original(self, request, context, *args, **kwargs)

    return generate


def register_context(request: Any, context: Any, role: str) -> None:
    """Give the vLLM plugin the context of the request with the id of *context*."""
    from costtrace_vllm.server_side import requests  # noqa: PLC0415 - only a worker's main process needs it

    settings = process.settings
    headers = context.trace_headers()
    request_context = identity.request_context(
        context.id(),
        role,
        identity.tenant_of(settings.dynamo_tenant, dict(context.metadata.items()), request),
        settings.tenant_default,
        traceparent=identity.traceparent_of(headers),
        arrived_ns=time.monotonic_ns(),
        boot=_boot,
        prefilled=bool(request.get("prefill_result")),
    )
    requests.register_context(context.id(), request_context)
