"""A limit on the connections of a threaded server, for every port that costtrace listens on."""

import contextlib
import socket
import threading
import time
from operator import itemgetter
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from costtrace.core.errors import MORE_DESCRIPTORS, OUT_OF_DESCRIPTORS
from costtrace.core.guard import log

PAUSE_S = 0.5
WARN_S = 60.0


class BoundedServer(ThreadingMixIn, TCPServer):
    """Named before another server among the bases: a thread a connection, at most `most`, none beyond `longest_s`.

    Where all are taken, the oldest that has had `least_s` makes room; if there is none, the new one is closed. Out of
    descriptors, it pauses and says so.
    """

    daemon_threads = True
    request_queue_size = 128
    most = 32
    least_s = 1.0
    longest_s = 30.0

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - those of the other server
        self._open: dict[socket.socket, float] = {}
        """When each connection began; infinite once it is being ended."""
        self._changed = threading.Condition()
        self._warned_s = -WARN_S
        super().__init__(*args, **options)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. Raises: OSError, which `socketserver` takes for none."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                if time.monotonic() - self._warned_s >= WARN_S:
                    self._warned_s = time.monotonic()
                    log.warning("costtrace: a port accepts no connections for a while: %s. %s", error, MORE_DESCRIPTORS)
                self._end(self.least_s, at_most=1)
                time.sleep(PAUSE_S)  # it would be asked again at once
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401, ARG002 - its signature
        """Whether there is room for one more."""
        with self._changed:
            if len(self._open) >= self.most and self._end(self.least_s, at_most=1):
                self._changed.wait_for(lambda: len(self._open) < self.most, PAUSE_S)
            if room := len(self._open) < self.most:
                self._open[request] = time.monotonic()
            return room

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - its signature
        """Close a connection, however it ended."""
        with self._changed:
            self._open.pop(request, None)
            self._changed.notify()
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End what has been open for too long. Called twice a second."""
        with self._changed:
            self._end(self.longest_s, at_most=self.most)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - its signature
        """Print nothing: a client that disconnected is not an error."""

    def _end(self, least_s: float, *, at_most: int) -> bool:
        """End the oldest connections that are at least so old: their threads find them closed. Whether there is one."""
        with self._changed:
            old = [each for each in self._open.items() if time.monotonic() - each[1] >= least_s]
            for request, _ in sorted(old, key=itemgetter(1))[:at_most]:
                self._open[request] = float("inf")
                with contextlib.suppress(OSError):  # its other end was faster
                    request.shutdown(socket.SHUT_RDWR)
            return bool(old)
