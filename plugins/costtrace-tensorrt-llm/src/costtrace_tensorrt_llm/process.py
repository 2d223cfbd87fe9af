"""What this plugin keeps for its process: settings, status, who asked, and when the last executor ended."""

import sys

from costtrace.capture.process import EngineProcess
from costtrace_tensorrt_llm.server_side.contexts import Contexts


def engine_version() -> str:
    """Version of the TensorRT-LLM in this process; '' where it is not loaded or does not say."""
    modules = [sys.modules.get(name) for name in ("tensorrt_llm.version", "tensorrt_llm")]
    return next((str(version) for each in modules if (version := getattr(each, "__version__", ""))), "")


class TensorRtLlmProcess(EngineProcess):
    """What this plugin keeps in a server's process or in a rank's."""

    def __init__(self) -> None:
        remedy = "`costtrace doctor --engine tensorrt-llm` shows all of them."
        super().__init__("TensorRT-LLM", engine_version, remedy=remedy)
        self.contexts = Contexts()
        self.last_executor_end = (0, 0)
        """Process id, and when its last executor ended (monotonic ns): a forked child does not inherit it."""


process = TensorRtLlmProcess()
"""The one of this process."""
