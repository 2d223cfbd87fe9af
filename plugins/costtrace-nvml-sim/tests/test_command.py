"""`costtrace nvml-sim` as a user types it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from costtrace_nvml_sim.build import build_library
from costtrace_nvml_sim.command import nvml_sim
from costtrace_nvml_sim.errors import NvmlSimError
from costtrace_nvml_sim.presets import PRESETS

needs_library = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
READER = (
    "import pynvml as n; n.nvmlInit(); print(n.nvmlDeviceGetTotalEnergyConsumption(n.nvmlDeviceGetHandleByIndex(0)))"
)


@pytest.fixture
def cli():
    return lambda *args: CliRunner().invoke(nvml_sim, [str(arg) for arg in args])


def test_the_example_that_init_writes_passes_check(cli, tmp_path):
    target = tmp_path / "s.yaml"
    assert cli("init", target).exit_code == 0
    done = cli("check", target)
    assert done.exit_code == 0
    assert "device 2: NVIDIA A100-SXM4-80GB" in done.output
    assert "SIMULATED" in done.output
    assert "exists already" in cli("init", target).output


def test_check_of_a_wrong_scenario_fails_with_its_reason(cli, tmp_path):
    (tmp_path / "s.toml").write_text("[[devices]]\npreset = 'H100'\npower_w = 3\n")
    done = cli("check", tmp_path / "s.toml")
    assert done.exit_code == 1
    assert "devices.0.power_w: unknown key" in done.output


def test_presets_are_listed_with_their_sources(cli):
    lines = cli("presets").output.splitlines()
    assert len(lines) == len(PRESETS)
    assert all("DATA" in line or "assumed" in line or "ZEUS" in line for line in lines)


@needs_library
def test_run_shows_devices_to_the_command_and_writes_truth_and_calls(cli, tmp_path, capfd):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    (tmp_path / "s.toml").write_text(
        "[[devices]]\npreset = 'H100'\npower = 300\ncount = 2\ncounter = {start_mj = 77}\n"
    )
    truth, calls = tmp_path / "truth.jsonl", tmp_path / "calls"
    truth.touch(mode=0o644)
    done = cli("run", tmp_path / "s.toml", "--truth", truth, "--calls", calls, "--", sys.executable, "-c", READER)
    assert done.exit_code == 0, done.output
    assert truth.stat().st_mode & 0o777 == 0o600
    assert int(capfd.readouterr().out) >= 77
    rows = [json.loads(line) for line in truth.read_text().splitlines()]
    assert [row["device"] for row in rows] == [0, 1]
    assert all(row["energy_uj"] == (row["until_ns"] - row["from_ns"]) * 300 // 1000 for row in rows)
    assert all(row["simulated"] for row in rows)
    counted = dict(line.split("\t") for line in next(calls.iterdir()).read_text().splitlines())
    assert counted["nvmlDeviceGetTotalEnergyConsumption"] == "1"


@needs_library
def test_a_command_can_move_the_virtual_clock_that_run_names(cli, tmp_path, capfd):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    (tmp_path / "s.toml").write_text("clock = 'virtual'\n[[devices]]\npreset = 'H100'\npower = 300\n")
    move = (
        "import os; from costtrace_nvml_sim.clock import VirtualClock\n"
        "VirtualClock(os.environ['COSTTRACE_NVML_SIM_CLOCK']).advance(3600 * 10**9)\n"
    )
    done = cli("run", tmp_path / "s.toml", "--truth", tmp_path / "t", "--", sys.executable, "-c", move + READER)
    assert done.exit_code == 0
    assert capfd.readouterr().out == "1080000000\n"
    assert json.loads((tmp_path / "t").read_text())["energy_uj"] == 1_080_000_000_000


@needs_library
def test_run_hands_on_the_exit_code_and_names_a_missing_command(cli, tmp_path):
    (tmp_path / "s.toml").write_text("[[devices]]\npreset = 'T4'\n")
    assert cli("run", tmp_path / "s.toml", "--", sys.executable, "-c", "raise SystemExit(7)").exit_code == 7
    done = cli("run", tmp_path / "s.toml", "--", "no-such-program")
    assert done.exit_code == 1
    assert "no-such-program: no such command" in done.output


@needs_library
def test_compile_prints_variables_that_any_process_can_use_and_truth_reads_them(cli, tmp_path):
    (tmp_path / "s.toml").write_text("[[devices]]\npreset = 'GH200'\npower = 100\nmodule_power = 50\n")
    done = cli("compile", tmp_path / "s.toml", "--out", tmp_path / "run")
    variables = dict(line.removeprefix("export ").split("=", 1) for line in done.output.splitlines())
    compiled = Path(variables["COSTTRACE_NVML_SIM"].strip("'"))
    row = json.loads(cli("truth", compiled, "--from", "1", "--until", "3.5").output)
    assert row["energy_uj"] == 250_000_000
    assert row["module_energy_uj"] == 375_000_000


@needs_library
def test_a_library_is_built_once_and_again_where_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = build_library()
    stamp = first.stat().st_mtime_ns
    assert build_library().stat().st_mtime_ns == stamp
    assert build_library(tmp_path / "here") == tmp_path / "here" / "libnvidia-ml.so.1"


def test_without_a_compiler_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(NvmlSimError, match="install gcc"):
        build_library()


@needs_library
def test_without_a_scenario_the_library_says_that_no_driver_is_loaded(tmp_path):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    import subprocess

    environment = {"LD_LIBRARY_PATH": str(build_library().parent), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", READER], env=environment, capture_output=True, text=True, check=False)
    assert "NVMLError_DriverNotLoaded" in done.stderr
    assert "costtrace nvml-sim run SCENARIO" in done.stderr
