"""Public workloads as `Offered` requests: the Azure conversation trace, ServeGen's clients, a plain CSV."""

import ast
import csv
import json
import random
from datetime import datetime
from math import gamma
from pathlib import Path

from costtrace.simulator import Offered

LONGEST = 12_000
"""Tokens of a prompt; longer ones are cut (the attention tables end at 16,384)."""


def azure(path: Path, *, requests: int, speed: float, tenants: int = 8) -> list[Offered]:
    """The first *requests* of the trace, arriving *speed* times as fast.

    It names no tenants. These are the harshest that can be made of it: requests sorted by their ratio of prompt to
    output, cut into *tenants* equal parts, so that each tenant has a mix of its own.
    """
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            at = datetime.fromisoformat(row["TIMESTAMP"][:26])
            rows.append((at, min(int(row["ContextTokens"]), LONGEST), max(1, int(row["GeneratedTokens"]))))
            if len(rows) == requests:
                break
    order = sorted(range(len(rows)), key=lambda n: (rows[n][1] / rows[n][2], n))
    tenant = {number: f"mix-{place * tenants // len(rows)}" for place, number in enumerate(order)}
    begin = rows[0][0]
    return [
        Offered(round((at - begin).total_seconds() / speed * 1e9), tenant[n], max(1, prompt), output)
        for n, (at, prompt, output) in enumerate(rows)
    ]


def servegen(directory: Path, *, requests: int, rate: float, seed: int = 1) -> list[Offered]:
    """Clients of ServeGen as tenants, each with its own arrival process and lengths, of its busiest stretch.

    They were not busy at the same time: here they are, with *rate* requests a second each.
    """
    rng = random.Random(seed)
    found: list[Offered] = []
    traces = sorted(directory.glob("*-trace.csv"))
    for path in traces:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if float(row[1]) > 0]
        busiest = max(rows, key=lambda row: float(row[1]))
        process, shape = busiest[3], float(busiest[4])
        pdfs = json.loads(path.with_name(path.name.replace("trace.csv", "dataset.json")).read_text())
        known = [int(key) for key, one in pdfs.items() if one["input_tokens"] != "{}"]
        window = max(key for key in known if key <= float(busiest[0]))
        lengths = [ast.literal_eval(pdfs[str(window)][name]) for name in ("input_tokens", "output_tokens")]
        mean = _mean(process, shape)
        at, tenant = 0.0, path.name.removesuffix("-trace.csv")
        for _ in range(requests // len(traces)):
            gap = rng.gammavariate(shape, 1.0) if process == "Gamma" else rng.weibullvariate(1.0, shape)
            at += gap / mean / rate
            prompt, output = (rng.choices(list(pdf), list(pdf.values()))[0] for pdf in lengths)
            found.append(Offered(round(at * 1e9), tenant, max(1, min(int(prompt), LONGEST)), max(1, int(output))))
    return sorted(found, key=lambda one: one.at_ns)


def _mean(process: str, shape: float) -> float:
    """Of a gap, at scale 1."""
    return shape if process == "Gamma" else gamma(1 + 1 / shape)


def plain(path: Path) -> list[Offered]:
    """A CSV file with the columns ``at_s,tenant,prompt_tokens,output_tokens``."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            Offered(
                round(float(row["at_s"]) * 1e9),
                row["tenant"],
                min(int(row["prompt_tokens"]), LONGEST),
                int(row["output_tokens"]),
            )
            for row in csv.DictReader(file)
        ]
    return sorted(rows, key=lambda one: one.at_ns)
