"""``costtrace nvml-sim``: the commands of the NVML simulator."""

import json
import os
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from costtrace_nvml_sim.build import build_library
from costtrace_nvml_sim.compiler import compile_scenario
from costtrace_nvml_sim.errors import NvmlSimError
from costtrace_nvml_sim.presets import PRESETS
from costtrace_nvml_sim.runner import prepare, run_command, truth_rows
from costtrace_nvml_sim.scenario import Scenario, load_scenario
from costtrace_nvml_sim.truth import Truth
from costtrace_nvml_sim.waves import to_ns

_P = ParamSpec("_P")
_R = TypeVar("_R")
_ScenarioFile = click.Path(path_type=Path, dir_okay=False)


def _errors_as_messages(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a command to show the simulator's own errors as messages, without a traceback."""

    @wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except NvmlSimError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


@click.group("nvml-sim")
def nvml_sim() -> None:
    """Run programs on simulated GPUs, with real NVML calls and the physics of real power sensors."""


@nvml_sim.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Directory; default: the cache.")
@_errors_as_messages
def build(out: Path | None) -> None:
    """Build libnvidia-ml.so.1 with gcc and print its path."""
    click.echo(build_library(out))


@nvml_sim.command()
@click.argument("target", type=_ScenarioFile, default=Path("scenario.yaml"))
@_errors_as_messages
def init(target: Path) -> None:
    """Write an example scenario to TARGET (default scenario.yaml)."""
    if target.exists():
        raise NvmlSimError(f"{target} exists already; name another file")
    target.write_text(
        (Path(__file__).parent / "examples" / "example.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    click.echo(f"wrote {target}")


@nvml_sim.command()
def presets() -> None:
    """List the presets with the source of each figure."""
    for key, preset in PRESETS.items():
        sensor = f"{preset.window_ms}/{preset.update_period_ms} ms"
        click.echo(f"{key:8} {preset.name:24} {preset.limit_w:5} W  sensor {sensor:11} {preset.provenance}")


def _describe(scenario: Scenario, source: Path) -> None:
    clock = source.parent / "unused.clock" if scenario.clock == "virtual" else None
    compiled = compile_scenario(scenario, base=source.parent, virtual_clock=clock)
    for index, device in enumerate(compiled.devices):
        mode = {0: "no counter", 1: "ideal counter", 2: "part-time counter"}[device.counter_mode]
        sensor = f"sensor {device.window_ns / 1e6:g}/{device.update_ns / 1e6:g} ms"
        click.echo(f"device {index}: {device.name}, {device.uuid}, {sensor}, {mode}, {len(device.migs)} MIG devices")
    click.echo(f"{len(scenario.faults)} faults; SIMULATED, driver {compiled.driver_version}")


@nvml_sim.command()
@click.argument("scenario", type=_ScenarioFile)
@_errors_as_messages
def check(scenario: Path) -> None:
    """Check SCENARIO and print what it simulates."""
    _describe(load_scenario(scenario), scenario)


@nvml_sim.command("compile")
@click.argument("scenario", type=_ScenarioFile)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Directory, made if new.")
@click.option("--calls", type=click.Path(path_type=Path, file_okay=False), help="Directory for counts of NVML calls.")
@_errors_as_messages
def compile_command(scenario: Path, out: Path, calls: Path | None) -> None:
    """Start SCENARIO now and print the variables by which any number of processes see its devices."""
    parsed = load_scenario(scenario)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    prepared = prepare(parsed, out, base=scenario.parent, calls_dir=calls)
    for key, value in prepared.variables().items():
        click.echo(f"export {key}='{value}'")


@nvml_sim.command(context_settings={"ignore_unknown_options": True})
@click.argument("scenario", type=_ScenarioFile)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--truth", "truth_path", type=_ScenarioFile, help="Write the energy really drawn, as JSON lines.")
@click.option("--calls", type=click.Path(path_type=Path, file_okay=False), help="Directory for counts of NVML calls.")
@_errors_as_messages
def run(scenario: Path, command: tuple[str, ...], truth_path: Path | None, calls: Path | None) -> None:
    """Run COMMAND on the devices of SCENARIO: nvml-sim run scenario.yaml -- nvitop -1."""
    parsed = load_scenario(scenario)
    with tempfile.TemporaryDirectory(prefix="costtrace-nvml-sim-") as directory:
        prepared = prepare(parsed, Path(directory), base=scenario.parent, calls_dir=calls)
        try:
            code = run_command(prepared, command, truth_path=truth_path)
        except FileNotFoundError as error:
            raise NvmlSimError(f"{command[0]}: no such command") from error
    raise SystemExit(code)


@nvml_sim.command()
@click.argument("compiled", type=_ScenarioFile, required=False)
@click.option("--from", "from_s", type=float, default=0.0, show_default=True, help="Seconds since the start.")
@click.option("--until", "until_s", type=float, required=True, help="Seconds since the start.")
@_errors_as_messages
def truth(compiled: Path | None, from_s: float, until_s: float) -> None:
    """Print what each device of a COMPILED scenario really draws, as JSON lines (default: $COSTTRACE_NVML_SIM)."""
    path = compiled or Path(os.environ.get("COSTTRACE_NVML_SIM", ""))
    for row in truth_rows(Truth.of(path), to_ns(from_s), to_ns(until_s)):
        click.echo(json.dumps(row))
