"""What the plugin did in this process, in a small file for `costtrace doctor`."""

import sys

from costtrace.capture.node_files.process_status import HookStatus


def vllm_version() -> str:
    """Version of the vLLM in this process; '' where it is not loaded."""
    return str(getattr(sys.modules.get("vllm"), "__version__", ""))


status = HookStatus("vLLM", vllm_version)
"""Of this process."""
