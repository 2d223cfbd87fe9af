"""Wrong scenarios get an answer that names the key; broken compiled files are refused, never guessed at."""

import random
import re
import shutil

import pytest
from costtrace_nvml_sim.compiled import read_compiled, write_compiled
from costtrace_nvml_sim.compiler import compile_scenario
from costtrace_nvml_sim.errors import NvmlSimError
from costtrace_nvml_sim.scenario import load_scenario, parse_scenario
from nvml_sim_support import double

CARD = {"preset": "H100"}
needs_library = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"devices": [{**CARD, "powr": 3}]}, r"devices\.0\.powr: unknown key; did you mean power\?"),
        ({"devices": [{"preset": "H1OO"}]}, r"unknown preset 'H1OO'; known: H100"),
        ({"devices": [{**CARD, "power": {"kind": "square", "low_w": 1, "high_w": 2}}]}, r"period_s: Field required"),
        ({"devices": [{**CARD, "power": -1}]}, r"greater than or equal to 0"),
        ({"devices": [{**CARD, "power": {"kind": "saw"}}]}, r"does not match any of the expected tags"),
        ({"devices": [{**CARD, "count": 129}]}, r"less than or equal to 128"),
        ({"devices": [{**CARD, "count": 100}, {**CARD, "count": 29}]}, r"129 devices; at most 128"),
        ({"devices": [{**CARD, "count": 2, "uuid": "GPU-1"}]}, r"one uuid cannot serve several"),
        ({"devices": [{**CARD, "counter": {"scope": "module"}}]}, r"H100 is no superchip"),
        ({"devices": [CARD], "faults": [{"kind": "gpu_lost", "device": 1}]}, r"no device 1; the scenario has 1"),
        ({"faults": [{"kind": "error", "code": "OOPS"}]}, r"unknown code 'OOPS'; known: UNINIT"),
        ({"faults": [{"kind": "gpu_lost", "at_s": 3, "until_s": 2}]}, r"until_s must be later"),
        ({"name": "two\nlines"}, r"name"),
        ([], r"scenario: Input should be"),
    ],
)
def test_a_wrong_scenario_is_refused_with_key_and_remedy(scenario, message):
    with pytest.raises(NvmlSimError, match=message):
        parse_scenario(scenario)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "devices: [", "is not usable YAML"),
        ("a.yaml", "name: x\nname: y", "'name' appears twice.*line 2"),
        ("a.json", "[" * 100_000, "a.json: maximum recursion depth"),
        ("a.toml", "devices = [", "a.toml"),
        ("a.json", "{", "a.json"),
        ("a.json", "[" * 20_000, "a.json"),
        ("a.yaml", "[" * 2_000, "a.yaml"),
        ("a.yaml", "devices: !!timestamp x", "a.yaml"),
        ("a.yaml", "devices: !!bool x", "a.yaml"),
        ("a.yaml", 'devices: !!int ""', "a.yaml"),
        ("a.yaml", "? !!set {a, b}\n: 1", "a.yaml"),
        ("a.txt", "x", "ends in .yaml, .toml or .json"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(NvmlSimError, match=message):
        load_scenario(tmp_path / name)


@pytest.mark.parametrize(
    ("power", "power_w"), [("012", 12.0), ("0300", 300.0), (".5", 0.5), ("1e3", 1000.0), ("300.25", 300.25)]
)
def test_a_number_in_yaml_is_the_decimal_number_that_is_written(tmp_path, power, power_w):
    path = tmp_path / "a.yaml"
    path.write_text(
        f"version: 1\nname: 007\ndriver_version: 580.95\ndevices:\n- preset: H100\n  count: 010\n  power: {power}\n"
        f"- preset: H100\n  power: {{kind: constant, power_w: {power}}}\n"
        f"faults:\n- {{kind: gpu_lost, device: 08, at_s: {power}}}\n"
    )
    scenario = load_scenario(path)
    assert (scenario.name, scenario.driver_version, scenario.devices[0].count) == ("007", "580.95", 10)
    assert [device.power.power_w for device in scenario.devices] == [power_w, power_w]
    assert (scenario.faults[0].device, scenario.faults[0].at_s) == (8, power_w)


@pytest.mark.parametrize("power", ["1:30", "0x1F", "0b11", "yes", "2026-11-01", ".nan", ".inf", "1,5"])
def test_what_is_no_decimal_number_is_refused_with_its_line(tmp_path, power):
    (tmp_path / "a.yaml").write_text(f"devices:\n- preset: H100\n  power:\n    kind: constant\n    power_w: {power}\n")
    with pytest.raises(NvmlSimError, match=r"a\.yaml.*\n.*devices\.0\.power\.constant\.power_w: .* \(line 5\)"):
        load_scenario(tmp_path / "a.yaml")


def test_a_missing_file_and_bytes_that_are_no_text_are_named(tmp_path):
    with pytest.raises(NvmlSimError, match=r"none\.yaml: cannot be read"):
        load_scenario(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(NvmlSimError, match="not UTF-8"):
        load_scenario(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("t_s,power_w\n", "has 0 rows"),
        ("t_s,power_w\n1,2\n1,3\n", "t_s must increase"),
        ("t_s,power_w\n1,-2\n", "not be negative"),
        ("t_s,watts\n1,2\n", "columns t_s and power_w"),
        ("t_s,power_w\n1,nan\n", "columns t_s and power_w"),
        ("t_s,power_w\n1,5,300\n", "columns t_s and power_w"),
        ("t_s,power_w\n1,1_000\n", "columns t_s and power_w"),
        ("t_s,power_w\n1,1e999\n", "columns t_s and power_w"),
        ("t_s,power_w\n1," + "1" * 140_000, "columns t_s and power_w"),
    ],
)
def test_a_wrong_curve_is_named(tmp_path, rows, message):
    (tmp_path / "c.csv").write_text(rows)
    scenario = parse_scenario({"devices": [{**CARD, "power": {"kind": "csv", "path": "c.csv"}}]})
    with pytest.raises(NvmlSimError, match=f"c.csv.*{message}"):
        compile_scenario(scenario, base=tmp_path)


def test_a_compiled_scenario_reads_back_as_it_was_written(tmp_path):
    scenario = parse_scenario(
        {
            "devices": [
                {
                    **CARD,
                    "power": {"kind": "sine", "mean_w": 9, "amplitude_w": 3, "period_s": 1},
                    "mig": [{"profile": "1g.10gb", "memory_mib": 5}],
                    "processes": [{"pid": 3}],
                    "feeds": [{"path": "f.bin"}],
                },
                {"preset": "GB200"},
            ],
            "faults": [{"kind": "error", "call": "nvml[A-D]*", "at_s": 1}],
        }
    )
    compiled = compile_scenario(scenario, base=tmp_path)
    write_compiled(compiled, tmp_path / "c")
    assert read_compiled(tmp_path / "c") == compiled
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o600


@needs_library
def test_no_damage_to_a_compiled_scenario_ends_the_reader(tmp_path):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    device = {**CARD, "power": {"kind": "square", "low_w": 1, "high_w": 2, "period_s": 1}, "feeds": [{"path": "f"}]}
    mig = [{"profile": "1g.10gb", "memory_mib": 5}]
    simulated = double(
        tmp_path,
        {**device, "mig": mig, "counter": {"mode": "part_time"}, "processes": [{"pid": 1}]},
        faults=[{"kind": "counter_reset", "at_s": 0}],
    )
    whole = simulated.prepared.compiled_path.read_bytes()
    draw = random.Random(1)
    damaged = [whole[: draw.randrange(len(whole))] for _ in range(60)]
    for _ in range(240):
        broken = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            broken[draw.randrange(len(broken))] = draw.choice(b"\0\n -9xe\xff")
        damaged.append(bytes(broken))
    folder = tmp_path / "damaged"
    folder.mkdir()
    for place, content in enumerate(damaged):
        (folder / str(place)).write_bytes(content)
    script = """
import ctypes, os
libc = ctypes.CDLL(None)
out = [0, 0]
for place in range(params["count"]):
    libc.setenv(b"COSTTRACE_NVML_SIM", f"{params['folder']}/{place}".encode(), 1)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        out[1] += 1
        continue
    out[0] += 1
    for i in range(nvml.nvmlDeviceGetCount()):
        h = attempt(nvml.nvmlDeviceGetHandleByIndex, i)
        for f in (nvml.nvmlDeviceGetName, nvml.nvmlDeviceGetTotalEnergyConsumption, nvml.nvmlDeviceGetPowerUsage):
            attempt(f, h)
    nvml.nvmlShutdown()
"""
    done = simulated.start(script, init=False, count=len(damaged), folder=str(folder))
    assert done.returncode == 0, done.stderr[-2000:]
    accepted, refused = map(int, done.stdout.strip("[]\n").split(","))
    assert accepted + refused == 300
    assert refused >= 60  # every cut-off file at least


@needs_library
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("gain_ppm", "gain_pmp"), "unknown key 'gain_pmp'"),
        (lambda text: text.replace("window_ns 25000000", "window_ns 0"), r"0 is not in \[1000"),
        (lambda text: text.removesuffix("end\n"), "cut off"),
        (lambda text: text.replace("scenario 1", "scenario 9", 1), "version 1"),
        (lambda text: text.replace("driver_version ", "driver_version \u00e9", 1), "printable ASCII"),
    ],
)
def test_a_broken_compiled_scenario_is_refused_with_its_line(tmp_path, change, message):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    simulated = double(tmp_path, CARD)
    path = simulated.prepared.compiled_path
    path.write_text(change(path.read_text()))
    done = simulated.start("out = 0")
    assert "NVMLError_Unknown" in done.stderr
    assert re.search(message, done.stderr), done.stderr
