"""How an engine's process names its devices, from what its framework gives."""

import os
from pathlib import Path

from costtrace.core import clock
from costtrace.core.events import DeviceRef


def accelerator(kind: str, index: int, name: str, uuid: str, rank: int = 0) -> DeviceRef:
    """The device that a framework lists as number *index* of its *kind* (``cuda``, ``xpu``).

    *uuid*: as the framework gives it; '' where it does not: the device is then named by host and index.
    """
    host = clock.host_name()
    visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if index < len(visible) and visible[index].startswith("MIG-"):
        return DeviceRef(visible[index], name, "mig", host, rank)
    if not uuid:
        uuid = f"{kind}-{host}-{index}"
    elif kind == "cuda" and not uuid.startswith(("GPU-", "MIG-")):
        uuid = f"GPU-{uuid}"
    return DeviceRef(uuid, name, "mig" if uuid.startswith("MIG-") else "gpu", host, rank)


def cpu_name() -> str:
    """The vendor's name of this host's processor; ``CPU`` where it is not known."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "CPU"
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "Processor"}:
            return " ".join(value.split())
    return "CPU"
