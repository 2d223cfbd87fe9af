"""`costtrace-trtllm-report`: packs what an issue about TensorRT-LLM needs into one file, and nothing of anybody's.

Versions, what of the contract fits, what each process said, how each engine's time adds up, whether the ledger is in
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
    "costtrace-core",
    "costtrace-tensorrt-llm",
    "tensorrt-llm",
    "ai-dynamo",
    "torch",
    "mpi4py",
    "nvidia-ml-py",
)
TOLD = ("role", "engine_version", "hooks", "lost_hooks", "swallowed_errors", "tier", "place", "assumed")
EVENTS = 2_000


def versions() -> dict[str, str]:
    """What is installed here; '' for what is not."""
    found = {"python": sys.version.split()[0]}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def processes(home: Path) -> list[dict[str, Any]]:
    """What the plugin said in each process that is there."""
    told = []
    files = [path for role in ("rank", "server") for path in (home / "run").glob(f"{role}-*.json")]
    for path in sorted(files):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        told.append({key: content[key] for key in TOLD if key in content})
    return told


def engines(home: Path) -> list[dict[str, Any]]:
    """Each TensorRT-LLM engine's time by kind. Its residual, wall time less all of it, is 0 or a bug of ours."""
    root = home / "journal"
    names = sorted(path for path in root.iterdir() if path.name.startswith("tensorrt-llm-")) if root.is_dir() else []
    return [engine(path) for path in names]


def engine(path: Path) -> dict[str, Any]:
    """One journal, read to its end."""
    reader, timeline = JournalReader(path), EngineTimeline()
    by_kind: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    counts: Counter[str] = Counter()
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
                        reasons[item.reason] += (item.end_ns - item.start_ns) if item.reason else 0
    except CosttraceError as error:
        row["error"] = type(error).__name__
    finally:
        reader.close()
    wall_ns = timeline.until_ns - timeline.started_ns
    return row | {
        "wall_ns": wall_ns,
        "ns_by_kind": dict(by_kind),
        "ns_by_reason": dict(+reasons),
        "residual_ns": wall_ns - by_kind.total(),
        "counts": dict(+counts),
        "said_goodbye": timeline.ended,
    }


def balance(home: Path) -> dict[str, Any]:
    """Whether `costtrace verify` finds the ledger in balance: its exit code and its last line."""
    words = [sys.executable, "-m", "costtrace", "verify", "--home", str(home)]
    done = subprocess.run(  # noqa: S603 - our own command
        words, capture_output=True, text=True, check=False, timeout=600
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return {"exit_code": done.returncode, "in_balance": "in balance" in lines, "said": lines[-1:] or ["no ledger"]}


def event_cost() -> dict[str, float]:
    """Microseconds of one event's record, query and elapsed_time on this GPU: what a step hook asks of the driver.

    Raises: what torch raises where there is no GPU.
    """
    cuda = import_module("torch").cuda
    events = [cuda.Event(enable_timing=True) for _ in range(EVENTS)]
    for event in events:  # the first record makes it
        event.record()
    cuda.synchronize()
    found = {}
    acts = {"record": methodcaller("record"), "query": methodcaller("query"), "elapsed_time": events[0].elapsed_time}
    for name, act in acts.items():
        cuda.synchronize()
        began = time.perf_counter()
        for event in events:
            act(event)
        found[f"{name}_us"] = (time.perf_counter() - began) / EVENTS * 1e6
    return found


def collect(home: Path, package_dir: Path | None, *, measure: bool) -> dict[str, Any]:
    """All of it."""
    found: dict[str, Any] = {
        "versions": versions(),
        "hooks": [fit._asdict() for fit in hooks.fits("tensorrt-llm", package_dir)] if package_dir else [],
        "processes": processes(home),
        "engines": engines(home),
        "balance": balance(home),
    }
    if measure:
        try:
            found["events"] = event_cost()
        except Exception as error:  # noqa: BLE001 - whatever a driver does here belongs into the report
            found["events"] = {"error": f"{type(error).__name__}: {error}"}
    return found


def pack(found: dict[str, Any], out: Path) -> None:
    """Write *found* into *out*, readable by its owner only. Raises: OSError."""
    data = json.dumps(found, indent=1, sort_keys=True).encode()
    file = os.open(out, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo("costtrace-trtllm-report.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


def told(found: dict[str, Any]) -> list[str]:
    """What a person wants to see of it at once."""
    lines = [f"{name} {version or 'is not installed'}" for name, version in found["versions"].items()]
    fits = [row["fits"] for row in found["hooks"]]
    lines.append(f"hooks: {fits.count('yes')} of {len(fits)} fit" if fits else "hooks: no TensorRT-LLM to look at here")
    lines += [f"  does not fit: {row['hook']}: {row['why']}" for row in found["hooks"] if row["fits"] != "yes"]
    for row in found["engines"]:
        settings = row.get("settings", {})
        lines.append(
            f"engine, rank {settings.get('rank', '?')}, {settings.get('metering', 'unknown')}: "
            f"{row['counts'].get('Step', 0)} steps, residual {row['residual_ns']} ns"
        )
    lines.append(f"ledger: {found['balance']['said'][0]}")
    return lines


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="costtrace-trtllm-report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--home", type=Path, help="COSTTRACE_HOME of the engine")
    parser.add_argument("--package-dir", type=Path, help="the folder tensorrt_llm; default: of this environment")
    parser.add_argument("--out", type=Path, default=Path("costtrace-trtllm-report.tar.gz"))
    parser.add_argument("--measure-events", action="store_true", help="time CUDA events (makes a context on GPU 0)")
    given = parser.parse_args()
    home = given.home or config.home()
    found = collect(home, given.package_dir or hooks.installed("tensorrt-llm"), measure=given.measure_events)
    pack(found, given.out)
    sys.stdout.write("\n".join([*told(found), f"packed: {given.out} (read it before you attach it)"]) + "\n")
    return 0 if found["balance"]["in_balance"] and all(row["residual_ns"] == 0 for row in found["engines"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
