"""Reproduce the figures of docs/method/evaluation.md: ``make evaluation``, or

    python evaluation/run.py --data ../shared/data --out build/evaluation [--requests 1500] [--quick]

Any other trace, device and tenants: --trace, --tables, --servegen, --model (see --help). All numbers are SIMULATED.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
from pathlib import Path

import render
from scenarios import Disturbances, Scenario, run

ROOT = Path(__file__).resolve().parents[1]


def scenarios(given):
    """Every run, by the table that it belongs to."""
    base = {"tables": given.tables, "device": given.device, "model": given.model, "pairs": given.pairs}
    azure = {**base, "trace": given.trace, "requests": given.requests, "tenants": given.tenants}
    for load, speed in zip(("light", "medium", "heavy"), given.speeds, strict=True):
        yield "loads", Scenario(name=f"{load}: {given.trace.stem} x {speed:g}", speed=speed, **azure)
    if given.servegen is not None:
        clients = {**base, "trace": given.servegen, "requests": 2 * given.requests, "seconds": given.servegen_seconds}
        yield "servegen", Scenario(name="ServeGen clients", speed=given.servegen_speed, **clients)
    half = max(1, given.requests // 2)
    few = {**azure, "speed": given.speeds[1], "methods": ("auto", "affine"), "requests": half}
    noise, pauses = Disturbances(noise=0.1), Disturbances(pause_chance=0.005)
    both = Disturbances(noise=0.1, pause_chance=0.005)
    for scenario in (
        Scenario(name="analytic (same family as the fit)", **{**few, "tables": None}),
        Scenario(name="kernel tables", **few),
        Scenario(name="padded to captured batch sizes", padded=True, **few),
        Scenario(name="10 % noise on each step", disturbances=noise, **few),
        Scenario(name="pauses of 50 to 200 ms in 0.5 % of the steps", disturbances=pauses, **few),
        Scenario(name="clocks throttled halfway (x 1.3)", throttled=True, **few),
        Scenario(name="all of these", padded=True, disturbances=both, throttled=True, **few),
    ):
        yield "misspecification", scenario


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="where the public data is")
    parser.add_argument("--trace", type=Path, help="a workload trace [DATA/traces/azure_llm_2023_conv.csv]")
    parser.add_argument("--servegen", type=Path, help="directory of ServeGen clients [DATA/traces/servegen]")
    parser.add_argument("--tables", type=Path, help="directory of kernel tables [DATA/aiconfigurator]")
    parser.add_argument("--device", default="", help="which of the tables' devices, where there are several")
    parser.add_argument("--model", default="qwen3-8b", help="a known model, or its config.json")
    parser.add_argument("--requests", type=int, default=1_500, help="of each run (default: %(default)s)")
    parser.add_argument("--tenants", type=int, default=8, help="to invent for the trace; 0: it has its own")
    parser.add_argument("--speeds", type=float, nargs=3, default=(0.3, 1.0, 4.0), help="three loads, x real time")
    parser.add_argument("--servegen-speed", type=float, default=0.2, help="x the clients' busiest windows")
    parser.add_argument("--servegen-seconds", type=float, default=12.0, help="of the clients' busiest windows")
    parser.add_argument("--pairs", type=int, default=32, help="of sampled orders for each step (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "evaluation")
    parser.add_argument("--quick", action="store_true", help="300 requests and 2 pairs: does it run?")
    given = parser.parse_args()
    given.trace = given.trace or given.data / "traces/azure_llm_2023_conv.csv"
    given.servegen = given.servegen or given.data / "traces/servegen"
    given.tables = given.tables or given.data / "aiconfigurator"
    if given.quick:
        given.requests, given.pairs = 300, 2
    for path in (given.trace, given.tables):
        if not path.exists():
            sys.exit(
                f"there is no {path}: name the public data with --data (or --trace, --tables); README.md says which"
            )
    if not given.servegen.exists():
        print(f"there is no {given.servegen}: the part with real tenants is left out", file=sys.stderr)
        given.servegen = None
    return given


def main():
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    todo = list(scenarios(given))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {len(todo)} runs. All SIMULATED."
    )
    by_table = {}
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        results = pool.imap(run, [scenario for _, scenario in todo])
        for (table, scenario), result in zip(todo, results, strict=True):
            print(f"  {result['took_s']:6.1f} s  {scenario.name}", flush=True)
            by_table.setdefault(table, []).append(result)
    (given.out / "results.json").write_text(json.dumps(by_table, indent=1) + "\n", encoding="utf-8")
    text = render.text(by_table)
    (given.out / "results.md").write_text(text, encoding="utf-8")
    print(text)
    for path in render.plots(by_table, given.out):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
