"""Which tenants are refused for now: one small file that the agent writes for the servers of its node.

The agent knows what is spent; a server looks up, once a request, whether its tenant is refused. Both need the setting
``admission``, which is off by default. Engine processes import this: stdlib only.

It fails open: a file that is missing, damaged or older than `VALID_S` refuses no tenant. So an agent that has died or a
ledger that cannot be read never stops serving; meanwhile tenants can spend above their budgets.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from costtrace.capture.node_files.whole_file import write_whole
from costtrace.core.guard import guard

VALID_S = 120.0
"""How long the file is valid after the agent wrote it."""
LOOK_EVERY_S = 1.0
LATEST_S = 253_402_300_799
"""The end of the year 9999: a file that says a later one is damaged."""
EVERYBODY = ""
"""The entry for all tenants, where a budget of all of them together is spent. No tenant can have this name."""


class Refusal(NamedTuple):
    """Why a tenant is refused, and until when (epoch seconds); 0: a rolling budget, which has no end."""

    budget: str
    ends_s: int


def path_below(home: Path) -> Path:
    """Path of the file."""
    return home / "refusals.json"


def write(home: Path, refused: Mapping[str, Refusal], now_s: float) -> None:
    """Replace the file: who is refused from *now_s* (epoch) on. Raises: OSError."""
    content = {"written_s": now_s, "refused": {tenant: list(why) for tenant, why in refused.items()}}
    write_whole(path_below(home), json.dumps(content).encode())


def read(home: Path, now_s: float) -> dict[str, Refusal]:
    """Who is refused at *now_s*. Raises: OSError, ValueError (a damaged file)."""
    try:
        raw = json.loads(path_below(home).read_text(encoding="utf-8"))
        written_s = float(raw["written_s"])
        refusals = {str(tenant): Refusal(str(why[0]), int(why[1])) for tenant, why in raw["refused"].items()}
    except FileNotFoundError:
        return {}
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path_below(home)} is damaged: {error}") from error
    if any(not 0 <= why.ends_s <= LATEST_S for why in refusals.values()):
        raise ValueError(f"{path_below(home)} is damaged: it has a time that cannot be")
    # Written in the future: a clock was set back, and the age of the file is unknown.
    return refusals if 0 <= now_s - written_s <= VALID_S else {}


class RefusalReader:
    """Looks up each request's tenant; reads the file at most once in `LOOK_EVERY_S`. Never raises."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._looked_s = -LOOK_EVERY_S
        self._refused: dict[str, Refusal] = {}
        self.counts: dict[str, int] = {}
        """Requests refused by this process, by tenant."""

    def refusal(self, tenant: str) -> Refusal | None:
        """Why *tenant* is refused now; None: it is not. Counts refusals."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            self._refused = {}
            with guard("admission"):
                self._refused = read(self._home, time.time())
        for name in (tenant, EVERYBODY):
            why = self._refused.get(name)
            # A budget whose period is over refuses no tenant, even before the agent has written again.
            if why is not None and (not why.ends_s or time.time() < why.ends_s):
                self.counts[tenant] = self.counts.get(tenant, 0) + 1
                return why
        return None
