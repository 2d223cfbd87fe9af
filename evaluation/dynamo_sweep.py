"""Does disaggregated serving absorb token volume without proportional cost? A sweep over load, on simulated workers.

    .venv/bin/python -m evaluation.dynamo_sweep --out build/evaluation          (needs `make setup-dynamo model`)

Two deployments of the same size serve the same rising load behind a real NVIDIA Dynamo frontend: two aggregated
workers, and one prefill and one decode worker. The workers are Dynamo's mockers: **their times are simulated, not
measured on any GPU**. What is compared is what the fleet costs while it serves, idle time included, divided by the
tokens that clients were given by the frontend's own `usage`:

    cost per million output tokens = workers x wall time x price / output tokens
"""

import argparse
import json
import random
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from costtrace_lab.demo.dynamo import Dynamo, Mode

WORKERS: dict[str, tuple[Mode, ...]] = {"aggregated": ("agg", "agg"), "disaggregated": ("prefill", "decode")}
PRICE_PER_HOUR = Fraction(2)
"""US dollars for a worker's GPU: invented, and the same for both; only the ratio of the curves says something."""
LOADS = (1, 2, 4, 8, 16, 32, 64)
"""Clients that each ask for one answer after the other."""
PROMPT_WORDS, ANSWER_TOKENS = 200, 64
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


class Point(NamedTuple):
    """One deployment at one load."""

    how: str
    clients: int
    workers: int
    wall_ns: int
    requests: int
    input_tokens: int
    output_tokens: int

    def usd_per_million_output_tokens(self) -> float:
        """Cost of all workers for all of the time, on the output tokens."""
        return float(PRICE_PER_HOUR * self.workers * self.wall_ns * 10**6 / (3_600 * 10**9) / self.output_tokens)


def ask(url: str, prompt: str) -> tuple[int, int]:
    """One completion; its input and output tokens by the frontend."""
    content = {"model": "tiny-model", "prompt": prompt, "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
    body, headers = json.dumps(content).encode(), {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", body, headers), timeout=300) as answer:
        usage = json.load(answer)["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def measure(url: str, how: str, clients: int, requests: int, seed: int) -> Point:
    """Let *clients* ask until *requests* answers are there. Prompts have nothing in common: no cache hits."""
    draw = random.Random(seed)
    prompts = [" ".join(str(draw.randrange(10**6)) for _ in range(PROMPT_WORDS)) for _ in range(requests)]
    began_ns = time.monotonic_ns()
    with ThreadPoolExecutor(clients) as pool:
        tokens = list(pool.map(lambda prompt: ask(url, prompt), prompts))
    wall_ns = time.monotonic_ns() - began_ns
    given, made = (sum(kind) for kind in zip(*tokens, strict=True))
    return Point(how, clients, len(WORKERS[how]), wall_ns, requests, given, made)


def sweep(environment: Path, model: Path, loads: tuple[int, ...], rounds: int) -> list[Point]:
    """Both deployments at all loads, *rounds* answers for each client."""
    points = []
    for how, modes in WORKERS.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            frontend = ("--enforce-disagg",) if how == "disaggregated" else ()
            with Dynamo(environment, model, out, out / "home", frontend=frontend) as dynamo:
                for number, mode in enumerate(modes):
                    dynamo.mocker(f"{mode}-{number}", mode)
                dynamo.wait(120)
                for load in loads:
                    points.append(measure(dynamo.url, how, load, load * rounds, seed=load))
                    print(
                        f"{how:14} {load:3} clients  {points[-1].usd_per_million_output_tokens():10.4f} USD/1M output"
                    )
    return points


def report(points: list[Point]) -> dict[str, Any]:
    """The points as JSON, with what they are."""
    rows = [{**p._asdict(), "usd_per_million_output_tokens": p.usd_per_million_output_tokens()} for p in points]
    return {
        "simulated": True,
        "workers": "Dynamo mocker",
        "price_usd_per_worker_hour": float(PRICE_PER_HOUR),
        "points": rows,
    }


def plot(points: list[Point], path: Path) -> None:
    """Cost per million output tokens against load, one line a deployment."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for how in WORKERS:
        mine = [point for point in points if point.how == how]
        costs = [point.usd_per_million_output_tokens() for point in mine]
        axes.plot([point.clients for point in mine], costs, marker="o", label=f"{how}, 2 workers")
    axes.set(
        xscale="log", yscale="log", xlabel="clients at a time", ylabel="USD per million output tokens, idle included"
    )
    loads = sorted({point.clients for point in points})
    axes.set_xticks(loads, [str(load) for load in loads])
    costs = [point.usd_per_million_output_tokens() for point in points]
    dollars = [step for step in TICKS if min(costs) / 1.5 < step < max(costs) * 1.5]
    axes.set_yticks(dollars, [f"{step:g}" for step in dollars])
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.3)
    axes.set_title("SIMULATED workers (Dynamo's mocker): cost against load")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--dynamo", type=Path, default=Path("build/dynamo"))
    parser.add_argument("--model", type=Path, default=Path("build/tiny-model"))
    parser.add_argument("--out", type=Path, default=Path("build/evaluation"))
    parser.add_argument("--rounds", type=int, default=4, help="answers for each client at each load")
    given = parser.parse_args()
    points = sweep(given.dynamo, given.model, LOADS, given.rounds)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "dynamo-sweep.json").write_text(json.dumps(report(points), indent=1) + "\n")
    plot(points, given.out / "dynamo-sweep.svg")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
