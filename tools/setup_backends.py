"""Makes `build/backends`: MLflow and Arize Phoenix, which keep traces, for tests/integration/test_trace_backends.py.

    python tools/setup_backends.py [--dir build/backends]

They have an environment of their own: they bring 200 packages. A second run does nothing until the requirements change.
Stdlib only.
"""

import argparse
import shutil
import sys
from pathlib import Path

from environment import bring_up_to_date
from setup_common import ROOT, run_main

REQUIREMENTS = ROOT / "tests" / "requirements-backends.txt"


def set_up(folder: Path, python: str) -> None:
    """Bring the environment in `folder` up to date."""
    bring_up_to_date(
        "setup-backends",
        folder,
        python=python,
        decided_by=[REQUIREMENTS],
        words=["-r", REQUIREMENTS],
        what="MLflow and Arize Phoenix",
        installer_kind="uv",
    )


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--dir", type=Path, default=ROOT / "build" / "backends")
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    python = shutil.which(given.python) or given.python
    return run_main(lambda: set_up(given.dir.resolve(), python))


if __name__ == "__main__":
    raise SystemExit(main())
