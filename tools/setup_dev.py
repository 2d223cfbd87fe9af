"""Makes `.venv`: this checkout and its plugins installed editable, with the `costtrace` command and the test tools.

    python tools/setup_dev.py [--dir .venv] [--installer auto|uv|pip]

Stdlib only. A second run does nothing until a pyproject.toml changes. stdout stays empty.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from installer import Installer
from setup_common import (
    PLUGINS,
    ROOT,
    SetupError,
    Stages,
    content_hash,
    interpreter_identity,
    locked,
    read_json,
    require_venv_modules,
    run_main,
    say,
    write_json,
)

NAME = "setup"


def set_up(folder: Path, python: str, kind: str) -> None:
    """Bring the environment in `folder` up to date; its stamp is written last."""
    projects = [ROOT, *sorted(path.parent for path in PLUGINS.glob("*/pyproject.toml"))]
    stages = Stages(NAME, ROOT / "build" / "setup.log")
    stamp = folder / "setup.stamp.json"
    with locked(ROOT / "build" / "setup.lock", NAME):
        wanted = {
            "python": interpreter_identity(python),
            "folder": str(folder),
            "hash": content_hash(project / "pyproject.toml" for project in projects),
        }
        if read_json(stamp) == wanted and (folder / "bin" / "python").exists():
            return
        require_venv_modules(python)
        with stages.stage("making a virtual environment"):
            shutil.rmtree(folder, ignore_errors=True)
            if stages.run([python, "-m", "venv", folder]):
                stages.show_log()
                raise SetupError("the virtual environment could not be made.", f"Read {stages.log}.")
        installer = Installer(stages, folder / "bin" / "python", kind)
        words = [
            word for project in projects for word in ("--editable", f"{project}[dev]" if project == ROOT else project)
        ]
        with stages.stage("installing costtrace and its test tools"):
            if not installer.install(words):
                raise installer.failure("installing costtrace and its test tools")
        write_json(stamp, wanted)
        say(f"[{NAME}] ready: {os.path.relpath(folder)}/bin/costtrace")


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
