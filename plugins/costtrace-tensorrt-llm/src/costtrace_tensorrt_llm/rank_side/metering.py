"""Tier T1: batches timed by CUDA events of costtrace's own. Everything here runs on the executor's own thread.

A batch costs two recorded events, one pass over its requests, and later two queries to the driver. Nothing waits: a
batch that is not done is queried again when the executor comes by next.
"""

import time
from typing import Any

from costtrace.capture.recorder import Recorder
from costtrace.core.guard import swallow
from costtrace_tensorrt_llm.rank_side.gputime import DeviceClock, EventPool
from costtrace_tensorrt_llm.rank_side.members import IN_FLIGHT, BatchMeter, Flight
from costtrace_tensorrt_llm.server_side.contexts import Contexts


class StepMeter(BatchMeter):
    """Meters one executor by events of its own."""

    def __init__(self, recorder: Recorder, pool: EventPool, contexts: Contexts, *, samples: bool = True) -> None:
        super().__init__(recorder, contexts)
        self._pool = pool
        self._clock = DeviceClock(pool)
        self._samples = samples
        """Its batches are sampled here; the earlier stages of a pipeline sample none."""

    def begin(self, executor: Any, scheduled: Any) -> Flight:
        """A batch is about to go to the GPU: write down who is in it."""
        self.poll()
        if self._flying and not self._flying[-1].sealed:
            self._seal(self._flying[-1])
        if len(self._flying) >= IN_FLIGHT:
            self._unpriced(self._flying.popleft(), "the device does not answer")
        batch = self._batch_of(executor, scheduled)
        flight = self._launch(Flight(batch, scheduled, self._pool.take(), self._pool.take()))
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
        """Record the batches that are done, in their order."""
        while self._flying and self._flying[0].sealed:
            flight = self._flying[0]
            try:
                if not flight.end.query():
                    return
                seen_ns = time.monotonic_ns()
                start_ns, end_ns = self._clock.place(flight.start, flight.end, flight.recorded_ns, seen_ns)
            except Exception as error:  # noqa: BLE001 - a device that has failed must not fail its engine again here
                self._flying.popleft()
                self._unpriced(flight, "its end could not be timed")
                swallow("trtllm.events", error)
                continue
            self._flying.popleft()
            # Handed over while the GPU was still busy: it owns all from the end of the batch before.
            queued = flight.recorded_ns <= self._done_ns
            self.recorder.done_at(flight.batch, flight.recorded_ns if queued else start_ns, end_ns)
            self._done_ns = end_ns

    def _seal(self, flight: Flight) -> None:
        flight.sealed, flight.scheduled = True, None
