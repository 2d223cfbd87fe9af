"""Hooks wait for vLLM to import its own modules: the core's `late`, under the name that it had here."""

from costtrace.late import still_waiting, when_imported

__all__ = ["still_waiting", "when_imported"]
"""What the plugin uses of it."""
