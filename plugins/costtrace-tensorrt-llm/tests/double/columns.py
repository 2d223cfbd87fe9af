"""The double of TensorRT-LLM's executor with the signatures of each column of the contract.

Each class has what changed with its column; what did not is the one before it.
"""

from collections.abc import Sequence
from typing import Any

from double.cuda import FakeGpu, Host
from double.executor import Executor, Plan


class _V10:
    """Signatures of 1.0."""

    fails_alone = False

    def start_worker(self: Any) -> None:
        self.start()

    def shutdown(self: Any) -> None:
        self.gpu.wait()
        del self.model_engine

    def _forward_step(self: Any, scheduled_requests: Any, new_tensors_device: Any = None) -> Any:
        return self.forward(scheduled_requests)

    def _sample_async(self: Any, scheduled_batch: Any, batch_outputs: Any) -> Any:
        return self.sample(scheduled_batch, batch_outputs)

    def _handle_responses(self: Any) -> Any:
        return self.answer()

    def _handle_errors(self: Any, error_msg: Any = None) -> None:
        self.fail(None)

    def _process_iter_stats(self: Any, finished_requests: Any, active_requests: Any, batch_state: Any) -> None:
        self.timing.statistics(self, finished_requests, active_requests, batch_state)

    def _append_iter_stats(self: Any, stats: Any, req_stats: Any = None) -> None:
        """Keep nothing."""


class _V12rc:
    """What 1.2rc changed."""

    fails_alone = True

    def _handle_errors(self: Any, error_msg: Any = None, *, requests: Any = None) -> None:
        self.fail(requests)


class _V13early:
    """What 1.3early changed."""

    def _forward_step(
        self: Any,
        scheduled_requests: Any,
        new_tensors_device: Any = None,
        num_accepted_tokens_device: Any = None,
    ) -> Any:
        return self.forward(scheduled_requests)

    def _process_iter_stats(
        self: Any,
        finished_requests: Any,
        active_requests: Any,
        batch_state: Any,
        micro_batch_id: int = 0,
    ) -> None:
        self.timing.statistics(self, finished_requests, active_requests, batch_state)


class _Main:
    """What main changed."""

    newest = True

    def _handle_responses(self: Any, emit_first_iter: bool = True) -> Any:  # noqa: FBT001, FBT002 - upstream's
        return self.answer()

    def _handle_errors(
        self: Any,
        error_msg: Any = None,
        *,
        requests: Any = None,
        charge_budget: bool = True,
        fatal_is_collective_aligned: bool = False,
    ) -> None:
        self.fail(requests)

    def _append_iter_stats(
        self: Any,
        stats: Any,
        req_stats: Any = None,
        kv_iter_stats: Any = None,
        attention_dp_rank: Any = None,
        host_step_time_ms: Any = None,
        prev_device_step_time_ms: Any = None,
        gpu_forward_time_ms: Any = None,
    ) -> None:
        """Keep nothing."""


_COLUMNS = {"1.0": _V10, "1.2rc": _V12rc, "1.3early": _V13early, "main": _Main}


def executor_class(column: str) -> type:
    """A ``PyExecutor`` with the signatures of one column of the contract. Raises: ValueError for one not known."""
    methods: dict[str, Any] = {}
    for changed in list(_COLUMNS.values())[: list(_COLUMNS).index(column) + 1]:
        methods |= {name: value for name, value in vars(changed).items() if not name.startswith("__")}
    return type("PyExecutor", (Executor,), methods)


def make_executor(column: str, plans: Sequence[Plan], **options: Any) -> Any:
    """An executor on a device and a clock of its own."""
    cls = options.pop("cls", None) or executor_class(column)
    return cls(FakeGpu(Host()), plans, **options)
