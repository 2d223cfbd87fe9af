"""Health metrics read from elsewhere: the plugins' status files (`run/<role>-<pid>.json`), the ledger's re-ratings."""

import contextlib
import json
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


def reratings(home: Path) -> int:
    """How often the ledger has been re-rated. 0 where it cannot be read now: other figures show that."""
    try:
        with open_ledger(home) as store:
            return int(next(store.rows("SELECT count(*) FROM rerate"))[0])
    except CosttraceError:
        return 0
