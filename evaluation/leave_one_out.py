"""What really disappears when a tenant's traffic is left out, on a real vLLM: beside what the tenant was charged.

    python evaluation/leave_one_out.py --vllm-env build/vllm-0.32.0 --model build/tiny-model [--repeats 3]

(`make setup-vllm model` makes both.) One server gets the same schedule of requests again and again: of all tenants, of
all but one, of one alone. The device time of a run is that of all its steps. A share should lie between what leaving
the tenant out saves (marginal) and what the tenant costs alone; noise is the standard deviation over the repeats.
Device time is real and measured; on a host without a GPU the device is the CPU as a labelled stand-in.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from costtrace_lab.demo.server import VllmServer
from costtrace_lab.demo.traffic import COMPLETIONS, SENTENCES, Request, send
from scenarios import WINDOW_NS

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.core.events import SegmentHeader
from costtrace.journal.reader import JournalReader

KINDS = {"chat": (2.0, 1, 40), "documents": (0.8, 20, 6), "mixed": (1.0, 5, 16)}
"""Tenant -> requests per second, sentences in a prompt, output tokens."""
PAUSE_S = 1.0


def schedule(seconds, seed=1):
    """(when, tenant, sentences, output tokens): the same in every run."""
    planned = []
    for tenant, (rate, sentences, output) in KINDS.items():
        rng = random.Random(f"{seed}/{tenant}")
        at_s = rng.expovariate(rate)
        while at_s < seconds:
            planned.append((at_s, tenant, rng.randint(1, 2 * sentences), rng.randint(1, 2 * output)))
            at_s += rng.expovariate(rate)
    return sorted(planned)


def runs(repeats):
    """Which tenants each run has; the order is shuffled in each repeat, so that a drift hits all alike."""
    everybody = tuple(KINDS)
    kinds = [everybody, *(tuple(t for t in everybody if t != out) for out in everybody), *((t,) for t in everybody)]
    for repeat in range(repeats):
        random.Random(repeat).shuffle(kinds)
        yield from kinds


def play(url, number, tenants, planned):
    """One run: each request at its time, in a thread of its own. Returns how many failed."""
    threads, failed = [], []
    began = time.monotonic()

    def ask(request):
        if send(url, request).status != 200:
            failed.append(request)

    for place, (at_s, tenant, sentences, output) in enumerate(planned):
        if tenant not in tenants:
            continue
        time.sleep(max(0.0, began + at_s - time.monotonic()))
        # Every prompt begins differently: nothing is found in the prefix cache.
        prompt = f"{number:03d} {place:03d} " + " ".join(SENTENCES[n % len(SENTENCES)] for n in range(sentences))
        body = {"model": "tiny-model", "prompt": prompt, "max_tokens": output, "ignore_eos": True, "temperature": 0}
        threads.append(
            threading.Thread(target=ask, args=(Request("loo", COMPLETIONS, body, f"r{number:03d}-{tenant}"),))
        )
        threads[-1].start()
    for thread in threads:
        thread.join()
    return len(failed)


def attribute(home, method):
    """Device seconds by run's tenant, and what the model has learned."""
    pipeline = Pipeline(Policy(method=method), WINDOW_NS)
    for directory in sorted((home / "journal").iterdir()):
        reader = JournalReader(directory)
        while events := reader.read().events:
            for event in events:
                if isinstance(event, SegmentHeader):
                    pipeline.add(directory.name, event)
                pipeline.take(directory.name, event)
        pipeline.end(directory.name)
        reader.close()
    pipeline.sweep(1 << 62)
    seconds = {}
    for record in pipeline.take_rows().records:
        seconds[record.tenant] = seconds.get(record.tenant, 0.0) + record.gpu_ns * 1e-9
    return seconds, pipeline.all_fit_rows()[0]


def spread(values):
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def evaluate(done, seconds):
    """By tenant: alone, charged, saved by leaving it out."""
    whole = {}
    for number, tenants in enumerate(done):
        whole.setdefault(tenants, []).append(sum(seconds.get(f"r{number:03d}-{tenant}", 0.0) for tenant in tenants))
    everybody = tuple(KINDS)
    by_tenant = {}
    for tenant in everybody:
        charged = [seconds[f"r{n:03d}-{tenant}"] for n, tenants in enumerate(done) if tenants == everybody]
        without = whole[tuple(t for t in everybody if t != tenant)]
        by_tenant[tenant] = {
            "marginal_s": spread([a - b for a, b in zip(whole[everybody], without, strict=True)]),
            "charged_s": spread(charged),
            "alone_s": spread(whole[tenant,]),
        }
    return {"together_s": spread(whole[everybody]), "tenants": by_tenant}


def text(methods, fit, given):
    def show(value):
        return f"{value['mean']:.3f}" + ("" if value["sd"] is None else f" ± {value['sd']:.3f}")

    lines = [
        f"{given.repeats} repeats of {given.seconds:g} s of arrivals; device seconds, mean ± standard deviation.",
        f"load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        "",
        "| tenant | marginal (left out) | "
        + " | ".join(f"charged ({m})" for m in methods)
        + " | alone | all between? |",
        "| --- |" + " --- |" * (len(methods) + 3),
    ]
    first = next(iter(methods.values()))
    for tenant, row in first["tenants"].items():
        charged = [result["tenants"][tenant]["charged_s"] for result in methods.values()]
        low, high = row["marginal_s"]["mean"], row["alone_s"]["mean"]
        inside = ", ".join("yes" if low <= c["mean"] <= high else "NO" for c in charged)
        cells = (show(row["marginal_s"]), *map(show, charged), show(row["alone_s"]), inside)
        lines.append(f"| {tenant} | {' | '.join(cells)} |")
    error = "unknown" if fit.roofline_error_ppm is None else f"{fit.roofline_error_ppm / 1e4:.1f} %"
    lines += [
        "",
        f"All together: {show(first['together_s'])}.",
        f"Step model: {fit.method}, {fit.observations:,} steps seen; mean error of its predictions, each made before",
        f"the step was known: {error}.",
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-env", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of arrivals in a run")
    parser.add_argument("--methods", default="auto,tokens,equal")
    parser.add_argument("--out", type=Path, default=Path("build/evaluation"))
    given = parser.parse_args()
    planned = schedule(given.seconds)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        env = {"COSTTRACE_AGENT": "external"}
        done = []
        with VllmServer(given.vllm_env, given.model, home, env=env, worker_in_engine=True) as server:
            play(server.url, 999, tuple(KINDS), planned)  # warm-up
            for number, tenants in enumerate(runs(given.repeats)):
                if failed := play(server.url, number, tenants, planned):
                    sys.exit(f"{failed} requests of run {number} failed: see {server.log_path}")
                done.append(tenants)
                print(f"run {number + 1} of {7 * given.repeats}: {', '.join(tenants)}", flush=True)
                time.sleep(PAUSE_S)
        methods, fit = {}, None
        for method in given.methods.split(","):
            seconds, row = attribute(home, method)
            fit = fit or row
            methods[method] = evaluate(done, seconds)
    given.out.mkdir(parents=True, exist_ok=True)
    report = text(methods, fit, given)
    (given.out / "leave_one_out.md").write_text(report, encoding="utf-8")
    (given.out / "leave_one_out.json").write_text(json.dumps(methods, indent=1) + "\n", encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
