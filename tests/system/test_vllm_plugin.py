"""The plugin in real vLLM servers: every request, and every step, against what the server and vLLM itself say."""

import json
import subprocess
from collections import Counter
from dataclasses import replace

import pytest
from costtrace_lab.demo.traffic import CHAT, COMPLETIONS, SHARED_PREFIX, Request, chat, completion, plan, send, send_all
from vllm_journal import check_answers, check_life, check_work, iterations, read_all, read_when_idle
from vllm_server import BUILD, need, oldest_and_newest

from costtrace.agent.loop import Agent
from costtrace.config import load as config
from costtrace.core.events import Delivered, SequenceAdded
from costtrace.ledger import Ledger
from costtrace.ledger.answers import Period
from costtrace.ledger.queries import ended
from costtrace.ledger.reader import Filter, open_ledger
from costtrace.ledger.wholes import whole_requests
from costtrace.telemetry.totals import Totals

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MODEL = "tiny-model"
NO_AGENT = {"COSTTRACE_AGENT": "off"}
STEPS_LOGGED = "--enable-logging-iteration-details"
GREEDY = {"temperature": 0}


def traffic() -> list[Request]:
    """The demo's traffic and more. Without seeds: a prompt in chunks with a seed crashes vLLM on a CPU."""
    planned = [replace(r, body={k: v for k, v in r.body.items() if k != "seed"}) for r in plan(MODEL, rounds=2)]
    return planned + special(MODEL)


def special(model: str) -> list[Request]:
    """What `plan` does not have: the other endpoints, several prompts, beams, chosen ids, odd tenants."""
    return [
        Request("responses", "/v1/responses", {"model": model, "input": "hello there", "max_output_tokens": 8}, "acme"),
        Request(
            "messages",
            "/v1/messages",
            {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5},
            "globex",
        ),
        Request("several prompts", COMPLETIONS, {**completion(model, "", 6), "prompt": ["one two", "three"]}, "acme"),
        Request("own id", CHAT, chat(model, "hello you", 9), "acme", headers={"X-Request-Id": "mine_1"}),
        Request("own id", COMPLETIONS, completion(model, "hello you", 9), "acme", headers={"X-Request-Id": "mine-2-3"}),
        Request("stop, by the engine", COMPLETIONS, completion(model, "a", 30, min_tokens=2, **GREEDY), "acme"),
    ]


@oldest_and_newest
def test_every_request_and_every_step_is_recorded_as_the_server_says(start_vllm, tmp_path):
    arguments = (STEPS_LOGGED, "--enable-prompt-tokens-details", "--max-num-batched-tokens", "256")
    server = start_vllm(args=arguments, env=NO_AGENT, worker_in_engine=True)
    answers = send_all(server.url, traffic())
    assert [sent.status for sent in answers] == [200] * len(answers), [sent.error for sent in answers]
    (journal,) = read_when_idle(tmp_path / "home")
    check_answers([journal], answers)
    check_life(journal)
    check_work(journal)
    assert journal.totals() == iterations(server.log_path)[: len(journal.totals())]
    assert any(finished.cached_tokens >= 128 for finished in journal.finished.values()), "the prefix cache was hit"
    assert any(len(steps) > 1 for steps in prefills(journal).values()), "a prompt was computed in chunks"
    assert journal.delivered, "a stop string ended a request"
    assert {added.operation for added in journal.added.values()} == {"chat", "text_completion"}
    status = json.loads(next((tmp_path / "home" / "run").glob("engine-*.json")).read_text())
    assert (status["lost_hooks"], status["swallowed_errors"]) == ({}, {})
    assert server.stop() == []


def prefills(journal) -> dict[str, list[int]]:
    """Steps of each sequence that computed some of its prompt."""
    prompts = {added.sequence_id: added.prompt_tokens for added in journal.added.values()}
    indices: dict[str, list[int]] = {}
    for index, seen in journal.steps.steps.items():
        for name, (_, context) in seen.items():
            if context < prompts[name]:
                indices.setdefault(name, []).append(index)
    return indices


def test_several_api_servers_and_data_parallel_engines_share_nothing_and_lose_nothing(start_vllm, tmp_path):
    arguments = ("--data-parallel-size", "2", "--api-server-count", "2")
    server = start_vllm(args=arguments, env=NO_AGENT)
    answers = send_all(server.url, traffic())
    assert [sent.status for sent in answers] == [200] * len(answers)
    journals = read_when_idle(tmp_path / "home")
    assert sorted(journal.started.dp_rank for journal in journals) == [0, 1]
    check_answers(journals, answers)
    for journal in journals:
        check_life(journal)
        check_work(journal)
        assert journal.timed, "both engines had work"


@pytest.mark.heavy
def test_what_engines_share_of_a_request_is_on_the_bill_once(start_vllm, tmp_path):
    """n, lists of prompts and beams over two engines: the bill has the requests and tokens that clients are told."""
    server, home = start_vllm(args=("--data-parallel-size", "2"), env=NO_AGENT), tmp_path / "home"
    bodies = [
        completion(MODEL, "three of one prompt", 9, n=3, ignore_eos=True),
        {**completion(MODEL, "", 6), "prompt": ["one two", "three", "four five six", "seven"]},
        {**completion(MODEL, "", 5, n=2), "prompt": ["one two", "three", "four"]},
    ]
    beams = completion(MODEL, "beams of one prompt", 5, n=2, use_beam_search=True, temperature=0)
    requests = [Request("spread", COMPLETIONS, body, "acme") for body in (*bodies, bodies[0], beams)]
    answers = send_all(server.url, requests, workers=1)
    assert [sent.status for sent in answers] == [200] * len(answers), [sent.error for sent in answers]
    read_when_idle(home)
    server.stop()
    Agent(config.load({"home": home}, {})).run_once()
    ledger, totals = Ledger(home / "ledger.sqlite"), Totals()
    totals.load(ledger.connection, [])
    ledger.close()
    with open_ledger(home) as store:
        everything = Period(0, 1 << 62)
        sums = Counter()
        for row in ended(store, everything, ()):
            sums.update(requests=row.requests, input_tokens=row.input_tokens)
        wholes = whole_requests(store, everything, Filter(), "ended", 100)
        engines = [row[0] for row in store.rows("SELECT count(DISTINCT engine_id) FROM usage GROUP BY request_key")]
    assert max(engines) == 2, "one of them had sequences on both"
    assert sums["requests"] == len(wholes) == len(answers)
    assert sums["input_tokens"] == sum(sent.prompt_tokens for sent in answers)
    assert sum(totals.requests.values()) == len(answers)
    assert sum(n for key, n in totals.tokens.items() if key[2] != "output") == sums["input_tokens"]
    by_id = {whole.request_id: whole for whole in wholes}
    for sent in answers[:-1]:  # a search computes more than it gives
        whole = by_id[sent.response_id]
        assert (whole.input_tokens, whole.output_tokens) == (sent.prompt_tokens, sent.completion_tokens)


def test_preempted_requests_are_computed_again_and_said_to_be(start_vllm, tmp_path):
    arguments = (STEPS_LOGGED, "--num-gpu-blocks-override", "9")
    server = start_vllm(args=arguments, env=NO_AGENT, worker_in_engine=True)
    requests = [Request("long", COMPLETIONS, completion(MODEL, f"{i} {SHARED_PREFIX}", 400), "acme") for i in range(4)]
    answers = send_all(server.url, requests)
    (journal,) = read_when_idle(tmp_path / "home")
    check_answers([journal], answers)
    check_life(journal)
    check_work(journal)
    assert journal.totals() == iterations(server.log_path)[: len(journal.totals())]
    assert sum(finished.preemptions for finished in journal.finished.values()) > 0


def test_drafts_are_items_with_all_their_tokens(start_vllm, tmp_path):
    method = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    arguments = (STEPS_LOGGED, "--speculative-config", json.dumps(method))
    server = start_vllm(args=arguments, env=NO_AGENT, worker_in_engine=True)
    text = "one two one two one two one two"
    requests = [Request("drafted", COMPLETIONS, completion(MODEL, text, 40, **GREEDY), "acme") for _ in range(6)]
    requests += [Request("stop", COMPLETIONS, completion(MODEL, text, 60, stop=["e"], **GREEDY), "acme")] * 2
    answers = send_all(server.url, requests, workers=4)
    (journal,) = read_when_idle(tmp_path / "home")
    check_answers([journal], answers)
    check_life(journal)
    check_work(journal, drafts=True)
    assert journal.totals() == iterations(server.log_path)[: len(journal.totals())]
    decodes = [
        tokens
        for seen in journal.steps.steps.values()
        for name, (tokens, context) in seen.items()
        if context >= next(a.prompt_tokens for a in journal.added.values() if a.sequence_id == name)
    ]
    assert max(decodes) > 1, "some steps had drafts to check"


def test_embeddings_are_requests_too(start_vllm, tmp_path):
    embedder = need(BUILD / "tiny-embedder", "model")
    server = start_vllm(model=embedder, args=("--runner", "pooling"), env=NO_AGENT, worker_in_engine=True)
    body = {"model": MODEL, "input": ["one two three", "four"]}
    answers = [send(server.url, Request("embeddings", "/v1/embeddings", body, "acme"))]
    assert answers[0].status == 200, answers[0].error
    (journal,) = read_when_idle(tmp_path / "home")
    check_answers([journal], answers)
    check_life(journal)
    assert {added.operation for added in journal.added.values()} == {"embeddings"}
    assert len(journal.added) == 2


@pytest.mark.heavy
def test_embeddings_and_scores_that_engines_share_are_on_the_bill_once(start_vllm, tmp_path):
    embedder, arguments = need(BUILD / "tiny-embedder", "model"), ("--runner", "pooling", "--data-parallel-size", "2")
    server, home = start_vllm(model=embedder, args=arguments, env=NO_AGENT), tmp_path / "home"
    texts = ["one two three", "four", "five six", "seven eight", "nine"]
    requests = [
        Request("embeddings", "/v1/embeddings", {"model": MODEL, "input": texts}, "acme"),
        Request("score", "/score", {"model": MODEL, "text_1": "one", "text_2": texts}, "acme"),
        Request("rerank", "/rerank", {"model": MODEL, "query": "one", "documents": texts}, "acme"),
    ]
    answers = send_all(server.url, requests, workers=1)
    assert [sent.status for sent in answers] == [200] * len(answers), [sent.error for sent in answers]
    read_when_idle(home)
    server.stop()
    Agent(config.load({"home": home}, {})).run_once()
    with open_ledger(home) as store:
        wholes = whole_requests(store, Period(0, 1 << 62), Filter(), "ended", 100)
        sums = list(ended(store, Period(0, 1 << 62), ()))
    assert {whole.parts for whole in wholes} >= {2}, "one of them had inputs on both engines"
    assert len(wholes) == sum(row.requests for row in sums) == len(answers)
    told = [sent.prompt_tokens for sent in answers]
    assert [whole.input_tokens for whole in wholes[::-1]] == told
    assert sum(row.input_tokens for row in sums) == sum(told)


def test_a_lora_adapter_is_a_model_of_its_own(start_vllm, tmp_path):
    adapter = need(BUILD / "tiny-lora", "model")
    arguments = ("--enable-lora", "--lora-modules", f"tuned={adapter}")
    server = start_vllm(args=arguments, env=NO_AGENT, worker_in_engine=True)
    answers = send_all(
        server.url,
        [Request(name, COMPLETIONS, completion(name, "hello", 8), "acme") for name in (MODEL, "tuned")],
    )
    assert [sent.status for sent in answers] == [200, 200], [sent.error for sent in answers]
    (journal,) = read_when_idle(tmp_path / "home")
    check_answers([journal], answers)
    assert {added.model for added in journal.added.values()} == {MODEL, "tuned"}


OFFLINE = """
import sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    for _ in range({engines}):
        llm = LLM({model!r}, enforce_eager=True, dtype="float32", max_model_len=512)
        text = llm.generate(["the quick brown fox"], SamplingParams(max_tokens=30, temperature=0, ignore_eos=True))
        stop = text[0].outputs[0].text[8:10]
        parameters = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True, stop=[stop])
        [result] = llm.generate(["the quick brown fox"], parameters)
        print("STOPPED", len(result.outputs[0].token_ids), result.outputs[0].finish_reason, flush=True)
        llm.generate(["a", "b c d"], SamplingParams(n=2, max_tokens=5, ignore_eos=True))
        if hasattr(llm.llm_engine.engine_core, "shutdown"):
            llm.llm_engine.engine_core.shutdown()
        del llm
"""
IN_PROCESS = "in process, twice"
MODES = {
    "a process of its own": ({}, 1),
    "forked": ({"VLLM_WORKER_MULTIPROCESSING_METHOD": "fork", "FORCE_FORK": "1"}, 1),
    IN_PROCESS: ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}, 2),
}


@pytest.mark.parametrize("mode", MODES)
def test_offline_generation_is_recorded_with_the_process_as_its_tenant(vllm_environment, tiny_model, tmp_path, mode):
    more, engines = MODES[mode]
    done = run_offline(vllm_environment, tiny_model, tmp_path, more, engines)
    stopped = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("STOPPED")]
    assert len(stopped) == engines, done.stdout + done.stderr
    journals = read_all(tmp_path / "home")
    assert len(journals) == engines
    for journal, (tokens, reason) in zip(journals, stopped, strict=True):
        check_life(journal)
        check_work(journal)
        assert journal.idle
        assert {(a.tenant, a.tenant_source) for a in journal.added.values()} == {("night", "process")}
        (delivered,) = journal.all_of(Delivered)
        assert (delivered.output_tokens, delivered.reason) == (int(tokens), reason)
        outputs = [finished.output_tokens for _, finished in sorted(journal.finished.items())]
        assert [outputs[0], *outputs[2:]] == [30, 5, 5, 5, 5]
        # The stop string is found by the front end: an engine of its own process may be a few steps ahead of it.
        ahead = outputs[1] - int(tokens)
        assert ahead == 0 if mode == IN_PROCESS else 0 <= ahead < 30 - int(tokens)
        children = journal.all_of(SequenceAdded)[2:]
        assert len({added.prompt_key for added in children}) == 2, "two prompts, of two sequences each"
        assert len({added.request_key for added in children}) == 2
    if engines == 2:
        first, second = journals
        assert first.events[-1].at_ns <= second.started.started_ns, "the second begins after the first has ended"


def run_offline(environment, model, tmp_path, more, engines):
    script = tmp_path / "offline.py"
    prelude = FORCE_FORK if "FORCE_FORK" in more else ""
    script.write_text(prelude + OFFLINE.format(engines=engines, model=str(model)))
    server_environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCH_COMPILE_DISABLE": "1",
        "COSTTRACE_HOME": str(tmp_path / "home"),
        "COSTTRACE_TENANT_DEFAULT": "night",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        **NO_AGENT,
        **more,
    }
    python = json.loads((environment / "env.json").read_text())["python"]
    return subprocess.run(
        [python, script], env=server_environment, capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )


FORCE_FORK = """
# The CPU build insists on spawn; what is tested here is what other platforms do by default.
import vllm.platforms.cpu as cpu
import os
_check = cpu.CpuPlatform.check_and_update_config.__func__
def check(cls, config):
    _check(cls, config)
    os.environ["VLLM_WORKER_MULTIPROCESSING_METHOD"] = "fork"
cpu.CpuPlatform.check_and_update_config = classmethod(check)
"""


def test_switched_off_it_leaves_nothing(start_vllm, tmp_path):
    server = start_vllm(env={**NO_AGENT, "COSTTRACE_ENABLED": "false"}, worker_in_engine=True)
    assert send(server.url, Request("any", COMPLETIONS, completion(MODEL, "hello", 4))).status == 200
    assert not (tmp_path / "home").exists()
