"""The GPUs of a server's ranks, without touching one: a server's process has no CUDA context, and gets none.

The kernel driver lists its GPUs under /proc. In PCI order, which is CUDA's too where all are of one kind.
"""

import os
import re
from pathlib import Path

from costtrace.core import clock
from costtrace.core.events import DeviceRef

PROC = Path("/proc/driver/nvidia/gpus")
_MODEL, _UUID = (
    re.compile(r"^Model:\s*(.+?)\s*$", re.MULTILINE),
    re.compile(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)\s*$", re.MULTILINE),
)


def visible_gpus(count: int, proc: Path = PROC) -> tuple[tuple[DeviceRef, ...], str]:
    """The first *count* GPUs that CUDA shows on this host, and CUDA_VISIBLE_DEVICES as an engine's row tells it.

    One that cannot be identified is named by its index: its time is known, its energy only where an index tells it.
    """
    boards = [_board(path) for path in sorted(proc.glob("*/information"))]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    entries = [entry.strip() for entry in visible.split(",") if entry.strip()] or [str(n) for n in range(len(boards))]
    name = boards[0][1] if len({name for _, name in boards}) == 1 else ""
    found = []
    for rank in range(count):
        entry = entries[rank] if rank < len(entries) else ""
        uuid, board = _which(entry, boards)
        kind = "mig" if uuid.startswith("MIG-") else "gpu"
        here = clock.host_name() if entry or not boards else ""
        found.append(DeviceRef(uuid or f"cuda-{clock.host_name()}-{rank}", board or name, kind, here, rank))
    return tuple(found), visible


def _which(entry: str, boards: list[tuple[str, str]]) -> tuple[str, str]:
    if entry.isdecimal() and int(entry) < len(boards):
        return boards[int(entry)]
    for uuid, name in boards:
        if entry.startswith("GPU-") and uuid.startswith(entry):
            return uuid, name
    return (entry, "") if entry.startswith("MIG-") else ("", "")


def _board(path: Path) -> tuple[str, str]:
    """UUID and name; '' for what it does not tell."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    model, uuid = _MODEL.search(text), _UUID.search(text)
    return (uuid[1] if uuid else ""), (model[1] if model else "")
