"""What dies beside a real server under load, and comes back: agent, collector, price book, ledger; and the engine."""

import json
import os
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing, contextmanager

import pytest
from costtrace_lab.demo.processes import wait_until
from http_client import COMPLETIONS, Ask, Stream, Traffic, completion, tenant
from otlp_receiver import attributes
from served_vllm import PRICES, serving

from costtrace.capture.node_files.agent_lock import running

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def world(vllm_environment, tiny_model, tmp_path_factory):
    with serving(vllm_environment, tiny_model, tmp_path_factory.mktemp("failures")) as made:
        yield made


def check_all_there_once(world, replies):
    """Every answered request is in the ledger, once, with the server's tokens; and the books balance."""
    assert replies
    assert {reply.status for reply in replies} == {200}, Counter(reply.error for reply in replies)
    world.home.wait_for(replies)
    rows = Counter(row[0] for row in world.home.rows("SELECT request_id FROM usage"))
    assert {rows[reply.id] for reply in replies} == {1}
    for reply in replies:
        row = world.home.usage(reply.id)
        assert (row["input_tokens"], row["output_tokens"]) == reply.tokens
    world.home.verify()
    world.home.check_open_books()


def check_every_span_once(world, since=0, *, kills=0):
    """The receiver has one span for each row, by span id; of those from *since* on, none came twice.

    *kills*: of agents while they sent. What one had sent and not noted is sent again by the next, under the same id.
    """

    def missing():
        rows = {row[0] for row in world.home.rows("SELECT record_id FROM usage")}
        return rows - {attributes(span)["costtrace.record.id"] for span in list(world.receiver.roots)}

    assert wait_until(lambda: not missing(), 60, 0.2), missing()
    spans = Counter(span.span_id for span in world.receiver.spans[since:])
    assert max(spans.values()) <= 1 + kills
    ids = {(attributes(span)["costtrace.record.id"], span.span_id) for span in world.receiver.roots}
    assert len(ids) == len({record for record, _ in ids}), "a record has one span id, however often it is sent"


def all_sent(world):
    """Nothing is under way to the receiver; how many spans it has."""
    newest = "SELECT max(usage_id) FROM usage"
    sent = "SELECT max(usage_id) FROM cursor"
    assert wait_until(lambda: world.home.one(sent) == world.home.one(newest), 60, 0.2)
    return len(world.receiver.spans)


def test_an_agent_that_is_killed_again_and_again_loses_and_doubles_nothing(world):
    killed = []
    with Traffic(world.url) as traffic:
        for pause_s in (0.1, 0.7, 1.3):
            newest = world.home.wait_for_agent(killed[-1] if killed else None)
            time.sleep(pause_s)
            killed.append(world.home.kill_agent())
            assert newest == killed[-1]
        world.home.wait_for_agent(killed[-1])
        time.sleep(1)
    assert len(set(killed)) == 3
    check_all_there_once(world, traffic.replies)
    assert world.home.one("SELECT sum(gpu_ns) FROM posting WHERE kind = 'unobserved'") is None
    check_every_span_once(world, kills=len(killed))


def test_an_agent_started_by_hand_takes_over_and_a_second_one_says_who_runs(world):
    world.home.wait_for_agent()
    with Traffic(world.url) as traffic:
        with world.home.agent_by_hand() as mine:
            second = world.home.command("agent")
            assert second.returncode != 0
            assert f"an agent (pid {mine.pid}) runs on {world.home.path} already" in second.stderr
            time.sleep(3)
            assert world.home.agent_pid() == mine.pid, "the plugin starts none while one runs"
            mine.send_signal(signal.SIGKILL)
        world.home.wait_for_agent(mine.pid)
    check_all_there_once(world, traffic.replies)


def test_a_collector_that_is_down_gets_every_span_once_afterwards(world):
    world.home.wait_for_agent()
    since, before = all_sent(world), len(world.receiver.roots)
    world.door.close()
    try:
        with Traffic(world.url) as traffic:
            time.sleep(4)
            killed = world.home.kill_agent()  # what it has not sent must not be forgotten with it
            world.home.wait_for_agent(killed)
            time.sleep(2)
        world.home.wait_for(traffic.replies)
        assert len(world.receiver.roots) == before
    finally:
        world.door.open()
    check_all_there_once(world, traffic.replies)
    check_every_span_once(world, since)
    assert len(world.receiver.roots) - before >= len(traffic.replies)


@contextmanager
def agent_refusing(world, *words):
    """Within the block no agent can start, and each one that tries says so."""
    said = len(world.home.log())
    world.home.kill_agent()
    assert wait_until(lambda: all(word in world.home.log()[said:] for word in words), 60), world.home.log()[said:]
    assert world.home.agent_pid() is None
    with Traffic(world.url) as traffic:
        time.sleep(1.5)
    yield traffic.replies
    # The plugin tries again after a growing delay; a person would not wait.
    with world.home.agent_by_hand():
        world.home.wait_for(traffic.replies)


def test_a_ledger_of_a_newer_version_is_left_alone_and_nothing_is_lost(world):
    world.home.wait_for_agent()
    version = world.home.one("PRAGMA user_version")
    set_version(world, 99)
    with agent_refusing(world, "has schema 99", "newer version", "Update costtrace-core") as replies:
        report = world.home.command("report")
        assert report.returncode != 0
        assert "Update costtrace-core" in report.stderr
        assert world.home.one("PRAGMA user_version") == 99
        set_version(world, version)
    check_all_there_once(world, replies)


def set_version(world, version):
    with closing(sqlite3.connect(world.home.path / "ledger.sqlite", timeout=20)) as ledger:
        ledger.execute(f"PRAGMA user_version = {version}")


def test_a_broken_price_book_is_named_and_nothing_is_lost(world):
    world.home.wait_for_agent()
    book = world.server.log_path.parent / "prices.yaml"
    book.write_text("version: x\ncurrency: USD\ndevices:\n  - {match: '*', kind: cpu, per_gpu_hour: cheap}\n")
    try:
        with agent_refusing(world, str(book), "cheap") as replies:
            book.write_text(PRICES)
    finally:
        book.write_text(PRICES)
    check_all_there_once(world, replies)
    assert all(world.home.usage(reply.id)["cost_nano"] > 0 for reply in replies)


def test_a_device_without_a_price_has_time_and_no_cost_and_is_named(world):
    world.home.wait_for_agent()
    book = world.server.log_path.parent / "prices.yaml"
    book.write_text(PRICES.replace("kind: cpu", "kind: gpu"))
    try:
        killed = world.home.kill_agent()
        world.home.wait_for_agent(killed)
        with Traffic(world.url) as traffic:
            time.sleep(1)
        check_all_there_once(world, traffic.replies)
        device = world.home.one("SELECT device_name FROM engine")
        assert any(device in notice for notice in world.home.notices("price")), world.home.notices("price")
        for reply in traffic.replies:
            row = world.home.usage(reply.id)
            assert row["gpu_ns"] > 0
            assert (row["cost_nano"], row["prefill_nano"], row["decode_nano"]) == (None, None, None)
        assert "unknown" in world.home.command("report").stdout
    finally:
        book.write_text(PRICES)
        killed = world.home.kill_agent()
        world.home.wait_for_agent(killed)
    with Traffic(world.url) as traffic:
        time.sleep(1)
    check_all_there_once(world, traffic.replies)
    assert world.home.usage(traffic.replies[-1].id)["cost_nano"] > 0


def test_an_engine_that_is_killed_has_its_open_requests_interrupted_and_all_its_time_accounted_for(world):
    stories = [completion(f"a long story, number {n}", 950, stream=True) for n in range(4)]
    streams = [Ask(COMPLETIONS, story, [tenant("victims")]) for story in stories]
    since = all_sent(world)
    clients = [Stream(world.url, one) for one in streams]
    assert wait_until(lambda: all(client.has(60) for client in clients), 120, 0.005)
    assert all(client.is_alive() for client in clients), "they are still open"
    killed_wall_ns = time.time_ns()
    world.server.kill_engine()
    for client in clients:
        client.join()
    replies = [client.reply for client in clients]
    world.home.wait_closed()
    assert len([reply for reply in replies if reply.id]) == 4
    for reply in replies:
        row = world.home.usage(reply.id)
        assert json.loads(row["finish_reasons"]) == ["interrupted"]
        assert row["input_tokens"] == reply.tokens[0]
        # The journal is written every 50 ms: the client may have received a little more.
        assert 0 < row["output_tokens"] < 950
        assert abs(row["output_tokens"] - reply.tokens[1]) <= 40
        assert row["gpu_ns"] > 0
        assert row["cost_nano"] > 0
        assert row["wasted_ns"] == row["gpu_ns"]
        assert row["ended_ns"] <= killed_wall_ns + 5 * 10**9
    (engine,) = world.home.rows("SELECT * FROM engine")
    assert engine["end_reason"] == "interrupted"
    ended_wall_ns = engine["started_wall_ns"] + engine["ended_ns"] - engine["started_ns"]
    assert abs(ended_wall_ns - killed_wall_ns) < 10**9
    world.home.verify()
    world.home.check_closed_books()
    check_every_span_once(world, since)


def test_nothing_is_left_of_the_agent_once_all_is_sent(world):
    """It ends by itself after the engine has: run after the test before this one."""
    if world.server.engine_pids:
        os.kill(world.server.engine_pid, signal.SIGKILL)
        world.home.wait_closed()
    assert wait_until(lambda: not running(world.home.path), 30), world.home.log()[-2000:]
