"""Makes `.venv`: this checkout and its plugins installed editable, with the `costtrace` command and the test tools.

    python tools/setup_dev.py [--dir .venv] [--installer auto|uv|pip]

Stdlib only. A second run does nothing until a pyproject.toml changes. stdout stays empty.
"""

import argparse
import shutil
import sys
from pathlib import Path

from environment import bring_up_to_date
from setup_common import PLUGINS, ROOT, run_main


def set_up(folder: Path, python: str, kind: str) -> None:
    """Bring the environment in `folder` up to date."""
    projects = [ROOT, *sorted(path.parent for path in PLUGINS.glob("*/pyproject.toml"))]
    words = [word for project in projects for word in ("--editable", f"{project}[dev]" if project == ROOT else project)]
    bring_up_to_date(
        "setup",
        folder,
        python=python,
        decided_by=[project / "pyproject.toml" for project in projects],
        words=words,
        what="costtrace and its test tools",
        installer_kind=kind,
    )


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--dir", type=Path, default=ROOT / ".venv")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--installer", choices=("auto", "uv", "pip"), default="auto")
    given = parser.parse_args()
    python = shutil.which(given.python) or given.python
    return run_main(lambda: set_up(given.dir.resolve(), python, given.installer))


if __name__ == "__main__":
    raise SystemExit(main())
