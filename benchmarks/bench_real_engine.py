"""A real vLLM: how well the fitted model predicts unseen steps, and what really disappears without a tenant.

    .venv/bin/python benchmarks/bench_real_engine.py --vllm-env build/vllm-0.32.0 --model build/tiny-model [--rounds 4]

Three tenants send fixed sets of requests: short chats, long prompts, long answers. In turns all of them send, each of
them is left out, and each is alone. Of a tenant: what it was attributed beside the others, what the engine's step time
is less by when it is left out (its marginal cost), and what it takes alone. A fair share lies between the last two.

It runs on whatever device vLLM runs on. On a CPU it says how the method does there, and nothing about a GPU; other
programs on the machine are in the times, so each figure has the standard error over its rounds.
"""

import argparse
import os
import platform
import statistics
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench_agent import processor

from costtrace.attribution import Policy
from costtrace.demo.server import VllmServer
from costtrace.demo.traffic import COMPLETIONS, Request, completion, send
from costtrace.journal.reader import JournalReader
from costtrace.node import Node
from costtrace.step_fit import RUNGS, WARM, StepFit
from costtrace.units import NS_PER_S

TENANTS = ("chats", "prompts", "answers")
SETS = [TENANTS, *[tuple(t for t in TENANTS if t != gone) for gone in TENANTS], *[(t,) for t in TENANTS]]
WORKERS = {"chats": 4, "prompts": 2, "answers": 4}


def requests(model, tenant, label):
    """The same set each time: (prompt words, output tokens)."""
    shape = {
        "chats": [(12 + n % 7, 24 + n % 16) for n in range(24)],
        "prompts": [(420 + 30 * (n % 5), 4) for n in range(12)],
        "answers": [(30, 150 + 10 * (n % 4)) for n in range(8)],
    }[tenant]
    return [
        Request(tenant, COMPLETIONS, completion(model, " ".join(["word"] * words), tokens, seed=n), label)
        for n, (words, tokens) in enumerate(shape)
    ]


def play(server, tenants, label):
    """All requests of *tenants*, each tenant from workers of its own."""
    with ThreadPoolExecutor(sum(WORKERS.values())) as pool:
        waiting = []
        for tenant in tenants:
            queue = iter(requests(server.model_name, tenant, f"{tenant}.{label}"))
            waiting += [pool.submit(_work, server.url, queue) for _ in range(WORKERS[tenant])]
        for one in waiting:
            one.result()


def _work(url, queue):
    while (request := next(queue, None)) is not None:
        sent = send(url, request)
        assert sent.status == 200, sent


def attribute(home):
    """Usage records of the one journal below *home*, what its steps were, and the fit."""
    seen = []

    class Watched(StepFit):
        def observe(self, step, took_ns, **more):
            seen.append((step, took_ns, more))
            super().observe(step, took_ns, **more)

    (directory,) = (home / "journal").iterdir()
    reader, node = JournalReader(directory), Node(Policy(), 60 * NS_PER_S)
    name = directory.name
    while events := reader.read().events:
        if name not in node.engines:
            node.add(name, reader.header)
        for event in events:
            node.feed(name, event)
        node.sweep(1 << 62)
        fit = node.engines[name].attribution.fit
        if fit is not None and not isinstance(fit, Watched):
            node.engines[name].attribution.fit = Watched(start=fit.start, known=fit.known, device=fit.device)
    node.end(name)
    node.sweep(1 << 62)
    reader.close()
    return node.take_rows().records, seen, node.engines[name].attribution.fit


def held_out(seen, start):
    """Learn from the first half of the steps, predict the second without learning: mean relative error by method."""
    half = len(seen) // 2
    taught = StepFit(start)
    for step, took_ns, more in seen[:half]:
        taught.observe(step, took_ns, **more)
    errors = [
        [min(1.0, abs(guess * NS_PER_S / took_ns - 1)) for guess in taught.predictions(step)]
        for step, took_ns, _ in seen[half:]
        if took_ns
    ]
    return half, [statistics.mean(column) for column in zip(*errors, strict=True)]


def mean(values):
    """Mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return statistics.mean(values), error


def show(pair):
    return f"{pair[0]:8.3f} +- {pair[1]:.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-env", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        env = {"COSTTRACE_AGENT": "off"}
        args = ("--no-enable-prefix-caching", "--max-num-seqs", "16")
        with VllmServer(given.vllm_env, given.model, home, args=args, env=env) as server:
            print(f"vLLM {server.environment['vllm_version']}, {server.environment['kind']}; {given.rounds} rounds")
            play(server, TENANTS, "warm")
            for number in range(given.rounds):
                for tenants in SETS:
                    play(server, tenants, f"{number}.{'-'.join(tenants)}")
        records, seen, fit = attribute(home)
    used = defaultdict(float)
    for record in records:
        used[record.tenant] += record.gpu_ns / NS_PER_S
    report(used, given.rounds)
    half, errors = held_out(seen, fit.start)
    print(
        f"\nfit: {fit.observations:,} steps looked at of {len(seen):,}, {fit.outliers} outliers, {fit.changes} changes"
    )
    live = [fit.errors.mean(rung) for rung in range(len(RUNGS))]
    print(f"mean relative error of a step's time: live, before each was learned; frozen after the first {half:,}")
    for rung, name in enumerate(RUNGS):
        print(f"  {name:10} {live[rung]:7.1%}   {errors[rung]:7.1%}")
    assert fit.observations > WARM


def report(used, rounds):
    """Attributed, marginal and alone, in seconds of step time a round."""

    def total(tenants, number):
        label = f"{number}.{'-'.join(tenants)}"
        return sum(used[f"{tenant}.{label}"] for tenant in tenants)

    print(f"step time of all three: {show(mean([total(TENANTS, n) for n in range(rounds)]))} s a round")
    print("tenant        attributed            marginal              alone                 between")
    for tenant in TENANTS:
        others = tuple(t for t in TENANTS if t != tenant)
        label = "-".join(TENANTS)
        share = mean([used[f"{tenant}.{n}.{label}"] for n in range(rounds)])
        marginal = mean([total(TENANTS, n) - total(others, n) for n in range(rounds)])
        alone = mean([total((tenant,), n) for n in range(rounds)])
        between = marginal[0] - 2 * marginal[1] <= share[0] <= alone[0] + 2 * alone[1]
        print(f"{tenant:10} {show(share):>20} {show(marginal):>20} {show(alone):>20}     {'yes' if between else 'no'}")


if __name__ == "__main__":
    main()
