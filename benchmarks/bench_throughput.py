"""What a server serves with costtrace in it, against the same server without: tokens a second, in pairs.

    .venv/bin/python benchmarks/bench_throughput.py [--rounds 7] [--requests 48] [--tokens 64] [--clients 16]

Two real vLLM servers (CPU build, the tiny model) stand side by side, one with the plugin and its agent, one for which
vLLM was told to load no plugin. They are loaded in turns, with and without first alternately, so that a machine that
drifts disturbs both alike; the figure is the ratio of each pair. Before anything is timed both have to give the same
answers, and afterwards every request of the first server has to be in its ledger with the server's own tokens.

On a tiny model and two cores the host is the bottleneck, and the agent and the clients share it: an upper bound of what
a GPU server would notice.
"""

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))

from asking import COMPLETIONS, Ask, Reply, ask, ask_all, completion, tenant

from costtrace.demo.processes import wait_until
from costtrace.demo.server import VllmServer

ROOT = Path(__file__).parents[1]
WITHOUT = {"VLLM_PLUGINS": ""}
"""Tells vLLM to load no plugin at all."""


def load(server: VllmServer, options: argparse.Namespace, number: int) -> tuple[float, list[Reply]]:
    """Output tokens a second of one round, and its replies."""
    asks = [
        Ask(COMPLETIONS, completion(f"round {number}, question {n}", options.tokens, stream=n % 2 == 0), [tenant("t")])
        for n in range(options.requests)
    ]
    began = time.perf_counter()
    replies = ask_all(server.url, asks, options.clients)
    took_s = time.perf_counter() - began
    assert {reply.status for reply in replies} == {200}, [reply.error for reply in replies if reply.status != 200]
    tokens = sum(reply.tokens[1] for reply in replies)
    assert tokens == options.requests * options.tokens
    return tokens / took_s, replies


def answer(server: VllmServer) -> str:
    return str(ask(server.url, Ask(COMPLETIONS, completion("the same question", 32))).events[0]["choices"][0]["text"])


def check_booked(home: Path, replies: list[Reply]) -> None:
    """Every reply is in the ledger once, with its tokens."""
    wanted = sorted((reply.id, *reply.tokens) for reply in replies)

    def booked() -> list[tuple[str, int, int]]:
        with closing(sqlite3.connect(f"file:{home / 'ledger.sqlite'}?mode=ro", uri=True)) as ledger:
            rows = ledger.execute("SELECT request_id, input_tokens, output_tokens FROM usage WHERE tenant = 't'")
            return sorted(tuple(row) for row in rows)

    assert wait_until(lambda: len(booked()) >= len(wanted), 60), f"{len(booked())} of {len(wanted)} are booked"
    assert booked() == wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--vllm-env", type=Path, default=ROOT / "build" / "vllm-0.32.0")
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "tiny-model")
    options = parser.parse_args()
    print(f"cores {len(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f}, {vars(options)}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        ending = {"COSTTRACE_AGENT_IDLE_EXIT_S": "1"}
        recorded = VllmServer(options.vllm_env, options.model, home, env=ending)
        plain = VllmServer(options.vllm_env, options.model, Path(folder) / "nobody", env=WITHOUT)
        with recorded, plain:
            assert answer(recorded) == answer(plain)
            assert not (Path(folder) / "nobody").exists(), "the plain server has loaded the plugin"
            load(plain, options, 0)
            replies = load(recorded, options, 0)[1]
            ratios, rates = [], {recorded: [], plain: []}
            for number in range(1, options.rounds + 1):
                order = (recorded, plain) if number % 2 else (plain, recorded)
                found = {}
                for server in order:
                    found[server], more = load(server, options, number)
                    rates[server].append(found[server])
                    replies += more if server is recorded else []
                ratios.append(found[recorded] / found[plain])
            check_booked(home, replies)
    for name, server in (("with", recorded), ("without", plain)):
        print(
            f"{name:8} output tokens/s median {statistics.median(rates[server]):8.1f}  "
            f"least {min(rates[server]):8.1f}  most {max(rates[server]):8.1f}"
        )
    print(
        f"ratio with/without: median {statistics.median(ratios):.4f}  least {min(ratios):.4f}  most {max(ratios):.4f}"
    )


if __name__ == "__main__":
    main()
