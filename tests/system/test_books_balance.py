"""From two engines' journals through the agent to the trial balance and the report, as a person would run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(sys.executable).parent / "costtrace"
PRICES = """
version: 2026-11
currency: USD
devices:
  - match: "*"
    per_gpu_hour: 2.10
    includes_energy: true
    from: 2020-01-01
    source: test
"""


def run(home, *words):
    env = {
        **os.environ,
        "COSTTRACE_HOME": str(home),
        "COSTTRACE_PRICES": str(home / "prices.yaml"),
        "COSTTRACE_WINDOW_S": "1",
    }
    return subprocess.run([SCRIPT, *words], env=env, capture_output=True, text=True, check=False, timeout=120)


def test_what_two_engines_on_one_device_recorded_is_in_balance_and_in_the_report(tmp_path):
    (tmp_path / "prices.yaml").write_text(PRICES)
    words = [
        sys.executable,
        "-m",
        "costtrace_lab.engines.engine",
        "--home",
        tmp_path,
        "--seconds",
        "3",
        "--device",
        "GPU-0",
    ]
    engines = [subprocess.Popen([*words, "--seed", seed], stdout=subprocess.DEVNULL) for seed in ("3", "4")]
    assert [engine.wait(60) for engine in engines] == [0, 0]
    booked = run(tmp_path, "agent", "--once")
    assert booked.returncode == 0, booked.stderr

    verified = run(tmp_path, "verify", "--format", "json")
    balance = json.loads(verified.stdout)
    assert (verified.returncode, balance["discrepancies"]) == (0, [])
    device = balance["time"][-1]
    assert (device["engine"], device["difference_ns"]) == ("(all engines)", 0)

    report = json.loads(run(tmp_path, "report", "--format", "json").stdout)
    everything = report["summary"][-1]
    assert everything["kind"] == "everything"
    assert everything["gpu_ns"] == device["wall_ns"]
    assert everything["requests"] == len(
        json.loads(run(tmp_path, "requests", "--limit", "9999", "--format", "json").stdout)["requests"]
    )
    assert everything["cost_nano"] == sum(row["charged_nano"] for row in balance["money"])
    shown = run(tmp_path, "journal", "show").stdout
    assert "finished" in shown
    assert "steady step" in shown
