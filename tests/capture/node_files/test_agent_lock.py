"""The lock and the status file of a home's agent."""

import shutil

from costtrace.capture.node_files.agent_lock import RUNNING, AgentLock, status


def test_a_home_that_was_deleted_under_its_agent_is_not_made_again(tmp_path):
    home = tmp_path / "home"
    lock = AgentLock(home)
    lock.write_status(state=RUNNING)
    assert status(home)["state"] == RUNNING
    shutil.rmtree(home)
    lock.write_status(state=RUNNING)
    lock.release()
    assert not home.exists()
