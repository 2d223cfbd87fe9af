"""Checks the vLLM plugin's hook points against a release of vLLM, without installing or importing it.

    python tools/check_vllm_wheel.py 0.33.0

Fetches the wheel of that version (the CUDA build; some hundred MB) into build/wheels with pip, once, and reads the
sources in it. Where the wheel is there, the tests check it too.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / "build" / "wheels"
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "plugins" / "costtrace-vllm" / "src")]

from costtrace_vllm import contract  # noqa: E402 -- see the path above

from costtrace.capture.hooks.check import HookCheck  # noqa: E402 -- see the path above


def fetch(version: str) -> Path:
    """Return the wheel of *version*, from build/wheels or, by pip, from the package index."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    pattern = f"vllm-{version}-*.whl"
    if not any(WHEELS.glob(pattern)):
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", WHEELS, f"vllm=={version}"], check=True
        )
    return next(WHEELS.glob(pattern))


def check(wheel: Path) -> list[HookCheck[contract.Hook]]:
    """Check the sources in *wheel*."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".py")])
        return contract.check_source(Path(folder) / "vllm")


def main() -> int:
    """Print what fits and what does not; 1 if anything does not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("version", help="version of vLLM, as 0.33.0")
    wheel = fetch(parser.parse_args().version)
    checks = check(wheel)
    for each in checks:
        print(f"{'fits' if each.ok else 'LOST':5} {each.hook.name:32} {each.why}")
        if not each.ok:
            print(f"      lost: {each.hook.lost}")
    print(f"{wheel.name}: {sum(each.ok for each in checks)} of {len(checks)} hooks fit")
    return 0 if all(each.ok for each in checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
