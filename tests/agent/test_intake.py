"""Which journals the agent follows, and when it gives one up."""

import os
import time

import pytest
from costtrace_lab.engines.schedules import started

from costtrace.agent.intake import STILLBORN_S
from costtrace.agent.loop import Agent
from costtrace.config.settings import Settings
from costtrace.core.client_text import short
from costtrace.core.events import EngineReady, SequenceAdded, Snapshot
from costtrace.journal.writer import JournalWriter


@pytest.fixture
def agent(tmp_path):
    agent = Agent(Settings(home=tmp_path))
    yield agent
    agent._close()


@pytest.fixture
def empty(tmp_path):
    """The directory of an engine that has not written a byte."""
    directory = tmp_path / "journal" / "vllm-1"
    directory.mkdir(parents=True)
    return directory


def test_an_empty_journal_is_given_up_once_it_is_old(agent, empty):
    agent._turn()
    assert agent.intake.alive()
    old_s = time.time() - STILLBORN_S - 1
    os.utime(empty, (old_s, old_s))
    agent._turn()
    assert not agent.intake.alive()


def test_an_empty_journal_that_is_removed_is_given_up_at_once(agent, empty):
    agent._turn()
    empty.rmdir()
    agent._turn()
    assert not agent.intake.alive()
    assert not agent.intake._held, "it does not hold attribution back"


def test_sequences_with_a_text_that_was_cut_are_counted(agent, tmp_path):
    writer = JournalWriter(tmp_path, "vllm-1", lambda n: Snapshot(n, 1, 0, (), ()), cap_bytes=1 << 30)
    names = ["short", short("x" * 300), "y" * 256]
    added = [SequenceAdded(n, 100, name, name, name, name, 1, "m", "t", "header") for n, name in enumerate(names)]
    writer.append([started(("GPU-0",), 5), EngineReady(6), *added])
    agent._turn()
    assert agent.intake.cut == 1
    writer.close()
