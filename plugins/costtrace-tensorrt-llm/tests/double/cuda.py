"""A GPU that does not exist: one stream on an invented clock, and CUDA events that say when it reached them.

Host time passes only by `Host.spend` and `Host.wait`; the stream runs on beside it. Nothing here measures anything.
"""

from typing import NamedTuple


class Host:
    """The clock of one rank's host thread, in ns."""

    def __init__(self, now_ns: int = 1_000_000_000) -> None:
        self.now_ns = now_ns

    def monotonic_ns(self) -> int:
        """The time now; reading it takes none."""
        return self.now_ns

    def spend(self, ns: int) -> None:
        """The host works, or waits for something other than the stream."""
        self.now_ns += ns


class Busy(NamedTuple):
    """What the stream did for one batch: the truth to compare a bill with."""

    start_ns: int
    """When the stream reached the batch's beginning."""
    end_ns: int
    members: tuple[int, ...]
    """Ids of the requests in it; empty: it served nobody."""


class FakeGpu:
    """One device with one stream. Work queues behind earlier work."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.tail_ns = 0
        """When the stream has done all that it was given."""
        self.synchronised = 0
        """How often an event made the host wait: a step hook never may."""
        self.busy: list[Busy] = []

    def reached_ns(self) -> int:
        """When the stream gets to what is queued next."""
        return max(self.tail_ns, self.host.now_ns)

    def launch(self, ns: int) -> None:
        """Queue work of *ns*; the host goes on at once."""
        self.tail_ns = self.reached_ns() + ns

    def wait(self) -> None:
        """The executor's own wait for its sampler: the host waits until the stream is empty."""
        self.host.now_ns = max(self.host.now_ns, self.tail_ns)

    def event(self) -> "FakeEvent":
        """A new event, as ``torch.cuda.Event(enable_timing=True)``."""
        return FakeEvent(self)


class FakeEvent:
    """An event of a `FakeGpu`, with the rules of the real one."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self._at_ns = -1

    def record(self) -> None:
        """Queue the event behind the stream's work so far."""
        self._at_ns = self._gpu.reached_ns()

    @property
    def at_ns(self) -> int:
        """When the stream gets to it; -1: it was never recorded. The real one cannot be asked."""
        return self._at_ns

    def query(self) -> bool:
        """Whether the stream has passed it."""
        return self._at_ns < 0 or self._at_ns <= self._gpu.host.now_ns

    def elapsed_time(self, other: "FakeEvent") -> float:
        """Milliseconds to *other*. Raises: RuntimeError, as torch does, where one of the two has not happened."""
        if min(self._at_ns, other._at_ns) < 0 or not (self.query() and other.query()):
            raise RuntimeError("both events must be completed before calculating elapsed time")
        return (other._at_ns - self._at_ns) / 1_000_000

    def synchronize(self) -> None:
        """Wait for it. Counted, because costtrace never may."""
        self._gpu.synchronised += 1
        self._gpu.wait()
