"""Runs a real vLLM server on a loopback port, for the demo and for the tests. Stdlib only.

The server gets a session of its own, so that every process it starts is known and none is left behind. On two cores
its start is mostly imports: the front end, then the engine core, then the worker each import PyTorch, one after the
other (7 to 9 s each). `worker_in_engine` avoids the third.
"""

import atexit
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from costtrace.core.errors import ServerError
from costtrace_lab.demo.processes import Process, kill_session, session_members, wait_until

HOST = "127.0.0.1"
START_BOUND_S = 300.0
STOP_BOUND_S = 30.0
OTHERS_BOUND_S = 15.0
HEALTH_POLL_S = 0.25
PROGRESS_S = 1.0
ENGINE_TITLE = "EngineCore"
"""vLLM renames its engine processes to VLLM::EngineCore (with a suffix _DP0, _DP1, ... if there are several)."""
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONFAULTHANDLER": "1",  # on SIGABRT a server that hangs prints its stacks: see stop()
}
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # vLLM 0.28 compiles its sampler at the first request even with --enforce-eager: 20 s, and without a C++ compiler
    # on the machine its engine dies of it.
    "TORCH_COMPILE_DISABLE": "1",
}
CPU_ARGUMENTS = ("--enforce-eager", "--dtype", "float32", "--max-model-len", "1024")
GPU_ARGUMENTS = ("--enforce-eager", "--max-model-len", "1024", "--gpu-memory-utilization", "0.3")
NOT_INHERITED = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""The first variable forbids writing compiled files beside the modules; without them a start takes twice as long."""

Progress = Callable[[float, str], None]
"""Called about once a second while a server starts, with the seconds so far and the last line of its log."""


def free_port() -> int:
    """Return a loopback TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def read_environment(env_dir: Path) -> dict[str, str]:
    """Return what `tools/setup_vllm.py` wrote about an environment: python, vllm_version, kind."""
    path = env_dir / "env.json"
    try:
        fields = json.loads(path.read_text())
        return {key: str(fields[key]) for key in ("python", "vllm_version", "kind")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(f"{path} is missing or damaged ({error}). Run `make setup-vllm` first.") from error


class VllmServer:
    """One vLLM server: a context manager that starts it and makes sure that nothing of it is left.

    `home` becomes COSTTRACE_HOME. `args` are added to vLLM's arguments and `env` to its environment (None removes a
    variable). The log, stdout and stderr together, is `log` or `<home>-vllm.log`.
    """

    def __init__(
        self,
        env_dir: Path,
        model_dir: Path,
        home: Path,
        *,
        port: int | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str | None] | None = None,
        log: Path | None = None,
        model_name: str = "tiny-model",
        worker_in_engine: bool = False,
        start_bound_s: float = START_BOUND_S,
        on_progress: Progress | None = None,
    ) -> None:
        self.environment = read_environment(env_dir)
        self.model_dir, self.home, self.model_name = model_dir, home, model_name
        self.port = port or free_port()
        self.log_path = log or home.with_name(f"{home.name}-vllm.log")
        self._args, self._env, self._worker_in_engine = tuple(args), dict(env or {}), worker_in_engine
        self._start_bound_s, self.on_progress = start_bound_s, on_progress
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: tempfile.TemporaryDirectory[str] | None = None
        self.start_s: float | None = None
        """Seconds from the start of the process to its first healthy answer."""

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://{HOST}:{self.port}"

    @property
    def started(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Process id of the front end, which is also the id of the session."""
        if self._process is None:
            raise ServerError("This server has not been started: call start() first.")
        return self._process.pid

    @property
    def members(self) -> list[Process]:
        """All live processes of this server."""
        return session_members(self.pid)

    @property
    def engine_pids(self) -> list[int]:
        """Process ids of the engine cores (one for each data-parallel rank), lowest first."""
        return [process.pid for process in self.members if ENGINE_TITLE in process.command.partition(" ")[0]]

    @property
    def engine_pid(self) -> int:
        """Process id of the engine core."""
        pids = self.engine_pids
        if not pids:
            raise ServerError(f"No engine core is running any more; see {self.log_path}.")
        return pids[0]

    def command(self) -> list[str]:
        """Return the command line: what `vllm serve` runs, with the arguments of this kind of device."""
        device = CPU_ARGUMENTS if self.environment["kind"] != "cuda" else GPU_ARGUMENTS
        start = [self.environment["python"], "-P", "-m", "vllm.entrypoints.cli.main", "serve", str(self.model_dir)]
        return [
            *start,
            "--served-model-name",
            self.model_name,
            "--host",
            HOST,
            "--port",
            str(self.port),
            *device,
            *self._args,
        ]

    def variables(self) -> dict[str, str]:
        """Return the environment of the server."""
        values = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
        values |= ENVIRONMENT | {"COSTTRACE_HOME": str(self.home)}
        if self._sockets is not None:
            values["VLLM_RPC_BASE_PATH"] = self._sockets.name  # else vLLM leaves its sockets in /tmp
        if self.environment["kind"] != "cuda":
            values |= CPU_ENVIRONMENT
        if self._worker_in_engine:
            values["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # on the CPU: the executor without a worker process
        for key, value in self._env.items():
            values.pop(key, None)
            if value is not None:
                values[key] = value
        return values

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it is healthy. Raises ServerError with the end of the log."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._sockets = tempfile.TemporaryDirectory(prefix="vllm-", ignore_cleanup_errors=True)
        started = time.monotonic()
        with os.fdopen(descriptor, "ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 -- the interpreter that set-up made, no shell
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.variables(),
                start_new_session=True,
            )
        atexit.register(self.stop)
        try:
            self._wait_until_healthy(started)
        except BaseException:  # also on Ctrl-C no server is left behind
            self.stop()
            raise
        self.start_s = time.monotonic() - started

    def _wait_until_healthy(self, started: float) -> None:
        last_report = started
        while not self.healthy():
            now = time.monotonic()
            if self._process is not None and self._process.poll() is not None:
                raise ServerError(f"vLLM ended with status {self._process.returncode} while starting.\n{self._tail()}")
            if now - started > self._start_bound_s:
                raise ServerError(f"vLLM was not healthy within {self._start_bound_s:.0f} s.\n{self._tail()}")
            if self.on_progress is not None and now - last_report >= PROGRESS_S:
                last_report = now
                self.on_progress(now - started, (self.log_lines(1) or [""])[0])
            time.sleep(HEALTH_POLL_S)

    def healthy(self) -> bool:
        """Return whether the server answers its health check."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def log_lines(self, count: int) -> list[str]:
        """Return the last non-empty lines of the server's log."""
        try:
            text = self.log_path.read_text(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-count:]

    def _tail(self) -> str:
        return "\n".join([f"The end of {self.log_path}:", *self.log_lines(30)])

    def kill_engine(self, bound_s: float = STOP_BOUND_S) -> int:
        """SIGKILL the engine core, and nothing else; return its process id once it is gone."""
        pid = self.engine_pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(process.pid != pid for process in self.members), bound_s)
        return pid

    def stop(self, bound_s: float = STOP_BOUND_S) -> list[Process]:
        """SIGTERM the front end, wait, and kill what is left; return what had to be killed. Can be called twice.

        A front end that is still there after *bound_s* seconds gets SIGABRT before, so that its log shows the stack of
        each of its threads.
        """
        process = self._process
        if process is None:
            return []
        atexit.unregister(self.stop)
        killed: list[Process] = []
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(bound_s)
            except subprocess.TimeoutExpired:
                killed = [member for member in self.members if member.pid == process.pid]
                process.send_signal(signal.SIGABRT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(OTHERS_BOUND_S)
        # The other processes end by themselves shortly after the front end: wait for that, then kill.
        if process.poll() is None or not wait_until(lambda: not self.members, OTHERS_BOUND_S):
            killed += [member for member in kill_session(process.pid) if member not in killed]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(OTHERS_BOUND_S)
        if self._sockets is not None:
            self._sockets.cleanup()
        return killed
