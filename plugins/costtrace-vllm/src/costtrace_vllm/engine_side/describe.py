"""What an engine is: its devices, the shape of its model, its settings. Read once, at start.

Everything here reads objects of vLLM whose fields change with its versions: what is not there is 0 or ''.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from costtrace.capture.model_shape import shape_of
from costtrace.core import clock
from costtrace.core.device_names import accelerator, cpu_name
from costtrace.core.events import DeviceRef, ModelShape


def worker_device(worker: Any) -> dict[str, Any]:
    """Runs inside each worker process: which device it has, and how large its part of the model is.

    Never raises: an error in a worker would be one of the engine's.
    """
    found: dict[str, Any] = {"host": clock.host_name(), "rank": 0, "uuid": "", "name": "", "kind": "", "error": ""}
    try:
        found["rank"] = int(getattr(worker, "rank", 0) or 0)
        device = worker.device
        if getattr(device, "type", "") == "cpu":
            found.update(uuid=f"CPU-{found['host']}", name=cpu_name(), kind="cpu")
        else:
            found.update(_accelerator(device))
    except Exception as error:  # noqa: BLE001 - see above
        found["error"] = f"{type(error).__name__}: {error}"
    found["weight_bytes"] = 0
    try:
        # On a CPU vLLM repacks the weights out of torch's sight.
        if found["kind"] != "cpu":
            parameters = list(worker.model_runner.model.parameters())
            found["weight_bytes"] = sum(p.numel() * p.element_size() for p in parameters)
    except Exception as error:  # noqa: BLE001 - see above
        found["error"] = found["error"] or f"{type(error).__name__}: {error}"
    return found


def _accelerator(device: Any) -> dict[str, str]:
    torch = import_module("torch")  # in a worker it is loaded; nowhere else is it needed
    properties = getattr(torch, device.type).get_device_properties(device)
    uuid = str(getattr(properties, "uuid", "") or "")
    named = accelerator(device.type, device.index or 0, str(properties.name), uuid)
    return {"uuid": named.uuid, "name": named.name, "kind": named.kind}


def devices_of(workers: Sequence[dict[str, Any]]) -> tuple[DeviceRef, ...]:
    """The distinct devices of an engine, by what its workers said. On a CPU many workers share one."""
    devices: dict[str, DeviceRef] = {}
    for found in workers:
        uuid = str(found.get("uuid", ""))
        if uuid and uuid not in devices:
            devices[uuid] = DeviceRef(uuid, found["name"], found["kind"], found["host"], found["rank"])
    return tuple(devices.values())


def simulated_device(setting: str) -> tuple[DeviceRef, ...]:
    """The device that stands for this engine's in a demonstration (the setting is ``UUID=NAME``)."""
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
    kept_as = str(getattr(getattr(vllm_config, "cache_config", None), "cache_dtype", "auto"))
    if "fp8" in kept_as or "int8" in kept_as:
        return 1
    return _element_bytes(kept_as if kept_as != "auto" else str(getattr(vllm_config.model_config, "dtype", "")))


def _element_bytes(dtype: str) -> int:
    return 4 if "float32" in dtype else 2


def served_model(vllm_config: Any) -> str:
    """The name that clients ask for."""
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
"""(part of vLLM's configuration, field, its name on the engine's row). Words and numbers only: no paths, no keys."""


def settings_of(vllm_config: Any) -> dict[str, str]:
    """Settings that the reader of a bill may want to know."""
    found: dict[str, str] = {}
    for part, field, name in _SETTINGS:
        value = getattr(getattr(vllm_config, part, None), field, None)
        if value is not None and value != "":
            found[name] = str(value).removeprefix("torch.")
    return found | _declared[1]


_declared: tuple[str, dict[str, str]] = ("", {})


def declare(role: str, settings: dict[str, str]) -> None:
    """Say what vLLM's own configuration does not, where somebody else (Dynamo) started this engine."""
    global _declared  # noqa: PLW0603 - a fact of the process
    _declared = (role, {name: value for name, value in settings.items() if value})


def prefix_block_of(scheduler: Any) -> int:
    """Tokens of a block of the prefix cache, as it is hashed; 0 where there is no such cache, or it does not say."""
    enabled = getattr(getattr(scheduler, "cache_config", None), "enable_prefix_caching", False)
    return int(getattr(scheduler, "hash_block_size", 0) or 0) if enabled else 0


def role_of(vllm_config: Any) -> str:
    """``prefill``, ``decode`` or ``aggregated``: as declared, else by the role in KV transfer."""
    if _declared[0]:
        return _declared[0]
    role = str(getattr(getattr(vllm_config, "kv_transfer_config", None), "kv_role", "") or "")
    return {"kv_producer": "prefill", "kv_consumer": "decode"}.get(role, "aggregated")


def dp_rank_of(vllm_config: Any) -> int:
    """Data-parallel rank: a dense engine's own configuration says 0 of 1, its index is kept elsewhere."""
    parallel = vllm_config.parallel_config
    index = getattr(parallel, "data_parallel_index", None)
    return int(index if index is not None else getattr(parallel, "data_parallel_rank", 0) or 0)
