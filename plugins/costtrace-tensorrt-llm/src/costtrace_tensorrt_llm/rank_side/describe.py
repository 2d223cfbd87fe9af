"""What an engine is: its devices, the shape of its model, its place among the ranks. Read once, at start.

Everything here reads objects whose fields change with TensorRT-LLM's versions: what is not there is 0 or ''.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from costtrace.capture import model_shape
from costtrace.core import clock
from costtrace.core.device_names import accelerator
from costtrace.core.events import DeviceRef, ModelShape
from costtrace_tensorrt_llm.contract.hooks_by_version import METHODS
from costtrace_tensorrt_llm.rank_side.batches import number, read


class Place(NamedTuple):
    """Where a rank stands."""

    rank: int
    stage: int
    """Pipeline stage."""
    stages: int
    peers: int
    """Ranks that run the same batches as this one, itself included."""
    attention_dp: bool
    meters: bool
    """It meters for its peers: the first of them, or every one with attention data parallelism."""


def place_of(executor: Any) -> Place:
    """Where *executor* stands. Without attention data parallelism the ranks of a stage run the same batches."""
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
    own = number(executor, "device_id", default=-1)
    own = own if own >= 0 else int(cuda.current_device())
    if place.attention_dp or place.peers == 1:
        return (_device(cuda, own, place.rank),)
    count = int(cuda.device_count())
    first = place.rank - place.rank % place.peers
    mine = place.rank // count
    found = []
    for rank in range(first, first + place.peers):
        if rank // count == mine and own == place.rank % count:
            found.append(_device(cuda, rank % count, rank))
        elif rank == place.rank:
            found.append(_device(cuda, own, rank))
        else:
            host = clock.host_name()
            found.append(DeviceRef(f"cuda-{host}-peer-{rank}", _device(cuda, own, rank).name, "gpu", "", rank))
    return tuple(found)


def _device(cuda: Any, index: int, rank: int) -> DeviceRef:
    properties = cuda.get_device_properties(index)
    return accelerator("cuda", index, str(properties.name), str(getattr(properties, "uuid", "") or ""), rank)


def model_of(executor: Any) -> tuple[str, Any]:
    """Name of the model and its configuration (Hugging Face's), as far as the executor knows them."""
    model = read(read(executor, "model_engine"), "model")
    config = read(read(model, "model_config"), "pretrained_config") or read(model, "config")
    name = str(read(config, "_name_or_path", "") or read(config, "model_type", "") or "")
    return Path(name).name if name.startswith(("/", "~", ".")) else name, model


def shape_of(executor: Any, peers: int) -> ModelShape:
    """Shape of the model, for the step model's prior; unknown (0) where the executor does not tell it."""
    _, model = model_of(executor)
    config = read(read(model, "model_config"), "pretrained_config") or read(model, "config")
    if config is None:
        return ModelShape()
    return model_shape.shape_of(config, _weight_bytes(model) * peers)


def _weight_bytes(model: Any) -> int:
    parameters = read(model, "parameters")
    if not callable(parameters):
        return 0
    return sum(int(p.numel()) * int(p.element_size()) for p in parameters())


def settings_of(executor: Any, place: Place, tier: str) -> dict[str, str]:
    """What the reader of a bill may want to know. Words and numbers only."""
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
