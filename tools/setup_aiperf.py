"""Makes `build/aiperf`: NVIDIA's load generator, for the test of `costtrace bench --generator aiperf`.

    python tools/setup_aiperf.py [--dir build/aiperf]

It has an environment of its own: it brings 150 packages. A second run does nothing until the requirements change.
Stdlib only.
"""

import argparse
import shutil
import sys
from pathlib import Path

from environment import bring_up_to_date
from setup_common import ROOT, run_main

REQUIREMENTS = ROOT / "tests" / "requirements-aiperf.txt"


def set_up(folder: Path, python: str) -> None:
    """Bring the environment in `folder` up to date."""
    bring_up_to_date(
        "setup-aiperf",
        folder,
        python=python,
        decided_by=[REQUIREMENTS],
        words=["-r", REQUIREMENTS],
        what="AIPerf",
        installer_kind="uv",
    )


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--dir", type=Path, default=ROOT / "build" / "aiperf")
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    python = shutil.which(given.python) or given.python
    return run_main(lambda: set_up(given.dir.resolve(), python))


if __name__ == "__main__":
    raise SystemExit(main())
