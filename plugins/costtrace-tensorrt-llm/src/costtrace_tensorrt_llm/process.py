"""What this plugin keeps for this process."""

import sys

from costtrace.capture.process import EngineProcess


def engine_version() -> str:
    """Version of the TensorRT-LLM in this process; '' where it is not loaded or does not say."""
    for name in ("tensorrt_llm.version", "tensorrt_llm"):
        version = getattr(sys.modules.get(name), "__version__", "")
        if version:
            return str(version)
    return ""


process = EngineProcess(
    "TensorRT-LLM", engine_version, remedy="`costtrace doctor --engine tensorrt-llm` shows all of them."
)
"""Of this process."""
