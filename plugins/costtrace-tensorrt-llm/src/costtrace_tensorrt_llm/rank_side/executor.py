"""Hooks on PyExecutor, on every rank: installed on the class, with what records an executor kept on the instance.

Those that run in an iteration may neither raise nor wait; those in every one use no `guard`, which costs a microsecond.
"""

from functools import wraps
from typing import Any

from costtrace.core.guard import guard, swallow
from costtrace_tensorrt_llm.rank_side.native import NotTimed
from costtrace_tensorrt_llm.upstream import Method, read, wrapper

MARK = "_costtrace"


def recorder_of(executor: Any) -> Any:
    """The `RankRecorder` of *executor*, made at its first use; None where nothing records it."""
    known = executor.__dict__
    if MARK not in known:
        known[MARK] = None  # one attempt, even if it fails
        from costtrace_tensorrt_llm.rank_side.engine import attach  # noqa: PLC0415 - only ranks need it

        known[MARK] = attach(executor)
    return known[MARK]


def _meter(executor: Any) -> Any:
    recorder = recorder_of(executor)
    return None if recorder is None else recorder.steps


def _call_meter(executor: Any, site: str, method: str, *arguments: Any) -> None:
    """Call a method of the executor's `BatchMeter`, where it has one."""
    try:
        meter = _meter(executor)
        if meter is not None:
            getattr(meter, method)(*arguments)
    except Exception as error:  # noqa: BLE001 - the engine goes on
        swallow(site, error)


@wrapper
def wrap_start(original: Method, self: Any, *args: Any, **kwargs: Any) -> Any:
    """`PyExecutor.start_worker`: the executor is built, and serves from here on."""
    with guard("trtllm.start"):
        recorder_of(self)
    return original(self, *args, **kwargs)


@wrapper
def wrap_stop(original: Method, self: Any, *args: Any, **kwargs: Any) -> Any:
    """`PyExecutor.shutdown`: the journal ends."""
    try:
        return original(self, *args, **kwargs)
    finally:
        with guard("trtllm.stop"):
            recorder = self.__dict__.get(MARK)
            if recorder is not None:
                self.__dict__[MARK] = None
                recorder.stop()


def wrap_forward(original: Method) -> Method:
    """`PyExecutor._forward_step`: a batch goes to the GPU. Its members are read before upstream changes its lists."""

    @wraps(original)
    def _forward_step(self: Any, scheduled_requests: Any, *args: Any, **kwargs: Any) -> Any:
        meter: Any = None
        flight = None
        try:
            meter = _meter(self)
            if meter is not None:
                flight = meter.begin(self, scheduled_requests)
        except Exception as error:  # noqa: BLE001 - the engine goes on
            meter, flight = _fall_back(self, scheduled_requests, error)
        failed = True
        try:
            outputs = original(self, scheduled_requests, *args, **kwargs)
            failed = outputs is None
            return outputs
        finally:
            if flight is not None:
                try:
                    meter.forwarded(flight, failed=failed)
                except Exception as error:  # noqa: BLE001 - the engine goes on
                    swallow("trtllm.forward", error)

    return _forward_step


def _fall_back(executor: Any, scheduled: Any, error: Exception) -> tuple[Any, Any]:
    """A batch is not as the contract says, or upstream does not time it: go on with the next tier.

    Returns the new meter and the flight that it began; None, None where the next tier does not follow batches.
    """
    recorder = executor.__dict__.get(MARK)
    if not isinstance(error, AttributeError | NotTimed) or recorder is None or recorder.steps is None:
        swallow("trtllm.begin", error)
        return None, None
    try:
        successor = recorder.fall_back(executor, error)
        executor.__dict__[MARK] = successor
        if successor is not None and successor.steps is not None:
            return successor.steps, successor.steps.begin(executor, scheduled)
    except Exception as failure:  # noqa: BLE001 - the engine goes on
        swallow("trtllm.fall_back", failure)
    return None, None


def wrap_sample(original: Method) -> Method:
    """`PyExecutor._sample_async`: sampling is queued; the batch ends after it."""

    @wraps(original)
    def _sample_async(self: Any, scheduled_batch: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, scheduled_batch, *args, **kwargs)
        finally:
            _call_meter(self, "trtllm.sample", "sampled", scheduled_batch)

    return _sample_async


def wrap_responses(original: Method) -> Method:
    """`PyExecutor._handle_responses`: it returns the requests that have had their last response."""

    @wraps(original)
    def _handle_responses(self: Any, *args: Any, **kwargs: Any) -> Any:
        finished = original(self, *args, **kwargs)
        _call_meter(self, "trtllm.responses", "ended", self, finished)
        return finished

    return _handle_responses


@wrapper
def wrap_errors(original: Method, self: Any, *args: Any, **kwargs: Any) -> Any:
    """`PyExecutor._handle_errors`: some requests fail, or, where none are named, all of them."""
    failed: list[Any] = []
    with guard("trtllm.errors"):
        named = kwargs.get("requests")
        failed = list(self.active_requests if named is None else named)
    try:
        return original(self, *args, **kwargs)
    finally:
        _call_meter(self, "trtllm.errors", "failed", failed)


def wrap_iteration(original: Method) -> Method:
    """`PyExecutor._process_iter_stats`: it takes upstream's events back, so they are read before it runs."""

    @wraps(original)
    def _process_iter_stats(self: Any, finished: Any, active: Any, batch_state: Any, *args: Any, **kwargs: Any) -> Any:
        _call_meter(self, "trtllm.iteration", "reported", batch_state)
        return original(self, finished, active, batch_state, *args, **kwargs)

    return _process_iter_stats


def wrap_stats(original: Method) -> Method:
    """`PyExecutor._append_iter_stats`: the statistics are read on their way, where tier T2 is used."""

    @wraps(original)
    def _append_iter_stats(self: Any, stats: Any, req_stats: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            recorder = recorder_of(self)
            if recorder is not None and recorder.stats is not None:
                gpu_ms = kwargs.get("gpu_forward_time_ms", args[4] if len(args) > 4 else None)
                gpu_ms = read(stats, "gpu_forward_time_ms", gpu_ms)
                recorder.stats.record(req_stats, gpu_ms, read(self, "active_requests", ()))
        except Exception as error:  # noqa: BLE001 - the engine goes on
            swallow("trtllm.stats", error)
        return original(self, stats, req_stats, *args, **kwargs)

    return _append_iter_stats
