"""Installs Python packages with uv where it can be had (about ten times faster), else with pip.

pip's own configuration (files and `PIP_*` variables) decides where packages come from, for both. Stdlib only.
"""

import ast
import os
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from setup_common import ROOT, SetupError, Stages, locked

TOOLS_DIR = ROOT / "build" / "tools"
UV_CACHE = ROOT / "build" / "cache" / "uv"
UV_REQUIREMENT = "uv>=0.5"
PROBE_S = 20.0
NETWORK_SIGNS = re.compile(
    r"NewConnectionError|ConnectTimeoutError|Temporary failure in name resolution|Name or service not known|"
    r"dns error|error sending request|Connection refused|Network is unreachable|operation timed out|Read timed out",
    re.IGNORECASE,
)
NO_SPACE_SIGNS = re.compile(r"No space left on device|os error 28|Errno 28")
NO_SOLUTION_SIGN = "No solution found"
BUILD_SIGNS = re.compile(r"Failed to build|metadata-generation-failed|Building wheel for .* error", re.IGNORECASE)


def pip_settings(python: str | Path) -> dict[str, str]:
    """Return pip's settings by option name (`find-links`, ...), as pip itself resolves them.

    A variable outranks a section for `install`, which outranks `global`. Empty when pip cannot say.
    """
    done = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    ranks = {"global": 0, "install": 1, ":env:": 2}
    options: dict[str, tuple[int, str]] = {}
    for line in done.stdout.splitlines():
        key, _, quoted = line.partition("=")
        section, _, option = key.partition(".")
        if section not in ranks:
            continue
        try:
            value = str(ast.literal_eval(quoted))
        except (ValueError, SyntaxError):
            continue
        if option not in options or ranks[section] >= options[option][0]:
            options[option] = (ranks[section], value)
    return {option: value for option, (_, value) in options.items()}


def uv_arguments(settings: Mapping[str, str]) -> list[str]:
    """Translate pip's settings into uv's options. Like pip, the best version of all indexes is taken."""
    flags = {
        "index-url": "--default-index",
        "extra-index-url": "--extra-index-url",
        "find-links": "--find-links",
        "trusted-host": "--allow-insecure-host",
        "constraint": "--constraints",
    }
    words = ["--index-strategy", "unsafe-best-match"]
    for option, flag in flags.items():
        for value in settings.get(option, "").split():
            words += [flag, value]
    if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        words.append("--no-index")
    return words


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Translate what uv takes from variables only: certificates, proxy, time limit, and a cache on the same disk."""
    values = {"UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(UV_CACHE), "UV_NO_PROGRESS": "1"}
    for option, names in {
        "cert": ("SSL_CERT_FILE",),
        "client-cert": ("SSL_CLIENT_CERT",),
        "proxy": ("HTTPS_PROXY", "HTTP_PROXY"),
    }.items():
        for name in names:
            if option in settings and name not in os.environ:
                values[name] = settings[option]
    timeout = settings.get("default-timeout") or settings.get("timeout")
    if timeout and timeout.isdigit():
        values["UV_HTTP_TIMEOUT"] = timeout
    return values


class Installer:
    """Installs into one virtual environment.

    `kind` is "auto" (uv, and pip where uv cannot be had or fails), "uv" or "pip". `python` is the environment's
    interpreter. Errors are SetupError with the cause read from the log.
    """

    def __init__(self, stages: Stages, python: Path, kind: str = "auto") -> None:
        self._stages, self._python = stages, python
        self._settings = pip_settings(sys.executable)
        self._uv = self._find_uv() if kind != "pip" else None
        self._may_fall_back = kind != "uv"

    def _find_uv(self) -> Path | None:
        """Return uv in an environment of its own under build/tools, made on first use; None when it cannot be had."""
        uv = TOOLS_DIR / "bin" / "uv"
        with locked(TOOLS_DIR.parent / "tools.lock", self._stages.name):
            if not self._works(uv):
                with self._stages.stage("fetching the installer (uv)"):
                    self._stages.run([sys.executable, "-m", "venv", "--clear", TOOLS_DIR])
                    self._stages.run([TOOLS_DIR / "bin" / "python", "-m", "pip", "install", UV_REQUIREMENT])
        return uv if self._works(uv) else None

    @staticmethod
    def _works(uv: Path) -> bool:
        try:
            return subprocess.run([uv, "--version"], capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def install(
        self, words: Sequence[str | Path], *, uv_words: Sequence[str] = (), sources: Sequence[Sequence[str]] = ((),)
    ) -> bool:
        """Install requirements; return whether it worked.

        `words` are understood by both tools and `uv_words` by uv alone. `sources` are extra index options, tried in
        turn with the first tool and then with the next one.
        """
        settled: set[int] = set()
        """Sources of which nothing more is to be expected."""
        if self._uv is not None:
            command: list[str | Path] = [self._uv, "pip", "install", "--python", self._python]
            command += [*uv_arguments(self._settings), *uv_words]
            for place, source in enumerate(sources):
                if not self._reachable(source):
                    settled.add(place)
                    continue
                before = self._stages.log_size()
                if self._stages.run([*command, *source, *words], env=uv_environment(self._settings)) == 0:
                    return True
                text = self._stages.log_text(before)
                if NO_SPACE_SIGNS.search(text):
                    return False
                if NO_SOLUTION_SIGN in text and not NETWORK_SIGNS.search(text):
                    settled.add(place)  # it has seen every index: pip, which is slow at this, would find no more
        return self._may_fall_back and any(
            self._reachable(source) and self._run_pip([*source, *words])
            for place, source in enumerate(sources)
            if place not in settled
        )

    def _run_pip(self, words: Sequence[str | Path]) -> bool:
        command: list[str | Path] = [self._python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        return self._stages.run([*command, "--progress-bar", "off", *words]) == 0

    def _reachable(self, source: Sequence[str]) -> bool:
        """Return whether an extra index answers at all: pip asks one that does not five times for each package."""
        for url in (word for word in source if word.startswith("http")):
            handlers: list[urllib.request.BaseHandler] = [
                urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self._settings.get("cert")))
            ]
            if proxy := self._settings.get("proxy"):
                handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
            try:
                with urllib.request.build_opener(*handlers).open(url, timeout=PROBE_S):
                    pass
            except urllib.error.HTTPError:
                continue
            except (OSError, ValueError) as error:
                if isinstance(getattr(error, "reason", None), ssl.SSLError):
                    continue  # somebody answers, whom uv and pip may have been told to trust
                self._stages.note(f"{url} cannot be reached: {error}")
                return False
        return True

    def failure(self, what: str) -> SetupError:
        """Return the error for a failed install, with a remedy that fits what the log says."""
        self._stages.show_log()
        tail = self._stages.log_text()
        if NO_SPACE_SIGNS.search(tail):
            return SetupError(f"{what}: the disk is full.", f"Free some space (`df -h {ROOT}`), then run it again.")
        if NETWORK_SIGNS.search(tail):
            return SetupError(
                f"{what}: a package index could not be reached.",
                "Check the network and proxy (HTTPS_PROXY), or point pip at a mirror (`pip config set "
                "global.index-url ...`, or PIP_FIND_LINKS for a folder of wheels), then run it again.",
            )
        if BUILD_SIGNS.search(tail):
            return SetupError(f"{what}: a package could not be built.", f"Read {self._stages.log} from its end.")
        return SetupError(f"{what} failed.", f"Read {self._stages.log}, then run it again.")
