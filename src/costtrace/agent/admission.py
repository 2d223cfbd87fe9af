"""Tell the servers of this node which tenants are above a hard budget. A thread of its own; it only reads the ledger.

A budget of one model is not looked at: a server would have to read a request's body to know whom it concerns.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from costtrace import admission
from costtrace.admission import EVERYBODY, Refusal
from costtrace.budgets import HARD
from costtrace.budgets_file import load_budgets
from costtrace.errors import CosttraceError
from costtrace.guard import log
from costtrace.ledger.query import open_ledger
from costtrace.ledger.standing import standing_of
from costtrace.units import NS_PER_S

LEAST_GAP_S = 5.0
SHARE = 0.02
"""Of this thread's time that may go into reading the ledger, as long as the file does not grow stale by it."""


class Admission:
    """Writes who is refused, every few seconds, from `start` to `stop`; counts what the servers say they refused."""

    def __init__(self, home: Path, budgets: Path, count: Callable[[int], None]) -> None:
        self._home = home
        self._budgets = budgets
        self._count = count
        self._counted: dict[str, int] = {}
        self._failing = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="costtrace-admission", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what was written stays until it is too old to count."""
        self._stop.set()
        self._thread.join(5)

    def turn(self, now_ns: int) -> dict[str, Refusal]:
        """Write who is refused at *now_ns* (wall), and return it. Raises: OSError, CosttraceError."""
        with open_ledger(self._home) as store:
            standings = [
                standing_of(store, budget, now_ns) for budget in load_budgets(self._budgets) if budget.model is None
            ]
        refused = {
            EVERYBODY if one.budget.tenant is None else one.budget.tenant: Refusal(
                one.budget.name, 0 if one.budget.rolling_days else one.until_ns // NS_PER_S
            )
            for one in standings
            if one.state == HARD
        }
        admission.write(self._home, refused, now_ns / NS_PER_S)
        return refused

    def _run(self) -> None:
        gap_s = LEAST_GAP_S
        while not self._stop.wait(gap_s):
            began_s = time.monotonic()
            try:
                self.turn(time.time_ns())
                self._failing = ""
            except (OSError, CosttraceError) as error:
                self._say_failing(error)
            self._count_refused()
            gap_s = min(admission.VALID_S / 3, max(LEAST_GAP_S, (time.monotonic() - began_s) / SHARE))

    def _count_refused(self) -> None:
        """Add what each server process has refused since it was last looked at."""
        for path in (self._home / "run").glob("frontend-*.json"):
            try:
                total = sum(json.loads(path.read_text(encoding="utf-8")).get("refused", {}).values())
            except (OSError, ValueError, AttributeError, TypeError):
                continue  # it has just ended, or another version wrote it
            if (more := total - self._counted.get(path.name, 0)) > 0:
                self._count(more)
            self._counted[path.name] = total

    def _say_failing(self, error: Exception) -> None:
        if self._failing != str(error):
            self._failing = str(error)
            log.error("nobody is refused for a budget: %s. Serving goes on; the agent tries again.", error)
