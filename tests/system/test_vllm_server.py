import re
import urllib.request
from pathlib import Path

import pytest
from costtrace_lab.demo import traffic
from costtrace_lab.demo.processes import session_members, wait_until
from costtrace_lab.demo.server import VllmServer
from vllm_server import oldest_and_newest

from costtrace.core.errors import ServerError

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]


def metric(server, name, **labels):
    """The sum of a counter of the server's over the rows with these labels."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        rows = [line for line in answer.read().decode().splitlines() if line.startswith(f"{name}{{")]
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows if all(word in row for word in wanted))


@oldest_and_newest
def test_a_real_server_answers_the_demos_traffic_and_leaves_nothing_behind(start_vllm):
    server = start_vllm(worker_in_engine=True)
    sockets = Path(server.variables()["VLLM_RPC_BASE_PATH"])
    requests = traffic.plan(server.model_name, rounds=1)
    sent = traffic.send_all(server.url, requests)

    assert [(one.label, one.status, one.error) for one in sent] == [(r.label, 200, None) for r in requests]
    for one, request in zip(sent, requests, strict=True):
        answers = int(request.body.get("n", 1))
        if request.disconnect_after is not None:
            assert one.aborted
            assert 0 < one.completion_tokens < 600
            continue
        assert len(one.finish_reasons) == answers
        if "stop" in request.body:
            assert one.finish_reasons == ("stop",)
        else:
            assert one.completion_tokens == request.body["max_tokens"] * answers
        assert one.prompt_tokens > 0
    assert len({one.response_id for one in sent}) == len(sent)
    assert wait_until(lambda: metric(server, "vllm:num_requests_running") == 0, 20)
    # Whole answers that the engine counted: the one that the client left is not among them.
    assert metric(server, "vllm:request_success_total") == sum(len(one.finish_reasons) for one in sent)
    assert metric(server, "vllm:prefix_cache_hits_total") > 0

    session = server.pid
    assert server.stop() == []
    assert session_members(session) == []
    assert not sockets.exists()
    assert server.log_path.stat().st_mode & 0o777 == 0o600


def test_the_engine_can_be_killed_alone_and_the_rest_is_cleaned_up(start_vllm):
    server = start_vllm()
    engine = server.kill_engine()
    assert engine not in {member.pid for member in server.members}
    assert server.pid in {member.pid for member in server.members}
    killed = server.stop()
    assert session_members(server.pid) == []
    # A front end of vLLM's that hangs once its engine is dead is killed; what it hangs in must not be costtrace.
    stacks = server.log_path.read_text(errors="replace").partition("Fatal Python error: Aborted")[2]
    assert stacks or server.pid not in {member.pid for member in killed}
    assert not re.search(r'/costtrace(_\w+)?/[a-z_/]+\.py"', stacks)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(start_vllm, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ServerError, match=r"The end of .*-vllm\.log"):
        start_vllm(model=tmp_path / "empty")


def test_an_environment_that_was_not_set_up_is_named_with_the_remedy(tiny_model, tmp_path):
    with pytest.raises(ServerError, match="make setup-vllm"):
        VllmServer(tmp_path, tiny_model, tmp_path / "home")
