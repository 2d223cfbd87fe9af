"""Hooks of PyExecutor, on every rank. They are laid on the class; what is recorded hangs on the instance."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from costtrace.core.guard import guard, swallow
from costtrace_tensorrt_llm.rank_side import batches
from costtrace_tensorrt_llm.rank_side.native import Untold

MARK = "_costtrace"


def engine_of(executor: Any) -> Any:
    """What records *executor*; None where nothing does. Attached with its first use."""
    known = executor.__dict__
    if MARK not in known:
        known[MARK] = None  # whatever happens below happens once
        from costtrace_tensorrt_llm.rank_side.engine import attach  # noqa: PLC0415 - only ranks need it

        known[MARK] = attach(executor)
    return known[MARK]


def wrap_start(original: Callable[..., Any]) -> Callable[..., Any]:
    """`PyExecutor.start_worker`: the executor is built; what comes now is serving."""

    @wraps(original)
    def start_worker(self: Any, *args: Any, **kwargs: Any) -> Any:
        with guard("trtllm.start"):
            engine_of(self)
        return original(self, *args, **kwargs)

    return start_worker


def wrap_stop(original: Callable[..., Any]) -> Callable[..., Any]:
    """`PyExecutor.shutdown`: the journal gets its last word."""

    @wraps(original)
    def shutdown(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:
            with guard("trtllm.stop"):
                engine = self.__dict__.get(MARK)
                if engine is not None:
                    self.__dict__[MARK] = None
                    engine.stop()

    return shutdown


def _meter(executor: Any) -> Any:
    engine = engine_of(executor)
    return None if engine is None else engine.steps


def wrap_forward(original: Callable[..., Any]) -> Callable[..., Any]:
    """`PyExecutor._forward_step`: a batch goes to the GPU. Who is in it is read before upstream changes its lists."""

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
    """A batch or its requests are not as the contract says, or upstream does not time them: the next tier goes on.

    Its meter and what it began, where it meters steps.
    """
    engine = executor.__dict__.get(MARK)
    if not isinstance(error, AttributeError | Untold) or engine is None or engine.steps is None:
        swallow("trtllm.begin", error)
        return None, None
    try:
        successor = engine.fall_back(executor, error)
        executor.__dict__[MARK] = successor
        if successor is not None and successor.steps is not None:
            return successor.steps, successor.steps.begin(executor, scheduled)
    except Exception as failure:  # noqa: BLE001 - the engine goes on
        swallow("trtllm.fall_back", failure)
    return None, None


def wrap_sample(original: Callable[..., Any]) -> Callable[..., Any]:
    """`PyExecutor._sample_async`: sampling is queued; the batch ends after it."""

    @wraps(original)
    def _sample_async(self: Any, scheduled_batch: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, scheduled_batch, *args, **kwargs)
        finally:
            try:
                meter = _meter(self)
                if meter is not None:
                    meter.sampled(scheduled_batch)
            except Exception as error:  # noqa: BLE001 - the engine goes on
                swallow("trtllm.sample", error)

    return _sample_async


def wrap_responses(original: Callable[..., Any]) -> Callable[..., Any]:
    """`PyExecutor._handle_responses`: it gives the requests that have been answered for good."""

    @wraps(original)
    def _handle_responses(self: Any, *args: Any, **kwargs: Any) -> Any:
        finished = original(self, *args, **kwargs)
        try:
            meter = _meter(self)
            if meter is not None:
                meter.ended(self, finished)
        except Exception as error:  # noqa: BLE001 - the engine goes on
            swallow("trtllm.responses", error)
        return finished

    return _handle_responses


def wrap_errors(original: Callable[..., Any]) -> Callable[..., Any]:
    """`PyExecutor._handle_errors`: some requests fail, or, where none are named, all of them."""

    @wraps(original)
    def _handle_errors(self: Any, *args: Any, **kwargs: Any) -> Any:
        failed: list[Any] = []
        try:
            named = kwargs.get("requests")
            failed = list(self.active_requests if named is None else named)
        except Exception as error:  # noqa: BLE001 - the engine goes on
            swallow("trtllm.errors", error)
        try:
            return original(self, *args, **kwargs)
        finally:
            try:
                meter = _meter(self)
                if meter is not None:
                    meter.failed(failed)
            except Exception as error:  # noqa: BLE001 - the engine goes on
                swallow("trtllm.errors", error)

    return _handle_errors


def wrap_iteration(original: Callable[..., Any]) -> Callable[..., Any]:
    """`PyExecutor._process_iter_stats`: upstream gives its events back in it, so they are read before."""

    @wraps(original)
    def _process_iter_stats(self: Any, finished: Any, active: Any, batch_state: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            meter = _meter(self)
            if meter is not None:
                meter.told(batch_state)
        except Exception as error:  # noqa: BLE001 - the engine goes on
            swallow("trtllm.iteration", error)
        return original(self, finished, active, batch_state, *args, **kwargs)

    return _process_iter_stats


def wrap_stats(original: Callable[..., Any]) -> Callable[..., Any]:
    """`PyExecutor._append_iter_stats`: a tap, where the step hooks are not used."""

    @wraps(original)
    def _append_iter_stats(self: Any, stats: Any, req_stats: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            engine = engine_of(self)
            if engine is not None and engine.stats is not None:
                gpu_ms = kwargs.get("gpu_forward_time_ms", args[4] if len(args) > 4 else None)
                gpu_ms = batches.read(stats, "gpu_forward_time_ms", gpu_ms)
                engine.stats.record(req_stats, gpu_ms, batches.read(self, "active_requests", ()))
        except Exception as error:  # noqa: BLE001 - the engine goes on
            swallow("trtllm.stats", error)
        return original(self, stats, req_stats, *args, **kwargs)

    return _append_iter_stats
