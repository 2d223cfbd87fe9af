"""Keeps a virtual environment of a fixed content up to date. Stdlib only."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from installer import Installer
from setup_common import (
    ROOT,
    SetupError,
    Stages,
    content_hash,
    interpreter_identity,
    locked,
    read_json,
    require_venv_modules,
    say,
    write_json,
)


def bring_up_to_date(
    name: str,
    folder: Path,
    *,
    python: str,
    decided_by: Iterable[Path],
    words: Sequence[str | Path],
    what: str,
    installer_kind: str,
) -> None:
    """Install `words` (an installer's arguments) into `folder`, once, and again when a file of `decided_by` changes.

    `what` is how the content is called where a person reads. Raises SetupError. Its stamp is written last.
    """
    stages = Stages(name, ROOT / "build" / f"{name}.log")
    stamp = folder / "setup.stamp.json"
    with locked(ROOT / "build" / f"{name}.lock", name):
        wanted = {"python": interpreter_identity(python), "folder": str(folder), "hash": content_hash(decided_by)}
        if read_json(stamp) == wanted and (folder / "bin" / "python").exists():
            return
        require_venv_modules(python)
        with stages.stage("making a virtual environment"):
            shutil.rmtree(folder, ignore_errors=True)
            if stages.run([python, "-m", "venv", folder]):
                stages.show_log()
                raise SetupError("the virtual environment could not be made.", f"Read {stages.log}.")
        installer = Installer(stages, folder / "bin" / "python", installer_kind)
        with stages.stage(f"installing {what}"):
            if not installer.install(words):
                raise installer.failure(f"installing {what}")
        write_json(stamp, wanted)
        say(f"[{name}] ready: {os.path.relpath(folder)}")
