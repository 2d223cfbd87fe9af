"""What an engine is: its devices, the shape of its model, its settings. Read once, when it starts.

All of it reads objects of vLLM whose fields change with its versions: a field that is missing is read as 0 or ''.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from costtrace.capture.model_shape import shape_of
from costtrace.core import clock
from costtrace.core.device_names import accelerator, cpu_name
from costtrace.core.events import DeviceRef, ModelShape


def worker_device(worker: Any) -> dict[str, Any]:
    """Which device a worker has, and how many bytes its part of the weights takes. Runs inside each worker process.

    Never raises, since an error in a worker would fail the engine: it is returned under ``error``.
    """
    device: dict[str, Any] = {"host": clock.host_name(), "rank": 0, "uuid": "", "name": "", "kind": "", "error": ""}
    try:
        device["rank"] = int(getattr(worker, "rank", 0) or 0)
        if getattr(worker.device, "type", "") == "cpu":
            device.update(uuid=f"CPU-{device['host']}", name=cpu_name(), kind="cpu")
        else:
            device.update(_accelerator(worker.device))
    except Exception as error:  # noqa: BLE001 - never raises
        device["error"] = f"{type(error).__name__}: {error}"
    device["weight_bytes"] = 0
    try:
        # On a CPU vLLM repacks the weights into memory that torch does not count.
        if device["kind"] != "cpu":
            parameters = list(worker.model_runner.model.parameters())
            device["weight_bytes"] = sum(p.numel() * p.element_size() for p in parameters)
    except Exception as error:  # noqa: BLE001 - never raises
        device["error"] = device["error"] or f"{type(error).__name__}: {error}"
    return device


def _accelerator(device: Any) -> dict[str, str]:
    torch = import_module("torch")  # a worker has loaded it; no other process needs it
    properties = getattr(torch, device.type).get_device_properties(device)
    uuid = str(getattr(properties, "uuid", "") or "")
    named = accelerator(device.type, device.index or 0, str(properties.name), uuid)
    return {"uuid": named.uuid, "name": named.name, "kind": named.kind}


def devices_of(workers: Sequence[dict[str, Any]]) -> tuple[DeviceRef, ...]:
    """The distinct devices of an engine, from `worker_device` of each worker. On a CPU several workers share one."""
    devices: dict[str, DeviceRef] = {}
    for worker in workers:
        uuid = str(worker.get("uuid", ""))
        if uuid and uuid not in devices:
            devices[uuid] = DeviceRef(uuid, worker["name"], worker["kind"], worker["host"], worker["rank"])
    return tuple(devices.values())


def simulated_device(setting: str) -> tuple[DeviceRef, ...]:
    """The device that a demonstration shows in place of the engine's own (the setting is ``UUID=NAME``)."""
    uuid, _, name = setting.partition("=")
    return (DeviceRef(uuid, name, "gpu", clock.host_name(), 0),)


def model_shape(vllm_config: Any, weight_bytes: int) -> ModelShape:
    """Shape of the model, from its own configuration; *weight_bytes* as counted by the workers (0: estimate it)."""
    model = vllm_config.model_config
    config = getattr(model, "hf_text_config", None) or model.hf_config
    return shape_of(
        config,
        weight_bytes,
        element_bytes=_element_bytes(str(getattr(model, "dtype", ""))),
        kv_element_bytes=_kv_element_bytes(vllm_config),
    )


def _kv_element_bytes(vllm_config: Any) -> int:
    dtype = str(getattr(getattr(vllm_config, "cache_config", None), "cache_dtype", "auto"))
    if "fp8" in dtype or "int8" in dtype:
        return 1
    return _element_bytes(dtype if dtype != "auto" else str(getattr(vllm_config.model_config, "dtype", "")))


def _element_bytes(dtype: str) -> int:
    return 4 if "float32" in dtype else 2


def served_model(vllm_config: Any) -> str:
    """The model's name, as clients ask for it."""
    names = vllm_config.model_config.served_model_name
    if isinstance(names, (list, tuple)):
        names = names[0] if names else ""
    return str(names or vllm_config.model_config.model)


_SETTINGS = (
    ("model_config", "dtype", "dtype"),
    ("model_config", "quantization", "quantization"),
    ("model_config", "max_model_len", "max_model_len"),
    ("model_config", "runner_type", "runner"),
    ("model_config", "enforce_eager", "enforce_eager"),
    ("parallel_config", "tensor_parallel_size", "tensor_parallel"),
    ("parallel_config", "pipeline_parallel_size", "pipeline_parallel"),
    ("parallel_config", "data_parallel_size", "data_parallel"),
    ("parallel_config", "enable_expert_parallel", "expert_parallel"),
    ("scheduler_config", "max_num_seqs", "max_num_seqs"),
    ("scheduler_config", "max_num_batched_tokens", "max_num_batched_tokens"),
    ("scheduler_config", "async_scheduling", "async_scheduling"),
    ("scheduler_config", "enable_chunked_prefill", "chunked_prefill"),
    ("scheduler_config", "policy", "policy"),
    ("cache_config", "enable_prefix_caching", "prefix_caching"),
    ("cache_config", "cache_dtype", "kv_cache_dtype"),
    ("cache_config", "num_gpu_blocks", "kv_blocks"),
    ("cache_config", "block_size", "kv_block_size"),
    ("speculative_config", "method", "speculative_method"),
    ("speculative_config", "num_speculative_tokens", "speculative_tokens"),
    ("kv_transfer_config", "kv_connector", "kv_connector"),
    ("kv_transfer_config", "kv_role", "kv_role"),
)
"""(part of vLLM's configuration, field, its name on the engine's row). Only names and numbers: no paths, no secrets."""


def settings_of(vllm_config: Any) -> dict[str, str]:
    """Settings that explain an engine's speed to the reader of a bill."""
    settings: dict[str, str] = {}
    for part, field, name in _SETTINGS:
        value = getattr(getattr(vllm_config, part, None), field, None)
        if value is not None and value != "":
            settings[name] = str(value).removeprefix("torch.")
    return settings | _declared[1]


_declared: tuple[str, dict[str, str]] = ("", {})
"""Role and settings of this process's engine that Dynamo knows and vLLM does not."""


def declare(role: str, settings: dict[str, str]) -> None:
    """Set what vLLM's own configuration does not contain, where another program (Dynamo) started this engine."""
    global _declared  # noqa: PLW0603 - a fact of the process
    _declared = (role, {name: value for name, value in settings.items() if value})


def prefix_block_of(scheduler: Any) -> int:
    """Tokens of a hashed block of the prefix cache; 0 where there is no such cache or its block size is unknown."""
    enabled = getattr(getattr(scheduler, "cache_config", None), "enable_prefix_caching", False)
    return int(getattr(scheduler, "hash_block_size", 0) or 0) if enabled else 0


def role_of(vllm_config: Any) -> str:
    """``prefill``, ``decode`` or ``aggregated``: as declared, else by the role in KV transfer."""
    if _declared[0]:
        return _declared[0]
    role = str(getattr(getattr(vllm_config, "kv_transfer_config", None), "kv_role", "") or "")
    return {"kv_producer": "prefill", "kv_consumer": "decode"}.get(role, "aggregated")


def dp_rank_of(vllm_config: Any) -> int:
    """Data-parallel rank. An engine of a dense model is rank 0 of 1 by its configuration: its index is used instead."""
    parallel = vllm_config.parallel_config
    index = getattr(parallel, "data_parallel_index", None)
    return int(index if index is not None else getattr(parallel, "data_parallel_rank", 0) or 0)
