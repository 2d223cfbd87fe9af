"""What this plugin keeps for its process: settings, tenancy, refusals, estimates, and the status of its hooks."""

import sys

from costtrace.capture.process import EngineProcess


def vllm_version() -> str:
    """Version of the vLLM in this process; '' where it is not loaded."""
    return str(getattr(sys.modules.get("vllm"), "__version__", ""))


process = EngineProcess("vLLM", vllm_version)
