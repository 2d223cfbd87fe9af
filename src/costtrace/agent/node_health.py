"""How the plugins fare in the processes of this node, by what each wrote of itself (`run/<role>-<pid>.json`)."""

import json
from pathlib import Path
from typing import NamedTuple

from costtrace.core.errors import CosttraceError
from costtrace.ledger.reader import open_ledger


class Plugins(NamedTuple):
    """Sums over the processes that live. Of another container's processes nobody here knows whether they do."""

    lost_hooks: int
    errors: int


def plugins(home: Path) -> Plugins:
    """Look now: a few small files. One that cannot be read counts as none; `costtrace doctor` names it."""
    lost = errors = 0
    for path in (home / "run").glob("*.json"):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if Path("/proc", str(told["pid"])).exists():
                lost += len(told["lost_hooks"])
                errors += sum(told["swallowed_errors"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return Plugins(lost, errors)


def reratings(home: Path) -> int:
    """How many there were. 0 where the ledger cannot be read now: other figures say so."""
    try:
        with open_ledger(home) as store:
            return int(next(store.rows("SELECT count(*) FROM rerate"))[0])
    except CosttraceError:
        return 0
