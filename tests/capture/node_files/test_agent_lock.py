"""The lock and the status file of a home's agent."""

import shutil

import pytest

from costtrace.capture.node_files.agent_lock import LOCK_NAME, RUNNING, STOPPED, AgentLock, running, status
from costtrace.core.errors import AlreadyRunning, ConfigError


def test_a_home_that_was_deleted_under_its_agent_is_not_made_again(tmp_path):
    home = tmp_path / "home"
    lock = AgentLock(home)
    lock.write_status(state=RUNNING)
    assert status(home)["state"] == RUNNING
    shutil.rmtree(home)
    lock.write_status(state=RUNNING)
    with pytest.raises(ConfigError, match="was deleted while its agent ran"):
        lock.held()
    lock.release()
    assert not home.exists()


def test_a_lock_that_is_deleted_is_made_again_and_is_held(tmp_path):
    lock = AgentLock(tmp_path)
    assert lock.held()
    (tmp_path / LOCK_NAME).unlink()
    assert not running(tmp_path)
    assert not lock.held()
    assert running(tmp_path)
    with pytest.raises(AlreadyRunning):
        AgentLock(tmp_path)
    assert lock.held()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.json", LOCK_NAME]
    lock.release()
    assert not running(tmp_path)


def test_whoever_has_taken_the_lock_meanwhile_has_it_and_its_status_is_not_written_over(tmp_path):
    lock = AgentLock(tmp_path)
    (tmp_path / LOCK_NAME).unlink()
    other = AgentLock(tmp_path)
    other.write_status(state=RUNNING, version="the other's")
    with pytest.raises(AlreadyRunning, match="another one has taken over"):
        lock.held()
    lock.write_status(state=STOPPED)
    lock.release()
    assert status(tmp_path)["version"] == "the other's"
    assert running(tmp_path)
    other.release()
