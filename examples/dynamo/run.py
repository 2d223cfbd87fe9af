"""Runs a real NVIDIA Dynamo on this machine, asks it as three tenants, and prints whole requests and the bill by role.

    make setup setup-dynamo model
    .venv/bin/python examples/dynamo/run.py aggregated
    .venv/bin/python examples/dynamo/run.py disaggregated

No GPU is needed: the workers are vLLM's CPU build with a tiny model; the CPU is the device, its price is invented.
All that it makes is under build/dynamo-example/.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from costtrace_lab.demo.dynamo import Dynamo
from costtrace_lab.demo.processes import end_on_sigterm_as_on_ctrl_c, wait_until

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
TENANTS = ("acme", "globex", "initech")
PRICES = """
version: example
label: demo
currency: USD
devices:
  - {match: "*", kind: cpu, per_gpu_hour: 2.00, includes_energy: true, from: 2020-01-01, source: "invented"}
"""


def ask(url: str, tenant: str, text: str, tokens: int) -> None:
    """One completion, with the header by which a gateway would name the tenant."""
    content = {"model": "tiny-model", "prompt": text, "max_tokens": tokens, "ignore_eos": True}
    headers = {"content-type": "application/json", "x-dynamo-meta-tenant": tenant}
    wanted = urllib.request.Request(f"{url}/v1/completions", json.dumps(content).encode(), headers)
    with urllib.request.urlopen(wanted, timeout=120) as answer:
        answer.read()


def costtrace(home: Path, *words: str) -> str:
    """What a command of costtrace's prints."""
    command = [sys.executable, "-P", "-m", "costtrace", *words, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def requests_booked(home: Path) -> int:
    """Whole requests in the ledger of which no part is missing."""
    shown = costtrace(home, "requests", "--joined", "--limit", "1000", "--format", "json") or "{}"
    requests = json.loads(shown).get("requests", [])
    return sum(request["tenant"] in TENANTS and request["finality"] == "final" for request in requests)


def main() -> int:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("how", choices=("aggregated", "disaggregated"))
    parser.add_argument("--dynamo", type=Path, default=BUILD / "dynamo", help="what `make setup-dynamo` made")
    parser.add_argument("--model", type=Path, default=BUILD / "tiny-model", help="what `make model` made")
    given = parser.parse_args()
    end_on_sigterm_as_on_ctrl_c()
    out = BUILD / "dynamo-example" / given.how
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    home, prices = out / "home", out / "prices.yaml"
    prices.write_text(PRICES)
    os.environ["COSTTRACE_PRICES"] = str(prices)
    variables = {"COSTTRACE_AGENT_IDLE_EXIT_S": "2", "COSTTRACE_WINDOW_S": "5", "COSTTRACE_PROMETHEUS_PORT": "0"}
    split = given.how == "disaggregated"
    frontend = ("--enforce-disagg",) if split else ()
    with Dynamo(given.dynamo, given.model, out, home, frontend=frontend, variables=variables) as dynamo:
        for mode in ("prefill", "decode") if split else ("agg",):
            dynamo.vllm_worker(mode, mode)
        print("Starting: a minute or two on two cores ...", flush=True)
        dynamo.wait()
        for number in range(9):
            ask(dynamo.url, TENANTS[number % 3], "How much is the fish? " * (number + 1), 8 + 4 * number)
        wait_until(lambda: requests_booked(home) == 9, 60, 1)
        for name in [name for name in dynamo.members if name != "frontend"]:
            dynamo.members.pop(name).kill() if split else None
    print(costtrace(home, "requests", "--joined"))
    print(costtrace(home, "report", "--by", "role,worker"))
    print(costtrace(home, "report", "--by", "tenant"))
    print(f"Look at {home} with `costtrace requests --joined --id ... --home {home}`.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
