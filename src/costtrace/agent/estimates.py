"""Tell the servers of this node what requests have cost lately. A thread of its own; it only reads the ledger."""

import threading
import time
from pathlib import Path

from costtrace import cost_estimates
from costtrace.cost_estimates import TENANT, Means
from costtrace.errors import CosttraceError
from costtrace.guard import log
from costtrace.ledger.query import open_ledger
from costtrace.ledger.recent import recent_means
from costtrace.units import NS_PER_S

LEAST_GAP_S = 5.0
SHARE = 0.02
"""Of this thread's time that may go into reading the ledger, as long as the file does not grow stale by it."""


class Estimates:
    """Writes the means, every few seconds, from `start` to `stop`."""

    def __init__(self, home: Path, scope: str) -> None:
        self._home = home
        self._scope = scope
        self._problem = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="costtrace-estimates", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what was written stays until it is too old to count."""
        self._stop.set()
        self._thread.join(5)

    def turn(self, now_ns: int) -> list[Means]:
        """Write the means as they are at *now_ns* (wall), and return them. Raises: OSError, CosttraceError."""
        with open_ledger(self._home) as store:
            means = recent_means(store, now_ns, by_tenant=self._scope == TENANT)
        cost_estimates.write(self._home, self._scope, means, now_ns / NS_PER_S)
        return means

    def _run(self) -> None:
        gap_s = LEAST_GAP_S
        while not self._stop.wait(gap_s):
            began_s = time.monotonic()
            try:
                self.turn(time.time_ns())
                self._problem = ""
            except (OSError, CosttraceError) as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    log.warning("answers will soon state no estimate of their cost: %s. The agent tries again.", error)
            gap_s = min(cost_estimates.VALID_S / 3, max(LEAST_GAP_S, (time.monotonic() - began_s) / SHARE))
