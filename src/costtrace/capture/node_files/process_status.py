"""What a plugin did in this process: hooks in place, hooks that do not fit, and a small file for the doctor."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from costtrace.core import guard


class HookStatus:
    """One plugin's, in this process."""

    def __init__(
        self, engine: str, version: Callable[[], str], *, remedy: str = "`costtrace doctor` shows it."
    ) -> None:
        self.engine = engine
        self.engine_version = version
        """Version of the engine in this process; '' where it is not loaded or does not say."""
        self.installed: list[str] = []
        """Hooks that are in place."""
        self.lost: dict[str, str] = {}
        """Hooks that do not fit: name -> why, and what is lost."""
        self._remedy = remedy

    def say_lost(self, name: str, why: str, what: str) -> None:
        """Log, once, what does not fit."""
        if name in self.lost:
            return
        self.lost[name] = f"{why}; lost: {what}"
        guard.log.warning(
            "costtrace: the hook `%s` does not fit this %s (%s). Serving goes on; lost: %s. %s",
            name,
            self.engine,
            why,
            what,
            self._remedy,
        )

    def lost_hooks(self) -> tuple[str, ...]:
        """The lost hooks as an engine's row shows them."""
        return tuple(f"{name}: {why}" for name, why in sorted(self.lost.items()))

    def write(self, home: Path, role: str, **more: Any) -> None:  # noqa: ANN401 - what goes into JSON
        """Write ``run/<role>-<pid>.json``, in one piece. Raises: OSError."""
        folder = home / "run"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{role}-{os.getpid()}.json"
        content = {
            "role": role,
            "pid": os.getpid(),
            "wall_ns": time.time_ns(),
            "engine": self.engine,
            "engine_version": self.engine_version(),
            "hooks": sorted(self.installed),
            "lost_hooks": self.lost,
            "swallowed_errors": dict(guard.failures),
            **more,
        }
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        file = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1)
        draft.replace(path)

    def remove(self, home: Path, role: str) -> None:
        """Remove this process's status file: it has ended in good order. Raises: OSError."""
        (home / "run" / f"{role}-{os.getpid()}.json").unlink(missing_ok=True)
