"""Health metrics read from elsewhere: the plugins' status files (`run/<role>-<pid>.json`), /proc, the ledger."""

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from costtrace.core.errors import CosttraceError
from costtrace.ledger.reader import open_ledger


class Plugins(NamedTuple):
    """Sums over live processes. Wrong where engines run in another container: their pids mean nothing here."""

    lost_hooks: int
    errors: int


def plugins(home: Path) -> Plugins:
    """Read the status files now. One that cannot be read is left out; `costtrace doctor` names it."""
    lost = errors = 0
    paths: list[Path] = []
    with contextlib.suppress(OSError):  # out of descriptors
        paths = list((home / "run").glob("*.json"))
    for path in paths:
        try:
            status = json.loads(path.read_text(encoding="utf-8"))
            if Path("/proc", str(status["pid"])).exists():
                lost += len(status["lost_hooks"])
                errors += sum(status["swallowed_errors"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return Plugins(lost, errors)


PROC = Path("/proc")
_ENGINE = re.compile(rb"[^\s:\0]+::EngineCore")
"""The title of a vLLM engine's process, with the package setproctitle: ``VLLM::EngineCore_DP0``."""
_STARTING_S = 60
"""An engine says that it is recorded a few seconds after its start."""


def unrecorded(home: Path, proc: Path = PROC) -> list[tuple[int, str]]:
    """(pid, reason) of each vLLM engine on this host that ought to be recorded here, or nowhere is.

    Only those that can be known: with a title, in the same or an inner pid namespace, and of the same user.
    """
    known, found = _recorded(home), []
    for folder in proc.glob("[0-9]*"):
        try:
            if not _ENGINE.match((folder / "cmdline").read_bytes()):
                continue
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            parent, pids = status["PPid"].strip(), set(status.get("NSpid", folder.name).split())
            if not known & pids and _age_s(folder, proc) > _STARTING_S:
                # The title is written over the engine's own environment: its parent, the API server, has it.
                reasons = [_reason(_environ(proc / pid), home) for pid in (parent, folder.name)]
                found += [(int(folder.name), reason) for reason in reasons if reason][:1]
        except (OSError, ValueError, KeyError, IndexError):  # it has ended, or is not ours to see
            continue
    return found


def _recorded(home: Path) -> set[str]:
    """Pids, in their own namespaces, of processes with hooks other than those of Dynamo's plugin."""
    pids = set()
    for path in (home / "run").glob("*.json"):
        try:
            process = json.loads(path.read_text(encoding="utf-8"))
            if not all(str(hook).startswith("dynamo.") for hook in process["hooks"]) or not process["hooks"]:
                pids.add(str(process["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return pids


def _age_s(folder: Path, proc: Path) -> float:
    started = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
    return float((proc / "uptime").read_text().split()[0]) - started / os.sysconf("SC_CLK_TCK")


def _environ(folder: Path) -> Mapping[str, str]:
    try:
        pairs = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _reason(environ: Mapping[str, str], home: Path) -> str:
    if environ.get("COSTTRACE_ENABLED", "1").strip().lower() in {"0", "false", "no", "off"}:
        return ""
    if "VLLM_PLUGINS" in environ and "costtrace" not in environ["VLLM_PLUGINS"].split(","):
        return f"VLLM_PLUGINS={environ['VLLM_PLUGINS']!r:.200} leaves out costtrace"
    if environ.get("COSTTRACE_HOME") and Path(environ["COSTTRACE_HOME"]) == home:
        return "its environment names this COSTTRACE_HOME, but costtrace-vllm has not been loaded"
    return ""


def reratings(home: Path) -> int:
    """How often the ledger has been re-rated. 0 where it cannot be read now: other figures show that."""
    try:
        with open_ledger(home) as store:
            return int(next(store.rows("SELECT count(*) FROM rerate"))[0])
    except CosttraceError:
        return 0
