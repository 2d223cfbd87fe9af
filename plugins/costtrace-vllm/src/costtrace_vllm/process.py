"""What this plugin keeps for this process."""

import sys

from costtrace.capture.process import EngineProcess


def vllm_version() -> str:
    """Version of the vLLM in this process; '' where it is not loaded."""
    return str(getattr(sys.modules.get("vllm"), "__version__", ""))


process = EngineProcess("vLLM", vllm_version)
"""Of this process."""
