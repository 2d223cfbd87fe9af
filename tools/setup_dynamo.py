"""Makes an environment with a real NVIDIA Dynamo and costtrace in it, on a machine without a GPU. Stdlib only.

    python tools/setup_dynamo.py --dir build/dynamo

It is the environment of `tools/setup_vllm.py` (CPU build of the vLLM that the newest Dynamo here pins) with Dynamo's
frontend, mocker and vLLM worker in it, and NIXL for the transfer of KV between workers. Older versions are unpacked
beside it: the tests hold the plugin's hooks against their sources, and run their frontends and mockers.

The result is DIR/env.json: {"python": ..., "dynamo_version": ...}. stdout stays empty. A second run does nothing but
what has changed.
"""

import argparse
import shutil
import sys
from pathlib import Path

import setup_vllm
from installer import Installer
from setup_common import (
    PLUGINS,
    ROOT,
    SetupError,
    Stages,
    content_hash,
    locked,
    project_sources,
    read_json,
    run_main,
    say,
    write_json,
)

RECIPE = 1
"""Raise it when the way Dynamo is installed changes."""
NEWEST = "1.6.1"
OLDER = ("1.4.2",)
VLLM = "0.31.0"
"""What Dynamo 1.6.1 pins."""
WITHOUT_DEPENDENCIES = (
    f"ai-dynamo=={NEWEST}",
    f"ai-dynamo-runtime=={NEWEST}",
    "nixl==1.4.1",
    "nixl-cu12==1.4.1",  # needs no CUDA to move host memory
    "torchvision==0.28.0",  # Dynamo's worker imports it by way of transformers
)
DEPENDENCIES = ("kubernetes<33,>=32.0.1", "redis<9,>=6.2.0", "zstandard<1", "uvloop")
"""Of what Dynamo declares, what its frontend, mocker and vLLM worker import beside what vLLM has."""
PLUGIN_NAMES = ("costtrace-vllm", "costtrace-dynamo")


def set_up(folder: Path, python: str, kind: str) -> None:
    """Bring the environment in `folder` up to date; env.json is written last."""
    words = ["--cpu", "--no-costtrace", "--version", VLLM, "--dir", str(folder / "vllm"), "--python", python]
    setup_vllm.Setup(setup_vllm.parse([*words, "--installer", kind])).run()
    stages = Stages("dynamo", folder / "setup.log")
    venv_python = folder / "vllm" / "venv" / "bin" / "python"
    installer = Installer(stages, venv_python, kind)
    with locked(folder / "lock", "dynamo"):
        _install_dynamo(folder, stages, installer)
        _install_costtrace(folder, stages, installer)
        for version in OLDER:
            _fetch_older(folder / version, version, stages)
        _write_result(folder, str(venv_python))


def _install_dynamo(folder: Path, stages: Stages, installer: Installer) -> None:
    stamp = folder / "dynamo.stamp.json"
    vllm = folder / "vllm" / "vllm.stamp.json"
    wanted = {"recipe": RECIPE, "version": NEWEST, "environment": vllm.stat().st_mtime_ns}
    if read_json(stamp) == wanted:
        return
    stamp.unlink(missing_ok=True)
    with stages.stage(f"installing Dynamo {NEWEST} and NIXL, 150 MB"):
        if not (installer.install(["--no-deps", *WITHOUT_DEPENDENCIES]) and installer.install([*DEPENDENCIES])):
            raise installer.failure(f"installing Dynamo {NEWEST}")
    # The general build of torchvision registers kernels that the CPU build of PyTorch has no place for; without that
    # it can be imported, and serving text uses nothing else of it.
    site_packages = next((folder / "vllm" / "venv" / "lib").glob("python*/site-packages"))
    (site_packages / "torchvision" / "_meta_registrations.py").write_text("")
    with stages.stage("importing Dynamo for the first time"):
        if stages.run([folder / "vllm" / "venv" / "bin" / "python", "-c", "import dynamo.vllm.main, dynamo.frontend"]):
            stages.show_log()
            raise SetupError(f"Dynamo {NEWEST} does not load.", f"Read {stages.log}.")
    write_json(stamp, wanted)


def _install_costtrace(folder: Path, stages: Stages, installer: Installer) -> None:
    stamp = folder / "costtrace.stamp.json"
    wanted = {"hash": content_hash(project_sources(*PLUGIN_NAMES))}
    if read_json(stamp) == wanted:
        return
    stamp.unlink(missing_ok=True)
    words = [str(ROOT), *(str(PLUGINS / name) for name in PLUGIN_NAMES)]
    reinstall = [word for name in ("costtrace-core", *PLUGIN_NAMES) for word in ("--reinstall-package", name)]
    with stages.stage("installing costtrace-core, costtrace-vllm and costtrace-dynamo"):
        if not installer.install(words, uv_words=reinstall):
            raise installer.failure("installing costtrace into Dynamo's environment")
    write_json(stamp, wanted)


def _fetch_older(folder: Path, version: str, stages: Stages) -> None:
    """Unpack an older Dynamo beside the environment: its sources, and its frontend and mocker, which run there."""
    packages = folder / "packages"
    if (packages / "dynamo" / "vllm").is_dir() and list((packages / "dynamo").glob("_core*")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    with stages.stage(f"fetching Dynamo {version}"):
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--disable-pip-version-check", "--target"]
        if stages.run([*command, packages, f"ai-dynamo=={version}", f"ai-dynamo-runtime=={version}"]):
            shutil.rmtree(folder, ignore_errors=True)
            stages.show_log()
            raise SetupError(f"Dynamo {version} could not be fetched.", f"Read {stages.log}.")


def _write_result(folder: Path, python: str) -> None:
    result = {"python": python, "dynamo_version": NEWEST}
    path = folder / "env.json"
    if read_json(path) != result:
        write_json(path, result)
        say(f"[dynamo {NEWEST}] ready: {path}")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--dir", type=Path, default=ROOT / "build" / "dynamo")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--installer", choices=("auto", "uv", "pip"), default="auto")
    given = parser.parse_args()
    python = shutil.which(given.python) or given.python
    return run_main(lambda: set_up(given.dir.resolve(), python, given.installer))


if __name__ == "__main__":
    raise SystemExit(main())
