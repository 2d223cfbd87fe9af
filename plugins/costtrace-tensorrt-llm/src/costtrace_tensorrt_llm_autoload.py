"""What the .pth file runs in every Python process of its environment: next to nothing, until TensorRT-LLM is imported.

A finder waits for the package `tensorrt_llm` (or Dynamo's `dynamo.trtllm`). Only then is it decided whether costtrace
is enabled, by ``TRTLLM_COSTTRACE_ENABLED`` or ``COSTTRACE_ENABLED``: mpi4py sets the variables that it forwards to a
worker after the worker's .pth files have run. Unless one of them is set to yes, nothing of costtrace is imported.
This module imports nothing either, not even of the standard library.
"""

import sys

_WANTED = {"tensorrt_llm", "dynamo.trtllm"}  # emptied once one of them is imported
_YES = {"1", "true", "yes", "on"}


def enabled(env: "dict[str, str]") -> bool:
    """Whether the operator has switched costtrace on for TensorRT-LLM; the plain name counts where both are set."""
    value = env.get("COSTTRACE_ENABLED") or env.get("TRTLLM_COSTTRACE_ENABLED") or ""
    return value.strip().lower() in _YES


class _Finder:
    """In ``sys.meta_path``: never finds a module, but sees which one is imported."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:  # noqa: ARG002 - protocol
        """None, always: the next finder is asked."""
        if fullname in _WANTED:
            _WANTED.clear()
            _begin()


def _begin() -> None:
    import os  # noqa: PLC0415 - see the module's docstring

    if not enabled(dict(os.environ)):
        return
    try:
        from costtrace_tensorrt_llm.hooks import register  # noqa: PLC0415 - see the module's docstring

        register()
    except Exception as error:  # noqa: BLE001 - costtrace may not keep an engine from starting
        sys.stderr.write(f"costtrace: the plugin for TensorRT-LLM could not be loaded, serving goes on: {error!r}\n")


sys.meta_path.insert(0, _Finder())
