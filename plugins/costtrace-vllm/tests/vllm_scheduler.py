"""vLLM's real scheduler without a model: for benchmarks and recordings. Runs in an environment that has vLLM.

Its batches, its bookkeeping and its costs are vLLM's own; only the model's answer is made up here.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any


def make_config(model: str, **changes: Any) -> Any:
    """vLLM's configuration for *model*, as `vllm serve` makes it. *changes* are fields of its EngineArgs."""
    from vllm.engine.arg_utils import EngineArgs

    arguments = {
        "model": model,
        "enforce_eager": True,
        "dtype": "float32",
        "max_model_len": 1024,
        "disable_log_stats": True,
        "block_size": 16,
        **changes,
    }
    return EngineArgs(**arguments).create_engine_config()


def make_scheduler(config: Any, *, asynchronous: bool = False, blocks: int = 100_000, cls: type | None = None) -> Any:
    """Scheduler of the class that vLLM would choose (or *cls*), with a cache of *blocks* blocks of 16 tokens."""
    import torch
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    config.scheduler_config.async_scheduling = asynchronous
    config.cache_config.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=8, dtype=torch.float32)
    groups = [KVCacheGroupSpec(["layer"], spec)]
    return (cls or (AsyncScheduler if asynchronous else Scheduler))(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=groups),
        structured_output_manager=StructuredOutputManager(config),
        block_size=16,
        hash_block_size=16,
        log_stats=True,
    )


def make_hasher() -> Any:
    """vLLM's own hasher of prompts, by which it finds shared prefixes: over blocks of 16 tokens."""
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

    init_none_hash(sha256)
    return get_request_block_hasher(16, sha256)


@dataclass
class Drive:
    """Runs a scheduler: adds requests, answers its batches with made-up tokens, keeps two in flight if asynchronous."""

    scheduler: Any
    seed: int = 0
    depth: int = 1
    drafts: int = 0
    stop_percent: int = 0
    """Chance that a sampled token ends its request."""
    flying: deque[Any] = field(default_factory=deque)
    made: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.hasher = make_hasher()

    def add(self, prompt: list[int], max_tokens: int) -> str:
        """Add a request; returns its id."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        self.made += 1
        name = f"cmpl-{self.made:012x}-0-{self.made:08x}"
        parameters = SamplingParams(max_tokens=max_tokens, ignore_eos=True, stop_token_ids=[2])
        self.scheduler.add_request(Request(name, prompt, parameters, None, block_hasher=self.hasher))
        return name

    def abort(self, name: str) -> None:
        """Abort a request, as a client that goes away does."""
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests([name], RequestStatus.FINISHED_ABORTED)

    def step(self) -> Any:
        """Schedule one batch and, once enough are in flight, answer the oldest. Returns the batch that was made."""
        batch = self.scheduler.schedule()
        self.flying.append((batch, self._full(batch)))
        if len(self.flying) >= self.depth:
            self.answer()
        return batch

    def answer(self) -> None:
        """Answer the oldest batch in flight."""
        from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput

        batch, full = self.flying.popleft()
        names = list(batch.num_scheduled_tokens)
        sampled = [self._sample(batch, name) if full[name] else [] for name in names]
        answer = ModelRunnerOutput(
            req_ids=names, req_id_to_index={name: i for i, name in enumerate(names)}, sampled_token_ids=sampled
        )
        self.scheduler.update_from_output(batch, answer)
        if self.drafts:
            drafts = [[5] * self.random.randint(0, self.drafts) for _ in names]
            self.scheduler.update_draft_token_ids(DraftTokenIds(names, drafts))

    def drain(self) -> None:
        """Run until nothing is left."""
        while self.scheduler.has_requests() or self.flying:
            if self.scheduler.has_requests():
                self.step()
            else:
                self.answer()

    def _full(self, batch: Any) -> dict[str, bool]:
        """Whether each one's batch entry reaches the end of what is known of it: then a token is sampled."""
        return {name: not self.scheduler.requests[name].is_prefill_chunk for name in batch.num_scheduled_tokens}

    def _sample(self, batch: Any, name: str) -> list[int]:
        drafted = len(batch.scheduled_spec_decode_tokens.get(name, ()))
        count = 1 + (self.random.randint(0, drafted) if drafted else 0)
        return [2 if self.random.randrange(100) < self.stop_percent else 7 for _ in range(count)]
