"""Run a program on simulated GPUs: build the library, compile the scenario, set the environment, write the truth."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from costtrace_nvml_sim.build import build_library
from costtrace_nvml_sim.clock import VirtualClock
from costtrace_nvml_sim.compiled import Compiled, write_compiled
from costtrace_nvml_sim.compiler import compile_scenario
from costtrace_nvml_sim.scenario import Scenario
from costtrace_nvml_sim.truth import Truth

SCENARIO_VARIABLE = "COSTTRACE_NVML_SIM"
CLOCK_VARIABLE = "COSTTRACE_NVML_SIM_CLOCK"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A scenario ready to run: every process with ``environment()`` sees its devices."""

    nvml_library: Path
    compiled: Compiled
    compiled_path: Path

    @property
    def clock_path(self) -> Path | None:
        """File of the virtual clock, for VirtualClock; None with the real clock."""
        return self.compiled.virtual_clock

    def now_ns(self) -> int:
        """Return the current time, in ns since t0."""
        if self.compiled.virtual_clock is None:
            return time.monotonic_ns() - self.compiled.t0_monotonic_ns
        with VirtualClock(self.compiled.virtual_clock) as clock:
            return clock.now_ns

    def variables(self) -> dict[str, str]:
        """Return the variables that name the library, the scenario, and the virtual clock if there is one."""
        directory, inherited = str(self.nvml_library.parent), os.environ.get("LD_LIBRARY_PATH")
        variables = {
            "LD_LIBRARY_PATH": f"{directory}:{inherited}" if inherited else directory,
            SCENARIO_VARIABLE: str(self.compiled_path),
        }
        if self.clock_path is not None:
            variables[CLOCK_VARIABLE] = str(self.clock_path)
        return variables

    def environment(self) -> dict[str, str]:
        """Return the environment of this process with the variables set."""
        return {**os.environ, **self.variables()}


def prepare(
    scenario: Scenario, directory: Path, *, base: Path | None = None, calls_dir: Path | None = None
) -> Prepared:
    """Build and compile into ``directory`` (must exist); t0 is now. Paths in the scenario are relative to ``base``.

    Raises NvmlSimError.
    """
    library = build_library()
    clock_path = directory / "scenario.clock" if scenario.clock == "virtual" else None
    if clock_path is not None:
        VirtualClock(clock_path).close()
    if calls_dir is not None:
        calls_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    compiled = compile_scenario(scenario, base=base or directory, virtual_clock=clock_path, calls_dir=calls_dir)
    compiled_path = (directory / "scenario.compiled").absolute()
    write_compiled(compiled, compiled_path)
    return Prepared(library, compiled, compiled_path)


def truth_rows(truth: Truth, from_ns: int, until_ns: int) -> list[dict[str, object]]:
    """One row for each device: the energy that it drew between two times (ns since t0), and its counter at both."""
    rows: list[dict[str, object]] = []
    for index, device in enumerate(truth.compiled.devices):
        row: dict[str, object] = {
            "simulated": True,
            "device": index,
            "uuid": device.uuid,
            "name": device.name,
            "from_ns": from_ns,
            "until_ns": until_ns,
            "energy_uj": truth.energy_uj(index, from_ns, until_ns),
            "counter_from_mj": truth.counter_mj(index, from_ns),
            "counter_until_mj": truth.counter_mj(index, until_ns),
        }
        if device.has_module:
            row["module_energy_uj"] = truth.energy_uj(index, from_ns, until_ns, scope="module")
        rows.append(row)
    return rows


def write_truth(path: Path, rows: list[dict[str, object]]) -> None:
    """Write the rows as JSON lines, mode 0600."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    if path.is_file():  # not a pipe or a device; the mode above is for a new file only
        os.fchmod(fd, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def run_command(prepared: Prepared, command: Sequence[str], *, truth_path: Path | None = None) -> int:
    """Run a command to its end and return its exit code (128 + signal if one ended it)."""
    start = prepared.now_ns()
    code = subprocess.run(list(command), env=prepared.environment(), check=False).returncode  # noqa: S603  (the user's own command)
    if truth_path is not None:
        write_truth(truth_path, truth_rows(Truth(prepared.compiled), start, prepared.now_ns()))
    return code if code >= 0 else 128 - code
