"""The state of a plugin in one process: hooks installed, hooks that do not fit, and the file that shows them."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from costtrace.capture.node_files.whole_file import write_whole
from costtrace.core import guard


class HookStatus:
    """Hooks of one plugin in this process; `costtrace doctor` and the agent read the file that it writes."""

    def __init__(
        self, engine: str, version: Callable[[], str], *, remedy: str = "`costtrace doctor` shows it."
    ) -> None:
        self.engine = engine
        self.engine_version = version
        """Version of the engine in this process; '' where it is not loaded or does not say."""
        self.installed: list[str] = []
        """Hooks that are installed."""
        self.lost: dict[str, str] = {}
        """Hooks that do not fit: name -> why, and what is lost."""
        self._remedy = remedy

    def report_lost(self, name: str, why: str, what: str) -> None:
        """Note a hook that does not fit, and log it once. *what*: what is lost by it."""
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
        """The lost hooks as `EngineStarted.lost_hooks` has them."""
        return tuple(f"{name}: {why}" for name, why in sorted(self.lost.items()))

    def write(self, home: Path, role: str, **more: Any) -> None:  # noqa: ANN401 - what goes into JSON
        """Write ``run/<role>-<pid>.json``, in one piece; *more*: further fields. Raises: OSError."""
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
        write_whole(_path(home, role), json.dumps(content, indent=1).encode())

    def remove(self, home: Path, role: str) -> None:
        """Remove the file: this process has ended in good order. Raises: OSError."""
        _path(home, role).unlink(missing_ok=True)


def _path(home: Path, role: str) -> Path:
    return home / "run" / f"{role}-{os.getpid()}.json"
