"""The step hooks' core: one executor's batches, timed on its GPU. Everything here runs on the executor's own thread.

A batch costs two recorded events, one pass over its requests, and later two questions to the driver. Nothing waits:
what is not done yet is asked again at the next batch.
"""

import time
from collections import deque
from typing import Any

from costtrace.capture.recorder import Recorder
from costtrace.core.guard import swallow
from costtrace_tensorrt_llm.rank_side.batches import Batch
from costtrace_tensorrt_llm.rank_side.gputime import DeviceClock, Event, EventPool
from costtrace_tensorrt_llm.rank_side.members import IN_FLIGHT, Meter
from costtrace_tensorrt_llm.server_side.contexts import Contexts


class Flight:
    """One batch on its way through the GPU."""

    __slots__ = ("batch", "end", "recorded_ns", "scheduled", "sealed", "start")

    def __init__(self, batch: Batch, scheduled: Any, start: Event, end: Event) -> None:
        self.batch = batch
        self.scheduled = scheduled
        """The executor's own object of it, until its sampling has been recorded."""
        self.start = start
        self.end = end
        self.sealed = False
        """Its end event stands where it belongs, and may be asked."""
        self.recorded_ns = 0


class StepMeter(Meter):
    """Meters one executor by events of its own."""

    def __init__(self, recorder: Recorder, pool: EventPool, contexts: Contexts, *, samples: bool = True) -> None:
        super().__init__(recorder, contexts)
        self._pool = pool
        self._clock = DeviceClock(pool)
        self._samples = samples
        """Its batches are sampled here (all but the earlier stages of a pipeline)."""
        self._flying: deque[Flight] = deque()
        self._done_ns = 0

    def begin(self, executor: Any, scheduled: Any) -> Flight:
        """A batch is about to be handed to the GPU: write down who is in it."""
        self.poll()
        if self._flying and not self._flying[-1].sealed:
            self._seal(self._flying[-1])
        if len(self._flying) >= IN_FLIGHT:
            self._unpriced(self._flying.popleft().recorded_ns, "the device does not answer")
        batch = self._batch_of(executor, scheduled)
        flight = Flight(batch, scheduled, self._pool.take(), self._pool.take())
        self.recorder.dispatched(batch)
        flight.recorded_ns = time.monotonic_ns()
        self._flying.append(flight)
        flight.start.record()
        return flight

    def forwarded(self, flight: Flight, *, failed: bool) -> None:
        """Its forward pass has been queued (or has failed: then nothing is sampled)."""
        flight.end.record()
        if failed or not self._samples:
            self._seal(flight)

    def sampled(self, scheduled: Any) -> None:
        """Its sampling has been queued: it ends after that."""
        if self._flying and self._flying[-1].scheduled is scheduled:
            flight = self._flying[-1]
            flight.end.record()
            self._seal(flight)

    def poll(self) -> None:
        """Price the batches that are done, in their order."""
        while self._flying and self._flying[0].sealed:
            flight = self._flying[0]
            try:
                if not flight.end.query():
                    return
                seen_ns = time.monotonic_ns()
                start_ns, end_ns = self._clock.place(flight.start, flight.end, flight.recorded_ns, seen_ns)
            except Exception as error:  # noqa: BLE001 - a device that has failed must not fail its engine again here
                self._flying.popleft()
                self._unpriced(flight.recorded_ns, "its end could not be timed")
                swallow("trtllm.events", error)
                continue
            self._flying.popleft()
            # Handed over while the GPU was still busy: it owns all from the end of the batch before.
            queued = flight.recorded_ns <= self._done_ns
            self.recorder.done_at(flight.batch, flight.recorded_ns if queued else start_ns, end_ns)
            self._done_ns = end_ns

    def _seal(self, flight: Flight) -> None:
        flight.sealed, flight.scheduled = True, None

    def finish(self) -> None:
        """The executor ends: what the GPU has not finished cannot be timed any more."""
        self.poll()
        while self._flying:
            self._unpriced(self._flying.popleft().recorded_ns, "the engine ended before it was timed")
