"""What the plugin did in this process, in a small file for `costtrace doctor`."""

import sys

from costtrace.capture.node_files.process_status import HookStatus


def engine_version() -> str:
    """Version of the TensorRT-LLM in this process; '' where it is not loaded or does not say."""
    for name in ("tensorrt_llm.version", "tensorrt_llm"):
        version = getattr(sys.modules.get(name), "__version__", "")
        if version:
            return str(version)
    return ""


status = HookStatus(
    "TensorRT-LLM", engine_version, remedy="`costtrace doctor --engine tensorrt-llm` shows all of them."
)
"""Of this process."""
