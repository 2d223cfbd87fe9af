"""A simulated NVIDIA GPU beside a real engine on a CPU: what NVML would show if the GPU were as busy as the CPU is.

Ten times a second the CPU time of the engine's processes is read. The simulated board draws between its idle and its
limit power, in proportion to the share of this host's cores that they use. Real NVML calls read it, with the period,
averaging and lag of the real board's sensor (see docs/nvml-sim.md). None of its joules is real.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from costtrace_nvml_sim.errors import NvmlSimError
from costtrace_nvml_sim.feed import PowerFeed
from costtrace_nvml_sim.presets import PRESETS
from costtrace_nvml_sim.runner import prepare
from costtrace_nvml_sim.scenario import parse_scenario
from costtrace_nvml_sim.truth import Truth

from costtrace.core.errors import ServerError

WATCH_S = 0.1
SETTLE_MS = 400.0
"""How much later than the power the simulated sensor sees it: a power is known only after its 0.1 s."""


class SimulatedGpu:
    """One board of a preset. A context manager: within it, `watch` may follow processes."""

    def __init__(self, preset: str, directory: Path) -> None:
        """Build the NVML double into *directory*. Raises ServerError: no such preset, or it cannot be built."""
        if preset not in PRESETS:
            raise ServerError(f"there is no simulated GPU {preset!r}. Choose one of {', '.join(PRESETS)}.")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._preset = PRESETS[preset]
        self._feed_path = directory / "power.feed"
        self._feed = PowerFeed(self._feed_path)
        feeds = [{"path": str(self._feed_path), "settle_ms": SETTLE_MS, "initial_w": float(self._preset.idle_w)}]
        try:
            self._prepared = prepare(parse_scenario({"devices": [{"preset": preset, "feeds": feeds}]}), directory)
        except NvmlSimError as error:
            raise ServerError(f"the simulated GPU cannot be made: {error}") from error
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def setting(self) -> str:
        """The engine's value of COSTTRACE_SIMULATED_DEVICE."""
        device = self._prepared.compiled.devices[0]
        return f"{device.uuid}={device.name}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables by which a process finds this board through NVML."""
        return self._prepared.variables()

    def watch(self, processes: Callable[[], Iterable[int]]) -> None:
        """From now on, draw power as the processes use this host's cores; *processes* returns their current ids."""
        self._thread = threading.Thread(target=self._run, args=(processes,), name="simulated-gpu", daemon=True)
        self._thread.start()

    def drawn_uj(self, start_ns: int, end_ns: int) -> int:
        """Return the true energy between two monotonic times, in uJ."""
        truth, begin_ns = Truth(self._prepared.compiled), self._prepared.compiled.t0_monotonic_ns
        return truth.energy_uj(0, max(0, start_ns - begin_ns), max(0, end_ns - begin_ns))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._feed.close()

    def _run(self, processes: Callable[[], Iterable[int]]) -> None:
        idle_w, limit_w, cores = self._preset.idle_w, self._preset.limit_w, os.cpu_count() or 1
        last_used_ns: dict[int, int] = {}
        now_ns = time.monotonic_ns()
        while not self._stop.wait(WATCH_S):
            used_ns = {pid: cpu_ns(pid) for pid in processes()}
            last_ns, now_ns = now_ns, time.monotonic_ns()
            # The CPU time that a new process used before it was first seen does not count.
            busy_ns = sum(max(0, ns - last_used_ns.get(pid, ns)) for pid, ns in used_ns.items())
            share = min(1.0, busy_ns / ((now_ns - last_ns) * cores))
            self._feed.write(0, round((idle_w + (limit_w - idle_w) * share) * 1_000), t_ns=last_ns)
            last_used_ns = used_ns


def cpu_ns(pid: int) -> int:
    """CPU time of a process and all its live threads, in ns; 0 where it has ended."""
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return total
    return total
