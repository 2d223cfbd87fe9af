"""The server's side of the double of TensorRT-LLM: requests, their results, and what a finished one tells.

A request's numbers come from the double of the executor (`fake_trtllm`); here they take the forms that were read in
public source: timedeltas of a steady clock, dictionaries of one list for prompts and one for the rest.
"""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from costtrace.core.units import NS_PER_S
from costtrace_lab.trtllm_double.trtllm import LlmRequest


class GenerationRequest:
    """What a client asks, as it is sent to the ranks."""

    def __init__(self, prompt_token_ids: list[int], sampling_params: Any, disaggregated_params: Any = None) -> None:
        self.prompt_token_ids = prompt_token_ids
        self.sampling_params = sampling_params
        self.disaggregated_params = disaggregated_params
        self.lora_request = None
        self.trace_headers: dict[str, str] = {}
        self.id: int | None = None


class GenerationResultBase:
    """What comes back: one output, and the last response makes it done."""

    def __init__(self, request: GenerationRequest) -> None:
        self._generation_request = request
        self._outputs = [SimpleNamespace(token_ids=[], finish_reason=None, request_perf_metrics=None)]
        self._done = False
        self.cached_tokens = 0
        self.time_breakdown_metrics: dict[str, list[dict[str, float]]] | None = None

    def _handle_response(self, response: Any) -> None:
        output = self._outputs[0]
        output.token_ids.extend(response.tokens)
        self._done = response.is_final
        if response.is_final:
            output.finish_reason = response.finish_reason
            output.request_perf_metrics = response.perf_metrics
            self.time_breakdown_metrics = response.breakdown


class GenerationExecutor:
    """Makes the ranks."""

    @staticmethod
    def create(
        engine: Any,  # noqa: ARG004 - upstream's
        executor_config: Any = None,  # noqa: ARG004 - upstream's
        batched_logits_processor: Any = None,  # noqa: ARG004 - upstream's
        model_world_size: int = 1,  # noqa: ARG004 - upstream's
        llm_args: Any = None,  # noqa: ARG004 - upstream's
    ) -> "GenerationExecutor":
        """Be there."""
        return GenerationExecutor()


def last_response(request: LlmRequest, *, times: bool = True, breakdown: bool = True) -> SimpleNamespace:
    """The last response of a request that the double has served. *times*, *breakdown*: what upstream tells in it."""
    moments = {
        "first_scheduled": request.first_scheduled_ns,
        "first_token": request.first_token_ns,
        "last_token": request.last_token_ns,
    }
    timing = SimpleNamespace(**{f"{name}_time": timedelta(seconds=ns / NS_PER_S) for name, ns in moments.items()})
    return SimpleNamespace(
        tokens=[7] * request.generated,
        is_final=True,
        finish_reason="length" if request.generated >= request.plan.output else "cancelled",
        perf_metrics=SimpleNamespace(timing_metrics=timing) if times else None,
        breakdown=request.breakdown if breakdown else None,
    )
