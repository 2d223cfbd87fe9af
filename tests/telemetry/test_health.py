"""Figures of the agent's own health."""

import pytest

from costtrace.telemetry.health import Health


def test_a_figure_of_health_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(ValueError, match=r"'journal\.lagg' .* journal\.lag,"):
        Health().set("journal.lagg", 1)
