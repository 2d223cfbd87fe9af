"""MIG instances of a board, and which part of the board's energy each is given.

NVML meters the board only. A part by rule (setting `mig_rule`, recorded as `Reading.share`) is an estimate: two
instances of one size get the same whatever they do.
"""

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from costtrace.core.events import DeviceSeen
from costtrace.sensors.nvml.binding import NvmlLibrary


class Instance(NamedTuple):
    """A MIG device: a compute instance in a GPU instance."""

    uuid: str
    name: str
    number: int
    gpu_instance: int
    compute_instance: int
    slices: int
    """Slices of its GPU instance, which several compute instances may share."""
    compute_slices: int


def parts(instances: Sequence[Instance], rule: str) -> list[Fraction]:
    """Split 1 over the instances.

    ``slices``: by the size of the GPU instance, and within it by that of the compute instance; ``equal``: evenly. The
    existing instances share all of the board, unused slices included.
    """
    if rule == "equal":
        return [Fraction(1, len(instances))] * len(instances)
    compute: dict[int, int] = defaultdict(int)
    for each in instances:
        compute[each.gpu_instance] += each.compute_slices
    weights = [Fraction(each.slices * each.compute_slices, compute[each.gpu_instance]) for each in instances]
    total = sum(weights, Fraction(0))
    return [weight / total for weight in weights]


def instances_of(
    library: NvmlLibrary, board: object, board_uuid: str, rule: str, *, simulated: bool
) -> tuple[DeviceSeen, ...]:
    """MIG devices of a board with their parts; empty where it is not in MIG mode. Raises NvmlFault."""
    mode = library.attempt("nvmlDeviceGetMigMode", board)
    if not mode or mode[0] != 1:
        return ()
    instances: list[Instance] = []
    for index in range(int(library.call("nvmlDeviceGetMaxMigDeviceCount", board))):
        handle = library.attempt("nvmlDeviceGetMigDeviceHandleByIndex", board, index)
        if handle is not None:
            instances.append(_instance(library, handle, index))
    return tuple(
        DeviceSeen(
            each.uuid,
            0,
            each.name,
            "mig",
            "board_shared_by_mig",
            "none",
            simulated=simulated,
            index=each.number,
            parent=board_uuid,
            share=str(part),
            details={"gpu_instance": str(each.gpu_instance), "compute_instance": str(each.compute_instance)},
        )
        for each, part in zip(instances, parts(instances, rule) if instances else (), strict=True)
    )


def _instance(library: NvmlLibrary, handle: object, index: int) -> Instance:
    uuid = str(library.call("nvmlDeviceGetUUID", handle))
    name = str(library.attempt("nvmlDeviceGetName", handle) or "MIG instance")
    gpu_instance = library.attempt("nvmlDeviceGetGpuInstanceId", handle)
    size = library.attempt("nvmlDeviceGetAttributes", handle)
    slices = int(size.gpuInstanceSliceCount) if size is not None else 1
    compute = int(size.computeInstanceSliceCount) if size is not None else 1
    # An instance that NVML gives no size of counts as one slice, in a GPU instance of its own.
    number = -1 - index if gpu_instance is None else int(gpu_instance)
    compute_instance = int(library.attempt("nvmlDeviceGetComputeInstanceId", handle) or 0)
    return Instance(uuid, name, index, number, compute_instance, max(1, slices), max(1, compute))
