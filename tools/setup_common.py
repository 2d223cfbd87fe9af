"""What the set-up tools share: stages with progress, a lock, stamps and errors with a remedy. Stdlib only.

Everything here writes to stderr: stdout stays empty, and the result of a set-up is a file.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ROOT / "plugins"
QUIET_REPORT_S = 15.0
SPINNER = "|/-\\"
SPINNER_S = 0.2
LOG_TAIL_LINES = 25
MIN_PYTHON = (3, 11)
NOT_HASHED = ("__pycache__", "tests")
NOT_INHERITED = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Variables that would make a command look elsewhere, or keep the first start from making later ones faster."""


class SetupError(Exception):
    """A set-up that cannot go on. The message names what is wrong; `remedy` says what to do about it."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def say(line: str) -> None:
    """Print one line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def last_lines(path: Path, count: int = LOG_TAIL_LINES) -> list[str]:
    """Return the last non-empty lines of a text file; none when it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 65536))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()][-count:]


class _Ticker:
    """Shows that a stage is alive: an animated line on a terminal, else one line every 15 s."""

    def __init__(self, title: str, log: Path, stream: TextIO) -> None:
        self._title, self._log, self._stream = title, log, stream
        self._tty = stream.isatty()
        self._stop = threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        if not self._tty:
            self._print(f"{self._title} ...")
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        end = "done" if kind is None else "FAILED"
        clear = "\r\x1b[2K" if self._tty else ""
        self._print(f"{clear}{self._title}: {end} in {time.monotonic() - self._started:.0f} s")

    def _print(self, line: str, end: str = "\n") -> None:
        print(line, file=self._stream, end=end, flush=True)

    def _run(self) -> None:
        tick = 0
        while not self._stop.wait(SPINNER_S if self._tty else QUIET_REPORT_S):
            tick += 1
            note = (last_lines(self._log, 1) or [""])[0].strip()[:60]
            line = f"{self._title} {time.monotonic() - self._started:.0f} s  {note}"
            if self._tty:
                self._print(f"\r\x1b[2K{SPINNER[tick % len(SPINNER)]} {line}", end="")
            else:
                self._print(line)


class Stages:
    """Runs the commands of a set-up one after the other, with progress, and keeps their output in one log."""

    def __init__(self, name: str, log: Path) -> None:
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self.log_size()

    def log_size(self) -> int:
        """Return the length of the log so far, in bytes."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_text(self, start: int | None = None) -> str:
        """Return the log from a position on, or what this run has written to it, with its blanks made single."""
        try:
            data = self.log.read_bytes()[self._log_start if start is None else start :]
        except OSError:
            return ""
        return " ".join(data.decode(errors="replace").split())

    def note(self, line: str) -> None:
        """Write a line of one's own to the log."""
        with self.log.open("a") as log:
            log.write(f"{line}\n")

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Show `title` while the body runs, then how long it took."""
        with _Ticker(f"[{self.name}] {title}", self.log, sys.stderr):
            yield

    def run(self, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> int:
        """Run a command with its output in the log; return its exit status. No stdin, ends with this process."""
        words = [str(word) for word in command]
        inherited = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(words)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=inherited | dict(env or {})
            )
            try:
                return process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise

    def show_log(self) -> None:
        """Print the last lines of the log, for somebody who has to find out why a command failed."""
        say(f"--- last lines of {self.log}:")
        for line in last_lines(self.log):
            say(f"    {line.rstrip()}")
        say("---")


@contextlib.contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Hold an exclusive lock on `path`, waiting (and saying so) while another set-up holds it.

    The kernel lets go of it when the process ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"[{name}] another set-up is at work ({path} is locked); waiting for it to end")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def content_hash(paths: Iterable[Path]) -> str:
    """Return a digest of the names and contents of files and (recursively) folders, their caches and tests left out."""
    digest = hashlib.sha256()
    for top in sorted(paths):
        files = sorted(p for p in top.rglob("*") if p.is_file()) if top.is_dir() else [top]
        for file in files:
            below = file.relative_to(top).parts
            if file.suffix == ".pyc" or any(part in NOT_HASHED or part.endswith(".egg-info") for part in below):
                continue
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def project_sources(*plugins: str) -> list[Path]:
    """Return what a regular install of costtrace-core and of these plugins is built from."""
    paths = (ROOT / "pyproject.toml", ROOT / "src", *(PLUGINS / name for name in plugins))
    return [path for path in paths if path.exists()]


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None when it is missing, torn or something else."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step, so that no reader sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)


def interpreter_identity(python: str) -> str:
    """Return where an interpreter's own installation is, with its version: the same from within its environments."""
    probe = "import sys; print(sys.base_prefix, sys.version.split()[0])"
    try:
        done = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"{python} does not run: {error}", "Name a Python 3.11 or newer.") from error
    return done.stdout.strip()


def require_venv_modules(python: str) -> None:
    """Raise when `python` is too old for costtrace or cannot make virtual environments."""
    probe = "import sys; print(*sys.version_info[:2]); import ensurepip, venv"
    done = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    if len(words) != 2:
        raise SetupError(f"{python} does not run: {done.stderr.strip()[-200:]}", "Name a Python with PYTHON=/path.")
    version = (int(words[0]), int(words[1]))
    if version < MIN_PYTHON:
        raise SetupError(
            f"{python} is Python {version[0]}.{version[1]}; costtrace needs 3.11 or newer.",
            "Name a newer one: make PYTHON=python3.12 ...",
        )
    if done.returncode:
        raise SetupError(
            f"{python} cannot make virtual environments (no venv or ensurepip module).",
            f"On Debian and Ubuntu: sudo apt install python{words[0]}.{words[1]}-venv",
        )


def run_main(body: Callable[[], None]) -> int:
    """Run a tool's body; turn its errors into a message with the remedy and an exit status."""
    try:
        body()
    except SetupError as error:
        say(f"\nerror: {error}\nremedy: {error.remedy}")
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted: run the same command again, it takes up where it stopped")
        return 130
    return 0
