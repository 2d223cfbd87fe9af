"""`costtrace-trtllm-report`: packs what an issue about TensorRT-LLM needs into one file, and no client's data.

Versions, which hooks fit, what each process reports, how each engine's time adds up, whether the ledger is in
balance and (with ``--measure-events``, on a GPU) what a CUDA event costs. No tenant, prompt, path of a model or key.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from importlib import import_module, metadata
from operator import methodcaller
from pathlib import Path
from typing import Any

from costtrace.attribution.time.segments import EngineTimeline, Segment
from costtrace.cli.doctor import hooks
from costtrace.config import load as config
from costtrace.core.errors import CosttraceError
from costtrace.core.events import EngineStarted, Lost, SequenceAdded, SequenceFinished, Step
from costtrace.journal.reader import JournalReader

DISTRIBUTIONS = (
    "costtrace-core", "costtrace-tensorrt-llm", "tensorrt-llm", "ai-dynamo", "torch", "mpi4py", "nvidia-ml-py"
)  # fmt: skip
STATUS_KEYS = ("role", "engine_version", "hooks", "lost_hooks", "swallowed_errors", "tier", "place")
EVENTS = 2_000


def versions() -> dict[str, str]:
    """What is installed here; '' for what is not."""
    installed = {name: next((each.version for each in metadata.distributions(name=name)), "") for name in DISTRIBUTIONS}
    return {"python": sys.version.split()[0]} | installed


def processes(home: Path) -> list[dict[str, Any]]:
    """The status files of this home's ranks, without what could name somebody."""
    statuses = []
    for path in sorted((home / "run").glob("rank-*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        statuses.append({key: content[key] for key in STATUS_KEYS if key in content})
    return statuses


def engines(home: Path) -> list[dict[str, Any]]:
    """Each TensorRT-LLM engine's time by kind. Its residual, wall time less all of it, is 0 or a bug of ours."""
    return [engine(path) for path in sorted((home / "journal").glob("tensorrt-llm-*"))]


def engine(path: Path) -> dict[str, Any]:
    """One journal, read to its end."""
    reader, timeline = JournalReader(path), EngineTimeline()
    by_kind, by_reason, counts = Counter[str](), Counter[str](), Counter[str]()
    row: dict[str, Any] = {}
    try:
        while events := reader.read().events:
            for event in events:
                counts[type(event).__name__] += isinstance(event, Step | SequenceAdded | SequenceFinished)
                counts["lost steps"] += event.steps if isinstance(event, Lost) else 0
                if isinstance(event, EngineStarted):
                    row = {
                        "version": event.engine_version,
                        "devices": [device.name for device in event.devices],
                        "settings": event.settings,
                        "lost_hooks": list(event.lost_hooks),
                    }
                for item in timeline.feed(event):
                    if isinstance(item, Segment):
                        by_kind[item.kind] += item.end_ns - item.start_ns
                        by_reason[item.reason] += item.end_ns - item.start_ns if item.reason else 0
    except CosttraceError as error:
        row["error"] = type(error).__name__
    finally:
        reader.close()
    wall_ns = timeline.until_ns - timeline.started_ns
    return row | {
        "wall_ns": wall_ns,
        "ns_by_kind": dict(by_kind),
        "ns_by_reason": dict(+by_reason),
        "residual_ns": wall_ns - by_kind.total(),
        "counts": dict(+counts),
        "said_goodbye": timeline.ended,
    }


def balance(home: Path) -> dict[str, Any]:
    """Whether `costtrace verify` finds the ledger in balance: its exit code and its last line."""
    words = [sys.executable, "-P", "-m", "costtrace", "verify", "--home", str(home)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603 - our command
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return {"exit_code": done.returncode, "in_balance": "in balance" in lines, "said": lines[-1:] or ["no ledger"]}


def event_cost() -> dict[str, float]:
    """Microseconds of one event's record, query and elapsed_time on this GPU: the driver calls of a step hook.

    Raises: what torch raises where there is no GPU.
    """
    cuda = import_module("torch").cuda
    events = [cuda.Event(enable_timing=True) for _ in range(EVENTS)]
    for event in events:  # the first record creates it
        event.record()
    calls = {"record": methodcaller("record"), "query": methodcaller("query"), "elapsed_time": events[0].elapsed_time}
    costs = {}
    for name, call in calls.items():
        cuda.synchronize()
        began = time.perf_counter()
        for event in events:
            call(event)
        costs[f"{name}_us"] = (time.perf_counter() - began) / EVENTS * 1e6
    return costs


def collect(home: Path, package_dir: Path | None, *, measure: bool) -> dict[str, Any]:
    """The whole report."""
    report: dict[str, Any] = {
        "versions": versions(),
        "hooks": [fit._asdict() for fit in hooks.fits("tensorrt-llm", package_dir)] if package_dir else [],
        "processes": processes(home),
        "engines": engines(home),
        "balance": balance(home),
    }
    if measure:
        try:
            report["events"] = event_cost()
        except Exception as error:  # noqa: BLE001 - whatever a driver raises belongs in the report
            report["events"] = {"error": f"{type(error).__name__}: {error}"}
    return report


def pack(report: dict[str, Any], out: Path) -> None:
    """Write *report* into *out*, readable by its owner only. Raises: OSError."""
    data = json.dumps(report, indent=1, sort_keys=True).encode()
    member = tarfile.TarInfo("costtrace-trtllm-report.json")
    member.size = len(data)
    file = os.open(out, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    if out.is_file():  # not a pipe or a device; the mode above is for a new file only
        os.fchmod(file, 0o600)
    with os.fdopen(file, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(member, io.BytesIO(data))


def summary_lines(report: dict[str, Any]) -> list[str]:
    """The report on a screen."""
    lines = [f"{name} {version or 'is not installed'}" for name, version in report["versions"].items()]
    fits = [row["fits"] for row in report["hooks"]]
    lines.append(f"hooks: {fits.count('yes')} of {len(fits)} fit" if fits else "hooks: no TensorRT-LLM to look at here")
    lines += [f"  does not fit: {row['hook']}: {row['why']}" for row in report["hooks"] if row["fits"] != "yes"]
    for row in report["engines"]:
        settings = row.get("settings", {})
        lines.append(
            f"engine, rank {settings.get('rank', '?')}, {settings.get('metering', 'unknown')}: "
            f"{row['counts'].get('Step', 0)} steps, residual {row['residual_ns']} ns"
        )
    return [*lines, f"ledger: {report['balance']['said'][0]}"]


def main() -> int:
    """Run the command; 1 where the ledger is not in balance or an engine has a residual."""
    parser = argparse.ArgumentParser(prog="costtrace-trtllm-report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--home", type=Path, help="COSTTRACE_HOME of the engine")
    parser.add_argument("--package-dir", type=Path, help="the folder tensorrt_llm; default: of this environment")
    parser.add_argument("--out", type=Path, default=Path("costtrace-trtllm-report.tar.gz"))
    parser.add_argument("--measure-events", action="store_true", help="time CUDA events (makes a context on GPU 0)")
    options = parser.parse_args()
    package_dir = options.package_dir or hooks.installed("tensorrt-llm")
    report = collect(options.home or config.home(), package_dir, measure=options.measure_events)
    pack(report, options.out)
    sys.stdout.write(
        "\n".join([*summary_lines(report), f"packed: {options.out} (read it before you attach it)"]) + "\n"
    )
    return 0 if report["balance"]["in_balance"] and all(row["residual_ns"] == 0 for row in report["engines"]) else 1
