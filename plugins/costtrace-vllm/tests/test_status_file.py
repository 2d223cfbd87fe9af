"""The status file of a server process: the agent counts each refusal once, and the file goes with its process."""

import atexit

import pytest
from costtrace_vllm.process import process
from costtrace_vllm.server_side import status_file

from costtrace.agent.refuse_over_budget import BudgetRefusals


@pytest.fixture
def at_end(monkeypatch):
    """What the process would do at its end."""
    calls = []
    monkeypatch.setattr(atexit, "register", lambda function, *arguments: calls.append((function, arguments)))
    return calls


@pytest.mark.usefixtures("at_end")
def test_refusals_before_the_first_accepted_request_are_counted_once(tmp_path):
    counted = []
    agent = BudgetRefusals(tmp_path, tmp_path / "budgets.yaml", counted.append)
    refused = process.refusals.counts
    for now, write in ((5, status_file._rewrite), (5, status_file.write_once), (6, status_file._rewrite)):
        refused["acme"] = now
        write()
        agent._count_refused()
    assert counted == [5, 1]


def test_the_file_of_a_process_that_only_refuses_goes_with_it(tmp_path, at_end):
    status_file._rewrite()
    status_file._rewrite()
    (path,) = (tmp_path / "run").iterdir()
    ((remove, arguments),) = at_end
    remove(*arguments)
    assert not path.exists()
