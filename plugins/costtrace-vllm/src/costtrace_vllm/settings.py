"""The settings of this process."""

from costtrace.capture.process_settings import current

__all__ = ["current"]
"""They are the core's, for every engine alike."""
