"""What runs on the engine's own thread: closures around the methods of one scheduler, which append to the recorder.

They are set on the instance, so that a call looks nothing up. Each has a ``try`` of its own, which costs nothing until
something is raised. Nothing here may raise into vLLM, wait, or take longer with a larger batch.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from costtrace.capture.recorder import Recorder
from costtrace.core.guard import swallow
from costtrace_vllm import contract
from costtrace_vllm.engine_side.sequences import ADDED, DELIVERED, FREED
from costtrace_vllm.process import process
from costtrace_vllm.request_context import HEADER


def record_scheduler(scheduler: Any, recorder: Recorder, *, prefixes: bool = False) -> None:
    """Shadow the methods of one scheduler instance with ones that record. A method that does not fit is left as it is.

    *prefixes*: also record the hashes of each request's blocks.
    """
    wrappers: dict[str, Callable[..., Any]] = {
        "schedule": _schedule,
        "update_from_output": _update_from_output,
        "add_request": partial(_add_request, prefixes=prefixes),
        "_free_request": _free_request,
        "finish_requests": _finish_requests,
    }
    fitting: dict[str, Callable[..., Any]] = {}
    for name, parameters, lost in contract.SCHEDULER:
        method = getattr(scheduler, name, None)
        why = contract.check_callable(method, parameters)
        if why:
            process.status.report_lost(f"scheduler.{name}", f"{type(scheduler).__name__}.{name}: {why}", lost)
        elif method is not None:
            fitting[name] = method
    if not {"schedule", "update_from_output"} <= fitting.keys():
        return  # a step is recorded only with both
    for name, method in fitting.items():
        setattr(scheduler, name, wraps(method)(wrappers[name](method, recorder, scheduler)))
        process.status.installed.append(f"scheduler.{name}")


def _schedule(inner: Any, recorder: Recorder, _scheduler: Any) -> Callable[..., Any]:
    dispatched = recorder.dispatched

    def schedule(*args: Any, **kwargs: Any) -> Any:
        batch = inner(*args, **kwargs)
        try:
            dispatched(batch)
        except Exception as error:  # noqa: BLE001 - the engine goes on
            swallow("vllm.schedule", error)
        return batch

    return schedule


def _update_from_output(inner: Any, recorder: Recorder, _scheduler: Any) -> Callable[..., Any]:
    done = recorder.done

    def update_from_output(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            done(scheduler_output)
        except Exception as error:  # noqa: BLE001 - the engine goes on
            swallow("vllm.update_from_output", error)
        return inner(scheduler_output, *args, **kwargs)

    return update_from_output


def _add_request(inner: Any, recorder: Recorder, scheduler: Any, *, prefixes: bool) -> Callable[..., Any]:
    note = recorder.note
    no_requests: dict[str, Any] = {}

    def add_request(request: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            header = None
            headers = request.trace_headers
            if headers and HEADER in headers:
                header = headers[HEADER]
                # Otherwise vLLM sends the header back to the server with every token of the request.
                request.trace_headers = {k: v for k, v in headers.items() if k != HEADER} or None
            if request.request_id not in getattr(scheduler, "requests", no_requests):  # else: more input of a session
                lora = request.lora_request
                note(
                    ADDED,
                    request.request_id,
                    header,
                    request.num_prompt_tokens,
                    lora.lora_name if lora is not None else "",
                    request.pooling_params is not None,
                    getattr(request, "block_hashes", ()) if prefixes else (),
                )
        except Exception as error:  # noqa: BLE001 - the engine goes on
            swallow("vllm.scheduler.add_request", error)
        return inner(request, *args, **kwargs)

    return add_request


def _free_request(inner: Any, recorder: Recorder, _scheduler: Any) -> Callable[..., Any]:
    note = recorder.note

    def _free_request(request: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            reason = request.get_finished_reason()
            note(
                FREED,
                request.request_id,
                recorder.index,
                str(reason) if reason is not None else request.status.name.lower(),
                request.num_output_tokens,
                getattr(request, "num_preemptions", 0),
                urgent=True,
            )
        except Exception as error:  # noqa: BLE001 - the engine goes on
            swallow("vllm.scheduler.free_request", error)
        return inner(request, *args, **kwargs)

    return _free_request


def _finish_requests(inner: Any, recorder: Recorder, _scheduler: Any) -> Callable[..., Any]:
    note = recorder.note

    def finish_requests(request_ids: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            if request_ids is not None and not isinstance(request_ids, str):
                request_ids = list(request_ids)
                if any(isinstance(i, int) for i in request_ids):  # a note of `server_side.aborts`, and the id it is of
                    ids, given = [], iter(request_ids)
                    for one in given:
                        if isinstance(one, int):
                            note(DELIVERED, next(given), one, "stop", urgent=True)
                        else:
                            ids.append(one)
                    request_ids = ids
        except Exception as error:  # noqa: BLE001 - the engine goes on
            swallow("vllm.scheduler.finish_requests", error)
        return inner(request_ids, *args, **kwargs)

    return finish_requests
