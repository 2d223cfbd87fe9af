"""Simulate a workload trace into a journal, as the command line asks."""

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
from costtrace_lab.simulator.servegen import ServeGenOptions
from costtrace_lab.simulator.workload import TimeUnit

ENGINE_ID = "simulator-replay"


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """A simulation to run: trace, model, device, scheduler."""

    trace: Path
    model: str
    device: str
    tables: Path | None
    requests: int | None
    speed: float
    block_tokens: int | None
    time_unit: TimeUnit | None
    servegen_options: ServeGenOptions
    scheduler: SchedulerConfig
    wall_ns: int


def run(simulation: Simulation, home: Path, progress: Callable[[int], None]) -> tuple[Path, str]:
    """Simulate into a journal below *home*; returns its path and the source of the times. Raises: CosttraceError."""
    model = read_model(simulation.model)
    workload = read_workload(
        simulation.trace,
        requests=simulation.requests,
        speed=simulation.speed,
        servegen_options=simulation.servegen_options,
        block_tokens=simulation.block_tokens,
        time_unit=simulation.time_unit,
    )
    times: StepTimes
    device = simulation.device
    if simulation.tables is not None:
        tables = KernelTables(
            simulation.tables,
            model,
            device=device,
            max_tokens=simulation.scheduler.token_budget,
            max_sequences=simulation.scheduler.max_sequences,
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
    simulator = Simulator(workload, times, simulation.scheduler, model=model.name, prefix_paths=True)
    setting = Setting(model, device, times.source, simulation.wall_ns)
    return write_journal(home, simulator, setting, ENGINE_ID, progress), times.source
