"""Makes `build/peers`: programs that nobody here wrote and that read the NVML double (tests/requirements-peers.txt).

    python tools/setup_peers.py [--dir build/peers]

They have an environment of their own, because they pin what the tests need newer. A second run does nothing until the
requirements change. Stdlib only.
"""

import argparse
import shutil
import sys
from pathlib import Path

from environment import bring_up_to_date
from setup_common import ROOT, run_main

REQUIREMENTS = ROOT / "tests" / "requirements-peers.txt"


def set_up(folder: Path, python: str) -> None:
    """Bring the environment in `folder` up to date; by uv, as pip does not finish resolving these."""
    bring_up_to_date(
        "setup-peers",
        folder,
        python=python,
        decided_by=[REQUIREMENTS],
        words=["-r", REQUIREMENTS],
        what="Zeus, nvitop, OpenLIT, Playwright and axe",
        installer_kind="uv",
    )


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--dir", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    python = shutil.which(given.python) or given.python
    return run_main(lambda: set_up(given.dir.resolve(), python))


if __name__ == "__main__":
    raise SystemExit(main())
