"""Build the simulated ``libnvidia-ml.so.1`` with gcc, once for each version of its source, into a cache directory."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from costtrace_nvml_sim.errors import NvmlSimError

LIBRARY = "libnvidia-ml.so.1"
SOURCES = Path(__file__).parent / "csrc"
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden", f"-Wl,-soname,{LIBRARY}")


def source_hash() -> str:
    """Return the identity of a build: a hash of the sources, the flags and the machine's architecture."""
    digest = hashlib.sha256(repr((_FLAGS, platform.machine())).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/costtrace/nvml-sim``, by default under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "costtrace" / "nvml-sim"


def _compile(target: Path) -> None:
    compiler = shutil.which(os.environ.get("CC") or "gcc")
    if compiler is None:
        raise NvmlSimError("no C compiler: install gcc, or name one in CC")
    sources = sorted(str(path) for path in SOURCES.glob("*.c"))
    version = f'-DSIM_VERSION="{source_hash()}"'
    command = [compiler, *_FLAGS, version, "-o", str(target), *sources, "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (fixed arguments, no shell)
    if done.returncode != 0:
        raise NvmlSimError(f"{compiler} could not build {LIBRARY}:\n{done.stderr.strip()}")


def build_library(out: Path | None = None) -> Path:
    """Path of the built library, in ``out`` or in the cache, where an earlier build of the same source is reused.

    Raises NvmlSimError where there is no compiler, or it fails.
    """
    directory = cache_dir() / source_hash() if out is None else out
    library = directory / LIBRARY
    if out is None and library.exists():
        return library
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        built = Path(scratch) / LIBRARY
        _compile(built)
        built.replace(library)
    return library
