"""What an engine is: its devices, the shape of its model, its place among the ranks. Read once, at start.

The fields of upstream's objects change with its versions: what cannot be read is 0 or ''.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from costtrace.capture import model_shape
from costtrace.core import clock
from costtrace.core.device_names import accelerator
from costtrace.core.events import DeviceRef, ModelShape
from costtrace_tensorrt_llm.contract.hook_list import METHODS
from costtrace_tensorrt_llm.upstream import number, read


class Place(NamedTuple):
    """A rank's place among the ranks."""

    rank: int
    stage: int
    """Pipeline stage, from 0."""
    stages: int
    peers: int
    """Ranks that run the same batches as this one, itself included."""
    attention_dp: bool
    meters: bool
    """It meters for its peers: the first of them does, or each rank with attention data parallelism."""


def place_of(executor: Any) -> Place:
    """The place of *executor*. Without attention data parallelism the ranks of a stage run the same batches."""
    dist = read(executor, "dist")
    rank = number(dist, "rank", default=number(executor, "global_rank", default=0))
    stages, stage = max(1, number(dist, "pp_size", default=1)), max(0, number(dist, "pp_rank", default=0))
    peers = max(1, number(dist, "world_size", default=1) // stages)
    attention_dp = read(executor, "enable_attention_dp", False) is True
    return Place(rank, stage, stages, peers, attention_dp, attention_dp or rank % peers == 0)


def devices_of(executor: Any, place: Place) -> tuple[DeviceRef, ...]:
    """The devices that this rank meters.

    The peers' devices are known where they are on this host, numbered as upstream numbers them. A device on another
    host is named by its rank: its energy stays unknown, its time is that of the batches.
    """
    cuda = import_module("torch").cuda
    index = number(executor, "device_id", default=-1)
    index = index if index >= 0 else int(cuda.current_device())
    if place.attention_dp or place.peers == 1:
        return (_device(cuda, index, place.rank),)
    count = int(cuda.device_count())
    first = place.rank - place.rank % place.peers
    numbered_as_upstream = index == place.rank % count
    devices = []
    for rank in range(first, first + place.peers):
        is_here = numbered_as_upstream and rank // count == place.rank // count
        if is_here or rank == place.rank:
            devices.append(_device(cuda, rank % count if is_here else index, rank))
        else:
            name = _device(cuda, index, rank).name
            devices.append(DeviceRef(f"cuda-{clock.host_name()}-peer-{rank}", name, "gpu", "", rank))
    return tuple(devices)


def _device(cuda: Any, index: int, rank: int) -> DeviceRef:
    properties = cuda.get_device_properties(index)
    return accelerator("cuda", index, str(properties.name), str(getattr(properties, "uuid", "") or ""), rank)


def model_of(executor: Any) -> str:
    """Name of the model, as Hugging Face's configuration has it; '' if unknown."""
    _, config = _model_and_config(executor)
    name = str(read(config, "_name_or_path", "") or read(config, "model_type", "") or "")
    return Path(name).name if name.startswith(("/", "~", ".")) else name


def _model_and_config(executor: Any) -> tuple[Any, Any]:
    model = read(read(executor, "model_engine"), "model")
    return model, read(read(model, "model_config"), "pretrained_config") or read(model, "config")


def shape_of(executor: Any, peers: int) -> ModelShape:
    """Shape of the model, for the step model's prior; unknown (0) where the executor does not have it."""
    model, config = _model_and_config(executor)
    if config is None:
        return ModelShape()
    parameters = read(model, "parameters")
    weights = parameters() if callable(parameters) else ()
    weight_bytes = sum(int(weight.numel()) * int(weight.element_size()) for weight in weights)
    return model_shape.shape_of(config, weight_bytes * peers)


def settings_of(executor: Any, place: Place, tier: str) -> dict[str, str]:
    """What the reader of a bill may want to know of the engine. Words and numbers only."""
    loop = str(read(read(executor, "event_loop"), "__name__", ""))
    return {
        "metering": METHODS[tier],
        "tier": tier,
        "rank": str(place.rank),
        "ranks_metered": str(1 if place.attention_dp else place.peers),
        "pipeline_stage": f"{place.stage} of {place.stages}",
        "attention_dp": str(place.attention_dp).lower(),
        **({"loop": loop} if loop else {}),
    }
