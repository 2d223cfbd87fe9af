"""From the command line's words to a simulation's journal."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from costtrace.attribution.steps.device_peaks import peak_of
from costtrace.core.errors import CosttraceError
from costtrace_lab.simulator import (
    Roofline,
    SchedulerConfig,
    Simulator,
    StepTimes,
    read_model,
    read_workload,
    write_journal,
)
from costtrace_lab.simulator.journals import Setting
from costtrace_lab.simulator.kernel_tables import KernelTables
from costtrace_lab.simulator.servegen import Spell

ENGINE_ID = "simulator-replay"


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be simulated."""

    trace: Path
    model: str
    device: str
    tables: Path | None
    requests: int | None
    speed: float
    spell: Spell
    scheduler: SchedulerConfig
    wall_ns: int


def run(what: Simulation, home: Path, progress: Callable[[int], None]) -> tuple[Path, str]:
    """Simulate into a journal below *home*; returns it and where the times are from. Raises: CosttraceError."""
    model = read_model(what.model)
    workload = read_workload(what.trace, requests=what.requests, speed=what.speed, spell=what.spell)
    times: StepTimes
    device = what.device
    if what.tables is not None:
        tables = KernelTables(
            what.tables,
            model,
            device=device,
            max_tokens=what.scheduler.token_budget,
            max_sequences=what.scheduler.max_sequences,
        )
        times, device = tables, tables.device
    else:
        device = device or "NVIDIA H100 80GB HBM3"
        if peak_of(device, "gpu").generic:
            raise CosttraceError(
                f"nothing is known of a device {device!r}: name one of the table in docs/method/paper.md, or give its "
                "kernel tables with --tables"
            )
        times = Roofline(model, device)
    simulator = Simulator(workload, times, what.scheduler, model=model.name, prefix_paths=True)
    setting = Setting(model, device, times.source, what.wall_ns)
    return write_journal(home, simulator, setting, ENGINE_ID, progress), times.source
