"""Requests' shares against Shapley values of the measured game, beside other people's methods.

    .venv/bin/python -m evaluation.attribution [--data DIR] [--requests 4000] [--out build/evaluation]

Truth: a simulated server whose steps take what tables of measured kernels say, and for each step the Shapley value of
the game in which a coalition costs what the kernels would take for it alone (sampled; its standard error is shown). The
attribution sees only what an engine's plugin records. Its model was fitted on these steps, which are no roofline.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from costtrace.attribution import Policy
from costtrace.events import SegmentHeader
from costtrace.node import Node
from costtrace.simulator import Batch, Limits, Offered, Server
from costtrace.units import NS_PER_S
from costtrace.usage import UsageRecord
from evaluation import workloads
from evaluation.kernels import QWEN3_8B, Tables
from evaluation.methods import OTHERS
from evaluation.shapley import Truth

LIMITS = Limits(max_running=256, token_budget=2_048, kv_tokens=700_000)
OURS = ("auto", "roofline", "affine", "tokens", "equal")


class Scenario(NamedTuple):
    """A workload at a load."""

    name: str
    offered: Sequence[Offered]


class Score(NamedTuple):
    """How far a method is from the truth."""

    request: float
    """Mean relative error of a request."""
    p95: float
    tenant: float
    """The worst tenant's."""
    prompts: float | None
    """Share of the bill that it lays to prompts."""


class Run(NamedTuple):
    """A scenario that was served."""

    truth: Truth
    records: dict[str, list[UsageRecord]]
    steps: int
    mean_batch: float
    busy_ms: float


def serve(offered: Sequence[Offered], tables: Tables, pairs: int, noise: Callable[[int, float], float]) -> Run:
    """Serve a workload once; attribute it by each of our methods. *noise(step, ms)*: what the step really takes."""
    truth = Truth(tables, pairs=pairs, seed=7)
    nodes = {method: Node(Policy(method, "request"), 60 * NS_PER_S) for method in OURS}
    steps = members = 0

    def took(batch: Batch) -> int:
        return max(1, round(noise(batch.index, tables.step_ms(batch)) * 1e6))

    def seen(batch: Batch, ns: int) -> None:
        nonlocal steps, members
        steps, members = steps + 1, members + len(batch.members)
        truth.add(batch, ns)

    server = Server(took, limits=LIMITS, shape=QWEN3_8B.shape(), device="NVIDIA H200", on_batch=seen)
    head = SegmentHeader(1, "sim", 1, 0, "simulated", "boot", 1, 1, 1 + 1_800_000_000 * NS_PER_S)
    for node in nodes.values():
        node.add("sim", head)
    for number, event in enumerate(server.events(offered)):
        for node in nodes.values():
            node.feed("sim", event)
            if number % 5_000 == 0:
                node.sweep(1 << 62)
    records = {}
    for method, node in nodes.items():
        node.end("sim")
        node.sweep(1 << 62)
        records[method] = sorted(node.take_rows().records, key=lambda record: int(record.request_id[1:]))
    busy_ms = sum(truth.by_slot.values())
    return Run(truth, records, steps, members / steps, busy_ms)


def score(shares: Sequence[float], run: Run, prompts: float | None) -> Score:
    """Compare shares (ms, by request) with the truth."""
    records = run.records["auto"]
    wanted = [run.truth.by_slot[int(record.request_id[1:])] for record in records]
    errors = [abs(a - b) / b for a, b in zip(shares, wanted, strict=True)]
    tenants: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for record, a, b in zip(records, shares, wanted, strict=True):
        tenants[record.tenant][0] += a
        tenants[record.tenant][1] += b
    worst = max(abs(a - b) / b for a, b in tenants.values())
    return Score(statistics.fmean(errors), statistics.quantiles(errors, n=20)[-1], worst, prompts)


def judge(run: Run) -> dict[str, Score]:
    """All methods on one run."""
    found = {}
    for method in OURS:
        records = run.records[method]
        assert abs(sum(record.gpu_ns for record in records) - run.busy_ms * 1e6) <= run.steps  # each step is a whole ns
        prompts = sum(record.prefill_ns for record in records) / sum(record.gpu_ns for record in records)
        used = "+".join(sorted({record.method for record in records}))
        name = f"costtrace {method}" + (f" ({used})" if method == "auto" else "")
        found[name] = score([record.gpu_ns / 1e6 for record in records], run, prompts)
    for name, method in OTHERS.items():
        found[name] = score(method(run.records["auto"], run.busy_ms), run, None)
    return found


def standard_error(run: Run) -> float:
    """Mean relative standard error of the sampled truth, a request."""
    return statistics.fmean(run.truth.variance[slot] ** 0.5 / value for slot, value in run.truth.by_slot.items())


def show(name: str, run: Run, scores: dict[str, Score]) -> None:
    """Print one table."""
    print(
        f"\n{name}: {len(run.records['auto']):,} requests, {run.steps:,} steps, mean batch {run.mean_batch:.1f}; "
        f"truth: {run.truth.prompts_ms / run.busy_ms:.1%} of the time for prompts, sampled to {standard_error(run):.2%}"
    )
    print(f"  {'method':40} {'request error':>14} {'p95':>8} {'worst tenant':>13} {'for prompts':>12}")
    for method, one in scores.items():
        prompts = "" if one.prompts is None else f"{one.prompts:.1%}"
        print(f"  {method:40} {one.request:14.2%} {one.p95:8.2%} {one.tenant:13.2%} {prompts:>12}")


def scenarios(data: Path, requests: int, trace: Path | None) -> list[Scenario]:
    """What is served."""
    if trace is not None:
        return [Scenario(trace.name, workloads.plain(trace))]
    found = [
        Scenario(f"Azure conversation, {name} load", workloads.azure(path, requests=count, speed=speed))
        for path in [data / "traces" / "azure_llm_2023_conv.csv"]
        for name, speed, count in (("light", 1.2, requests // 3), ("medium", 2.5, requests), ("heavy", 4.5, requests))
    ]
    clients = workloads.servegen(data / "traces" / "servegen", requests=requests, rate=14.0)
    return [*found, Scenario("ServeGen, five clients", clients)]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=beside, help="folder with traces/ and aiconfigurator/")
    parser.add_argument("--device", default="h200_sxm", help="prefix of the kernel tables' names")
    parser.add_argument("--trace", type=Path, help="a CSV of your own: at_s,tenant,prompt_tokens,output_tokens")
    parser.add_argument("--requests", type=int, default=2_000, help="of each workload (a third at light load)")
    parser.add_argument("--pairs", type=int, default=96, help="pairs of sampled orders a step of more than nine")
    parser.add_argument("--out", type=Path, default=Path("build/evaluation"))
    given = parser.parse_args()
    if not (given.data / "aiconfigurator").is_dir():
        sys.exit(f"{given.data} has no aiconfigurator/: name the folder of the public data with --data")
    began = time.monotonic()
    tables = Tables(
        given.data / "aiconfigurator", given.device, QWEN3_8B, tokens=LIMITS.token_budget, sequences=LIMITS.max_running
    )
    given.out.mkdir(parents=True, exist_ok=True)
    kept = {}
    for name, offered in scenarios(given.data, given.requests, given.trace):
        run = serve(offered, tables, given.pairs, lambda _step, ms: ms)
        scores = judge(run)
        show(name, run, scores)
        kept[name] = {method: one._asdict() for method, one in scores.items()}
    (given.out / "attribution.json").write_text(json.dumps(kept, indent=2) + "\n")
    print(f"\n{time.monotonic() - began:.0f} s; figures in {given.out / 'attribution.json'}")


if __name__ == "__main__":
    main()
