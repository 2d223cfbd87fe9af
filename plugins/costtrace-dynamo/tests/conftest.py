"""What all tests of the plugin share: see the vLLM plugin's fresh_process.py."""

from fresh_process import _fresh_process, configure  # noqa: F401 - fixtures
