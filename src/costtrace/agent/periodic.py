"""A thread of the agent that reads the ledger every few seconds and writes a file for the servers of its node."""

import threading
import time
from abc import ABC, abstractmethod

from costtrace.core.guard import log

LEAST_GAP_S = 5.0
SHARE = 0.02
"""At most this share of the thread's time goes into reading the ledger, unless what it wrote would grow too old."""


class Periodic(ABC):
    """Calls `look` every few seconds, from `start` to `stop`."""

    def __init__(self, name: str, valid_s: float) -> None:
        """*valid_s*: for how long readers believe the file."""
        self._valid_s = valid_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"costtrace-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; the file stays, and is ignored once it is too old."""
        self._stop.set()
        self._thread.join(5)

    @abstractmethod
    def look(self, now_ns: int) -> None:
        """One round at *now_ns* (wall). Expected errors are logged, not raised."""

    def _run(self) -> None:
        gap_s, failed = LEAST_GAP_S, ""
        while not self._stop.wait(gap_s):
            began_s = time.monotonic()
            try:
                self.look(time.time_ns())
                failed = ""
            except Exception as error:  # noqa: BLE001 - what ends this thread would end it for the agent's life
                if str(error) != failed:
                    log.exception("%s: a round failed; the agent tries again", self._thread.name)
                failed = str(error)
            gap_s = min(self._valid_s / 3, max(LEAST_GAP_S, (time.monotonic() - began_s) / SHARE))
