"""The agent's loop on a home of its own."""

import pytest

from costtrace.agent.loop import Agent
from costtrace.capture.node_files.agent_lock import RUNNING, status
from costtrace.config.settings import Settings


@pytest.mark.parametrize("deletes", [True, False])
def test_an_agent_says_that_it_runs_whether_or_not_it_deletes_journals(tmp_path, deletes):
    agent = Agent(Settings(home=tmp_path, journal_delete=deletes))
    try:
        agent._turn()
        assert status(tmp_path).get("state") == RUNNING
    finally:
        agent._close()
