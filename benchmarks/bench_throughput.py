"""What a server serves with costtrace in it, against the same server without: tokens a second, in pairs.

    .venv/bin/python benchmarks/bench_throughput.py [--rounds 7] [--requests 48] [--tokens 64] [--clients 16]

Two real vLLM servers (CPU build, the tiny model) run side by side, one with the plugin and its agent, one for which
vLLM was set to load no plugin. They are loaded in turns, with and without first alternately, so that a machine that
drifts disturbs both alike; the figure is the ratio of each pair. Before anything is timed both have to give the same
answers, and afterwards every request of the first server has to be in its ledger with the server's own tokens.

On a tiny model and two cores the host is the bottleneck, and the agent and the clients share it: an upper bound of what
a GPU server would notice. Both servers are kept on one core and the clients on another (where there are two), since the
kernel's choice of cores moves a round by tens of percent. The CPU seconds of the server's own processes per 1,000
tokens are given beside the rate: they see no waiting, and vary least.
"""

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from costtrace_lab.demo.processes import wait_until
from costtrace_lab.demo.server import VllmServer
from http_client import COMPLETIONS, Ask, Reply, ask, ask_all, completion, tenant

ROOT = Path(__file__).parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""On one core, a second thread of a matrix product would only wait for the first."""
WITHOUT = {**ONE_THREAD, "VLLM_PLUGINS": ""}
"""Tells vLLM to load no plugin at all."""


class Round(NamedTuple):
    """What one round of one server gave."""

    tokens_per_s: float
    cpu_s_per_1k: float
    """Of the server's own processes, per 1,000 output tokens."""
    replies: list[Reply]


def load(server: VllmServer, options: argparse.Namespace, number: int) -> Round:
    asks = [
        Ask(COMPLETIONS, completion(f"round {number}, question {n}", options.tokens, stream=n % 2 == 0), [tenant("t")])
        for n in range(options.requests)
    ]
    before_s, began = cpu_s(server), time.perf_counter()
    replies = ask_all(server.url, asks, options.clients)
    took_s, used_s = time.perf_counter() - began, cpu_s(server) - before_s
    assert {reply.status for reply in replies} == {200}, [reply.error for reply in replies if reply.status != 200]
    tokens = sum(reply.tokens[1] for reply in replies)
    assert tokens == options.requests * options.tokens
    return Round(tokens / took_s, used_s / tokens * 1_000, replies)


def keep_on_core(processes: Iterable[int], core: int) -> None:
    """All their threads; new ones follow those that start them."""
    for process in processes:
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), {core})


def cpu_s(server: VllmServer) -> float:
    """What the server's processes have used, its agent's not among them."""
    ticks = 0
    for process in server.members:
        with suppress(FileNotFoundError, ProcessLookupError):
            after_name = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(after_name[11]) + int(after_name[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def answer(server: VllmServer) -> str:
    return str(ask(server.url, Ask(COMPLETIONS, completion("the same question", 32))).events[0]["choices"][0]["text"])


def check_booked(home: Path, replies: list[Reply]) -> None:
    """Every reply is in the ledger once, with its tokens."""
    wanted = sorted((reply.id, *reply.tokens) for reply in replies)

    def booked() -> list[tuple[str, int, int]]:
        with closing(sqlite3.connect(f"{(home / 'ledger.sqlite').absolute().as_uri()}?mode=ro", uri=True)) as ledger:
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
        ending = {**ONE_THREAD, "COSTTRACE_AGENT_IDLE_EXIT_S": "1"}
        recorded = VllmServer(options.vllm_env, options.model, home, env=ending)
        plain = VllmServer(options.vllm_env, options.model, Path(folder) / "nobody", env=WITHOUT)
        with recorded, plain:
            assert answer(recorded) == answer(plain)
            assert not (Path(folder) / "nobody").exists(), "the plain server has loaded the plugin"
            cores = sorted(os.sched_getaffinity(0))
            if len(cores) > 1:
                keep_on_core([one.pid for server in (recorded, plain) for one in server.members], cores[0])
                keep_on_core([os.getpid()], cores[1])
            load(plain, options, 0)
            replies = load(recorded, options, 0).replies
            rounds: dict[VllmServer, list[Round]] = {recorded: [], plain: []}
            for number in range(1, options.rounds + 1):
                for server in (recorded, plain) if number % 2 else (plain, recorded):
                    rounds[server].append(load(server, options, number))
            replies += [reply for one in rounds[recorded] for reply in one.replies]
            check_booked(home, replies)
    say("output tokens/s", rounds[recorded], rounds[plain], lambda one: one.tokens_per_s)
    say("CPU s per 1,000 tokens", rounds[recorded], rounds[plain], lambda one: one.cpu_s_per_1k)


def say(what: str, recorded: list[Round], plain: list[Round], figure: Callable[[Round], float]) -> None:
    """Both servers' medians, and the median of the pairs' ratios with its quartiles."""
    ratios = [figure(one) / figure(other) for one, other in zip(recorded, plain, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    print(
        f"{what:24} with {statistics.median(map(figure, recorded)):9.3f}  "
        f"without {statistics.median(map(figure, plain)):9.3f}  with/without: median {median:.4f}, "
        f"half of the pairs {low:.4f} to {high:.4f}, all {min(ratios):.4f} to {max(ratios):.4f}"
    )


if __name__ == "__main__":
    main()
