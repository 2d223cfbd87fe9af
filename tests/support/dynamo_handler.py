"""Runs in an environment with ai-dynamo: its real handler, the plugin's real loader, and a TensorRT-LLM that is a stub.

Prints, as JSON, what rank 0 knows of each request. Any module of `tensorrt_llm` is made up as it is imported; only the
classes on a request's way are written out.
"""

import asyncio
import importlib.abc
import importlib.machinery
import json
import pickle
import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

WORKER = "tensorrt_llm.executor.base_worker"
REQUEST = "tensorrt_llm.executor.request"


class MadeUp(ModuleType):
    """A module that has whatever is asked of it."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (Exception,) if name.endswith("Error") else (MagicMock,), {})
        setattr(self, name, made)
        return made


class Stub(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "tensorrt_llm":
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return MadeUp(spec.name)

    def exec_module(self, module):
        if module.__name__ == REQUEST:
            module.GenerationRequest = GenerationRequest
            module.DEFAULT_REQUEST_PRIORITY = 0.5
        if module.__name__ == WORKER:
            module.BaseWorker = BaseWorker


class GenerationRequest:
    def __init__(self, prompt_token_ids, sampling_params, trace_headers=None):
        self.prompt_token_ids, self.trace_headers, self.id = prompt_token_ids, trace_headers, None


class BaseWorker:
    def _enqueue_request(self, request, result_wait_queue=None):
        return request.id + 1_000


class Llm:
    """As much of the LLM API as the handler calls: it makes the request and sends it, pickled, to rank 0."""

    def __init__(self):
        self.count = 0

    def generate_async(self, inputs, sampling_params, trace_headers=None, **kwargs):
        request = sys.modules[REQUEST].GenerationRequest([1, 2], None, trace_headers=trace_headers)
        self.count += 1
        request.id = self.count
        sys.modules[WORKER].BaseWorker()._enqueue_request(pickle.loads(pickle.dumps(request)))
        return Result(request.id)


class Result:
    def __init__(self, name):
        self.request_id = self.id = name
        self.left = 2

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(0)  # two requests take turns
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        output = SimpleNamespace(
            token_ids=list(range(2 - self.left)), finish_reason=None if self.left else "stop", stop_reason=None,
            logprobs=None, disaggregated_params=None, request_perf_metrics=None, index=0, text="", prompt_logprobs=None,
        )  # fmt: skip
        return SimpleNamespace(outputs=[output], finished=not self.left, prompt_token_ids=[1, 2], cached_tokens=0)


class Context:
    def __init__(self, name, metadata, traceparent):
        self.name, self.metadata, self.traceparent = name, metadata, traceparent

    def id(self):
        return self.name

    def trace_headers(self):
        return {"traceparent": self.traceparent}

    def __getattr__(self, name):
        return MagicMock()


async def main():
    from dynamo.trtllm.constants import DisaggregationMode
    from dynamo.trtllm.request_handlers.handler_base import HandlerBase, RequestHandlerConfig

    __import__(WORKER)

    class Handler(HandlerBase):
        async def generate(self, request, context):
            return None

    handler = Handler(
        RequestHandlerConfig(
            engine=SimpleNamespace(llm=Llm()),
            default_sampling_params=MagicMock(),
            publisher=None,
            disaggregation_mode=DisaggregationMode.AGGREGATED,
            max_seq_len=128,
        )
    )
    handler._conversation_affinity = False
    handler._override_sampling_params = lambda *args: MagicMock()
    handler._prepare_input_for_generation = prepared
    handler._cancellation_monitor = MagicMock()

    async def ask(tenant, digit):
        metadata = {"x-costtrace-tenant": tenant} if tenant else {}
        context = Context(f"uuid-{digit}", metadata, f"00-{digit * 32}-{digit * 16}-01")
        request = {
            "token_ids": [1, 2],
            "sampling_options": {},
            "stop_conditions": {"max_tokens": 2},
            "output_options": {},
        }
        return [chunk async for chunk in handler.generate_locally(request, context)]

    answers = await asyncio.gather(ask("acme", "1"), ask("globex", "2"), ask("", "3"))
    from costtrace_tensorrt_llm import request_context
    from costtrace_tensorrt_llm.process import process

    contexts = [request_context.decode(process.contexts.of(-1, -1, name)) for name in (1, 2, 3)]
    by_id = [request_context.decode(process.contexts.of(1_000 + name, -1, -1)) for name in (1, 2, 3)]
    sys.stdout.write(json.dumps({
        "answers": [len(chunks) for chunks in answers],
        "claims": sorted([c.tenant, c.tenant_source, c.traceparent] for c in contexts),
        "same": contexts == by_id,
        "keys": sorted(c.request_key for c in contexts),
        "handler": getattr(HandlerBase.generate_locally, "__module__", ""),
    }) + "\n")  # fmt: skip


async def prepared(*args):
    return [1, 2]


import costtrace_tensorrt_llm_autoload  # noqa: E402, F401 - what the .pth file does

sys.meta_path.append(Stub())
asyncio.run(main())
