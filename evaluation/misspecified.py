"""How far shares move when steps are not what the model expects: padding, noise, outliers, throttling, and all of it.

    .venv/bin/python -m evaluation.misspecified [--data DIR] [--requests 1000] [--out build/evaluation]

The truth stays the Shapley value of the measured game, scaled to what each step really took.
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

from evaluation import workloads
from evaluation.attribution import LIMITS, Score, judge, serve, standard_error
from evaluation.kernels import QWEN3_8B, Tables

Noise = Callable[[int, float], float]
"""(number of the step, ms that it should take) -> ms that it takes."""


def as_measured(_step: int, ms: float) -> float:
    """Steps take what their kernels take."""
    return ms


def noisy(step: int, ms: float) -> float:
    """Ten per cent, normal, independent."""
    return ms * max(0.3, random.Random(step).gauss(1.0, 0.1))


def collected(step: int, ms: float) -> float:
    """One step in 300 waits 80 ms for a collection of garbage."""
    return ms + (80.0 if random.Random(step).random() < 1 / 300 else 0.0)


def throttled(step: int, ms: float) -> float:
    """From step 3,000 on the clocks are at two thirds."""
    return ms * (1.5 if step >= 3_000 else 1.0)


def everything(step: int, ms: float) -> float:
    """All of them at once."""
    return collected(step, throttled(step, noisy(step, ms)))


CASES: dict[str, tuple[Noise, bool]] = {
    "as the kernels are": (as_measured, False),
    "padded to captured sizes": (as_measured, True),
    "10 % noise": (noisy, False),
    "80 ms in one step of 300": (collected, False),
    "throttled from step 3,000": (throttled, False),
    "all of it": (everything, True),
}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=beside, help="folder with traces/ and aiconfigurator/")
    parser.add_argument("--device", default="h200_sxm", help="prefix of the kernel tables' names")
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path("build/evaluation"))
    given = parser.parse_args()
    offered = workloads.azure(given.data / "traces" / "azure_llm_2023_conv.csv", requests=given.requests, speed=2.5)
    kept: dict[str, dict[str, object]] = {}
    print(f"Azure conversation, medium load, {given.requests:,} requests; truth sampled")
    print(f"  {'steps are':28} {'method':34} {'request error':>14} {'worst tenant':>13} {'truth to':>9}")
    for case, (noise, pad) in CASES.items():
        folder, limits = given.data / "aiconfigurator", LIMITS
        tokens, sequences = limits.token_budget, limits.max_running
        tables = Tables(folder, given.device, QWEN3_8B, tokens=tokens, sequences=sequences, pad=pad)
        run = serve(offered, tables, given.pairs, noise)
        scores: dict[str, Score] = judge(run)
        for method, one in scores.items():
            if method.startswith("costtrace a"):
                error = standard_error(run)
                print(f"  {case:28} {method:34} {one.request:14.2%} {one.tenant:13.2%} {error:9.2%}", flush=True)
        kept[case] = {method: one._asdict() for method, one in scores.items()}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "misspecified.json").write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
