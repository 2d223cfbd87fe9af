"""The settings of this process, read when TensorRT-LLM is there: only then are the forwarded variables set."""

from costtrace.capture.process_settings import current

__all__ = ["current"]
"""They are the core's, for every engine alike."""
