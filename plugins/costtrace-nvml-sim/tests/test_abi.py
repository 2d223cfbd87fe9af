"""The library's structures are laid out as nvidia-ml-py expects them."""

import ctypes
import shutil
import subprocess
from typing import Any

import pytest
from costtrace_nvml_sim.build import SOURCES

nvml: Any = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

PAIRS = {
    "field_value_t": "c_nvmlFieldValue_t",
    "sample_t": "c_nvmlSample_t",
    "value_t": "c_nvmlValue_t",
    "pci_info_t": "nvmlPciInfo_t",
    "memory_t": "c_nvmlMemory_t",
    "memory_v2_t": "c_nvmlMemory_v2_t",
    "bar1_memory_t": "c_nvmlBAR1Memory_t",
    "process_t": "c_nvmlProcessInfo_v3_t",
    "utilization_t": "c_nvmlUtilization_t",
    "temperature_t": "c_nvmlTemperature_v1_t",
    "attributes_t": "c_nvmlDeviceAttributes",
}


def test_every_structure_has_the_size_and_offsets_of_nvidia_ml_pys(tmp_path):
    lines, expected = [], []
    for ours, theirs in PAIRS.items():
        structure = getattr(nvml, theirs)
        lines.append(f'printf("{ours} %zu\\n", sizeof({ours}));')
        expected.append(f"{ours} {ctypes.sizeof(structure)}")
        names = [name for name, _ in structure._fields_]
        for name in (
            n for n in names if n in (SOURCES / "nvml_abi.h").read_text().replace(",", " ").replace(";", " ").split()
        ):
            lines.append(f'printf("{ours}.{name} %zu\\n", offsetof({ours}, {name}));')
            expected.append(f"{ours}.{name} {getattr(structure, name).offset}")
    source = tmp_path / "sizes.c"
    includes = f'#include <stddef.h>\n#include <stdio.h>\n#include "{SOURCES}/nvml_abi.h"\n'
    source.write_text(includes + "int main(void){" + "".join(lines) + "}")
    subprocess.run(["gcc", "-o", tmp_path / "sizes", source], check=True)
    shown = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert shown == expected


def test_version_marks_of_structures_are_those_of_nvidia_ml_py():
    assert nvml.nvmlMemory_v2 == ctypes.sizeof(nvml.c_nvmlMemory_v2_t) | 2 << 24
    assert nvml.nvmlTemperature_v1 == ctypes.sizeof(nvml.c_nvmlTemperature_v1_t) | 1 << 24
