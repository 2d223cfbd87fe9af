"""A thread of the agent that looks at the ledger every few seconds and tells the servers of its node what it saw."""

import threading
import time
from abc import ABC, abstractmethod

LEAST_GAP_S = 5.0
SHARE = 0.02
"""Of this thread's time that may go into reading the ledger, as long as what it wrote does not grow stale by it."""


class Periodic(ABC):
    """Calls `look`, every few seconds, from `start` to `stop`."""

    def __init__(self, name: str, valid_s: float) -> None:
        """*valid_s*: for how long what it tells counts."""
        self._valid_s = valid_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"costtrace-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what was written stays until it is too old to count."""
        self._stop.set()
        self._thread.join(5)

    @abstractmethod
    def look(self, now_ns: int) -> None:
        """One round at *now_ns* (wall). What can go wrong in it is said and not raised."""

    def _run(self) -> None:
        gap_s = LEAST_GAP_S
        while not self._stop.wait(gap_s):
            began_s = time.monotonic()
            self.look(time.time_ns())
            gap_s = min(self._valid_s / 3, max(LEAST_GAP_S, (time.monotonic() - began_s) / SHARE))
