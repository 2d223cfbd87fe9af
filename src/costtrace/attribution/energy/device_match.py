"""Which device of the sensors is the one that an engine names? Pure.

An engine knows its devices by what its framework says: a full UUID, or an entry of CUDA_VISIBLE_DEVICES. The sensors
know them by NVML's UUIDs, which are the same in every container; only which of them are visible differs. An index means
something only among the devices that are visible to the engine, in their order there.

    GPU-8a1c...              a UUID, whole or its first characters (as CUDA allows)
    MIG-5f0d...              a MIG instance's UUID, whole or its first characters
    MIG-GPU-8a1c.../1/0      a MIG instance by board, GPU instance and compute instance (drivers before 470)
    cuda-<host>-0, 0         an index: into the visible devices if these are known, else NVML's own
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from costtrace.core.events import DeviceRef, DeviceSeen

_OLD_MIG = re.compile(r"MIG-(GPU-[^/]+)/(\d+)/(\d+)$")
_FRAMEWORK = re.compile(r"(?:cuda|xpu|gpu)-(?!.*-peer-\d+$).*-(\d+)$")
"""Not a peer's rank (``cuda-<host>-peer-2``): the device is on another host, and its number there is not known."""


class Resolved(NamedTuple):
    """A device of the sensors, or why it is not known which one."""

    uuid: str
    """Empty: it is not known."""
    why: str = ""


def resolve(device: DeviceRef, sensed: Sequence[DeviceSeen], visible: str | None = None) -> Resolved:
    """Find the sensors' name of an engine's device.

    *visible*: CUDA_VISIBLE_DEVICES of the engine's process, None where it is not known: an index then counts all
    devices of the host, which is right where the engine sees all of them.
    """
    if not sensed:
        return Resolved("", "no sensor has found a device")
    return _by_text(device.uuid, sensed, visible)


def meter_of(device: DeviceRef, sensed: Sequence[DeviceSeen], settings: Mapping[str, str]) -> Resolved:
    """The device whose joules an engine's device gets. Stricter than `resolve`: a wrong one would be a wrong bill.

    An index is believed only where the engine says what it sees (its setting ``cuda_visible_devices``), or where the
    host has one GPU: in a container index 0 may be any of them.
    """
    if device.uuid.startswith("CPU-"):
        return Resolved("", "the stand-in of a host without a GPU names itself")
    visible = settings.get("cuda_visible_devices")
    match = resolve(device, sensed, visible)
    named = device.uuid.startswith(("GPU-", "MIG-"))
    boards = sum(each.kind == "gpu" and not each.parent for each in sensed)
    if match.uuid and not named and visible is None and boards > 1:
        return Resolved("", f"{device.uuid!r} is an index, and which of {boards} GPUs it counts is not known")
    return match


def visible_devices(text: str, sensed: Sequence[DeviceSeen]) -> list[Resolved]:
    """The devices that a CUDA_VISIBLE_DEVICES shows, in CUDA's order, up to the first that is none (as CUDA does)."""
    devices: list[Resolved] = []
    for entry in (part.strip() for part in text.split(",")):
        match = _by_text(entry, sensed, None)
        if not match.uuid or match in devices:
            break
        devices.append(match)
    return devices


def _by_text(text: str, sensed: Sequence[DeviceSeen], visible: str | None) -> Resolved:
    if any(each.uuid == text for each in sensed):
        return Resolved(text)
    if (old := _OLD_MIG.match(text)) is not None:
        return _by_instance(*old.groups(), sensed=sensed)
    if text.startswith(("GPU-", "MIG-")):
        return _by_prefix(text, sensed)
    index = _FRAMEWORK.match(text)
    number = index.group(1) if index is not None else text
    if not number.isdecimal():
        return Resolved("", f"no sensor knows {text!r}")
    return _by_index(int(number), sensed, visible)


def _by_prefix(text: str, sensed: Sequence[DeviceSeen]) -> Resolved:
    matches = [each.uuid for each in sensed if each.uuid.startswith(text)]
    if len(matches) == 1:
        return Resolved(matches[0])
    return Resolved("", f"{len(matches)} devices begin with {text!r}" if matches else f"no sensor sees {text!r}")


def _by_instance(board: str, gpu_instance: str, compute_instance: str, *, sensed: Sequence[DeviceSeen]) -> Resolved:
    numbers = {"gpu_instance": gpu_instance, "compute_instance": compute_instance}
    for each in sensed:
        if each.parent == board and numbers.items() <= each.details.items():
            return Resolved(each.uuid)
    return Resolved("", f"no sensor sees instance {gpu_instance}/{compute_instance} of {board}")


def _by_index(number: int, sensed: Sequence[DeviceSeen], visible: str | None) -> Resolved:
    if visible is not None and visible.strip():
        shown = visible_devices(visible, sensed)
        if number < len(shown):
            return shown[number]
        return Resolved("", f"device {number} is not among CUDA_VISIBLE_DEVICES={visible}")
    boards = {each.index: each for each in sensed if each.kind == "gpu" and not each.parent}
    if len({each.name for each in boards.values()}) > 1:
        # CUDA counts the fastest first (unless CUDA_DEVICE_ORDER says otherwise), NVML by place on the bus.
        return Resolved("", f"an index ({number}) does not tell GPUs of different kinds apart; name them by UUID")
    if number not in boards:
        return Resolved("", f"NVML has no device {number}")
    if any(each.parent == boards[number].uuid for each in sensed):
        return Resolved("", f"device {number} is in MIG mode: an instance has to be named by its MIG UUID")
    return Resolved(boards[number].uuid)
