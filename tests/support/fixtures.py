"""What all tests share: how hard hypothesis tries, and errors that are raised where serving would swallow them."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from costtrace.core import guard

pytest.register_assert_rewrite(
    *("balance", "crash_processes", "home", "ledger_tables", "served_vllm", "simulated_engines"),
    *("double_journal", "nvml_sim_support", "source_tree", "vllm_batches", "vllm_journal"),
)
"""So that a failure in what tests share shows the values too. Both conftests import this before any of them."""

settings.register_profile(
    "quick", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("heavy", max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# A shell's background jobs ignore Ctrl-C, and so would the programs that the tests start to be ended by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

guard.strict(True)  # for fixtures of a wider scope than a test's too


@pytest.fixture(autouse=True)
def _raise_what_is_swallowed(request):
    """An error that serving would swallow fails the test, unless the test is about that: ``@pytest.mark.swallows``."""
    guard.failures.clear()
    guard.strict(request.node.get_closest_marker("swallows") is None)
    yield
    guard.strict(True)
