"""What the plugin did in this process, in a small file for `costtrace doctor`."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from costtrace import guard

installed: list[str] = []
"""Hooks that are in place in this process."""
lost: dict[str, str] = {}
"""Hooks that do not fit: name -> why, and what is lost."""


def say_lost(name: str, why: str, what: str) -> None:
    """Log, once, what does not fit."""
    if name in lost:
        return
    lost[name] = f"{why}; lost: {what}"
    guard.log.warning(
        "costtrace: the hook `%s` does not fit this TensorRT-LLM (%s). Serving goes on; lost: %s. "
        "`costtrace doctor --engine tensorrt-llm` shows all of them.",
        name,
        why,
        what,
    )


def lost_hooks() -> tuple[str, ...]:
    """The lost hooks as an engine's row shows them."""
    return tuple(f"{name}: {why}" for name, why in sorted(lost.items()))


def engine_version() -> str:
    """Version of the TensorRT-LLM in this process; '' where it is not loaded or does not say."""
    for name in ("tensorrt_llm.version", "tensorrt_llm"):
        version = getattr(sys.modules.get(name), "__version__", "")
        if version:
            return str(version)
    return ""


def write(home: Path, role: str, **more: Any) -> None:
    """Write ``run/<role>-<pid>.json``, in one piece. Raises: OSError."""
    folder = home / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{role}-{os.getpid()}.json"
    content = {
        "role": role,
        "pid": os.getpid(),
        "wall_ns": time.time_ns(),
        "engine": "TensorRT-LLM",
        "engine_version": engine_version(),
        "hooks": sorted(installed),
        "lost_hooks": lost,
        "swallowed_errors": dict(guard.failures),
        **more,
    }
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    file = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1)
    draft.replace(path)


def remove(home: Path, role: str) -> None:
    """Remove this process's status file: it has ended in good order. Raises: OSError."""
    (home / "run" / f"{role}-{os.getpid()}.json").unlink(missing_ok=True)
