"""Runs a real NVIDIA Dynamo on loopback ports: a frontend and its workers, for examples and tests. Stdlib only.

Discovery is a folder of files, requests go over TCP and events over ZeroMQ: neither etcd nor NATS is needed. Each
process gets a session of its own, so that every process that it starts is known and none is left behind. Workers are
ended by SIGKILL where they do not end soon: a disaggregated one does not within 45 s.
"""

import atexit
import contextlib
import http.client
import json
import os
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

from costtrace.core.errors import ServerError
from costtrace_lab.demo.processes import kill_session, session_members, wait_until
from costtrace_lab.demo.server import CPU_ARGUMENTS, CPU_ENVIRONMENT, ENVIRONMENT, HOST, NOT_INHERITED, free_port

READY_BOUND_S = 300.0
POLL_S = 0.25
LAST_REGISTERED_PORT = 49_151
LOW_PORTS = range(21_000, 32_000)
MODEL_NAME = "tiny-model"
EXPIRED = "FileStore::keep_alive failed opening owned file"
"""The log line of a Dynamo process whose registration another one has deleted; it does not register again."""
TRANSFER = '{"kv_connector":"NixlConnector","kv_role":"kv_both","kv_buffer_device":"cpu"}'
"""KV goes from the prefill to the decode worker by NIXL, through host memory."""

Mode = Literal["agg", "prefill", "decode"]


class DynamoEnvironment(NamedTuple):
    """What `tools/setup_dynamo.py` wrote about an environment."""

    python: str
    dynamo_version: str


def read_dynamo_environment(folder: Path) -> DynamoEnvironment:
    """Read env.json in *folder*. Raises: ServerError."""
    path = folder / "env.json"
    try:
        fields = json.loads(path.read_text())
        return DynamoEnvironment(*(str(fields[name]) for name in DynamoEnvironment._fields))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(f"{path} is missing or damaged ({error}). Run `make setup-dynamo` first.") from error


def _registered_port() -> int:
    """Return a free port up to LAST_REGISTERED_PORT: Dynamo refuses higher ones. Raises: ServerError."""
    for port in (free_port() for _ in range(1_000)):
        if port <= LAST_REGISTERED_PORT:
            return port
    raise ServerError(f"no port up to {LAST_REGISTERED_PORT} is free")


def _low_port() -> int:
    """Return a free port that fits a signed 16-bit integer, as Dynamo 1.4.2 parses it. Raises: ServerError."""
    for port in random.sample(LOW_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        return port
    raise ServerError(f"no port from {LOW_PORTS.start} to {LOW_PORTS.stop - 1} is free")


class Member:
    """One process of a deployment, with all processes that it starts."""

    def __init__(self, name: str, command: Sequence[str], variables: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as stream:
            self.process = subprocess.Popen(  # noqa: S603 -- the interpreter that set-up made, no shell
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=dict(variables),
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether its first process has ended."""
        return self.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL all its processes at once, as when a node fails."""
        kill_session(self.process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)

    def stop(self, bound_s: float) -> None:
        """SIGTERM, wait, and kill what is left."""
        if not self.ended:
            self.process.terminate()
        wait_until(lambda: self.ended and not session_members(self.process.pid), bound_s)
        self.kill()

    def tail(self, count: int = 30) -> str:
        """The end of its log."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return "\n".join([f"The end of {self.log}:", *lines[-count:]])


class Dynamo:
    """A frontend and its workers; a context manager that makes sure that nothing of it is left.

    `home` becomes COSTTRACE_HOME of the workers. `variables` are added to the environment of all processes (None
    removes one). Logs are `<folder>/<name>.log`. Raises ServerError with the end of a log.
    """

    def __init__(
        self,
        environment: Path,
        model: Path,
        folder: Path,
        home: Path,
        *,
        frontend: Sequence[str] = (),
        variables: Mapping[str, str | None] | None = None,
    ) -> None:
        self.environment = read_dynamo_environment(environment)
        self.model, self.folder, self.home = model, folder, home
        self.port = free_port()
        self.members: dict[str, Member] = {}
        self._frontend, self._variables = tuple(frontend), dict(variables or {})
        self._kv = tempfile.TemporaryDirectory(prefix="dynamo-", ignore_cleanup_errors=True)

    @property
    def url(self) -> str:
        """Address of the frontend."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        atexit.register(self.stop)
        arguments = ("-P", "-m", "dynamo.frontend", "--http-port", str(self.port), *self._frontend)
        self._start("frontend", arguments)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def vllm_worker(self, name: str, mode: Mode = "agg", *args: str) -> Member:
        """Start a worker with a real vLLM (CPU build). `wait` says when it is up."""
        arguments = [
            "-P",
            "-m",
            "dynamo.vllm",
            "--model",
            str(self.model),
            "--served-model-name",
            MODEL_NAME,
            *CPU_ARGUMENTS,
        ]
        # A separate worker process spins while it waits: two of them beside NIXL's threads stall a machine with two
        # cores for seconds, and Dynamo drops processes that are late. So the executor stays in the engine's process.
        variables = CPU_ENVIRONMENT | {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        variables["DYN_FORWARDPASS_METRIC_PORT"] = str(_registered_port())  # Dynamo's own scheduler publishes there
        variables["VLLM_RPC_BASE_PATH"] = self._kv.name  # else vLLM leaves its sockets in /tmp
        if mode != "agg":
            arguments += ["--disaggregation-mode", mode, "--kv-transfer-config", TRANSFER]
            variables |= {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port()), "VLLM_NIXL_SIDE_CHANNEL_HOST": HOST}
        return self._start(name, (*arguments, *args), variables)

    def mocker(self, name: str, mode: Mode = "agg", *args: str) -> Member:
        """Start one of Dynamo's simulated workers, which has no engine and invents its times."""
        arguments = ["-P", "-m", "dynamo.mocker", "--model-path", str(self.model), "--model-name", MODEL_NAME]
        if mode != "agg":
            arguments += ["--disaggregation-mode", mode]
        if mode == "prefill":
            arguments += ["--bootstrap-ports", str(free_port())]
        # Dynamo 1.4.2's frontend gets the model's card and tokenizer from there; otherwise it asks a hub for them.
        variables = {"DYN_SYSTEM_PORT": str(_low_port()), "DYN_SYSTEM_HOST": HOST}
        return self._start(name, (*arguments, *args), variables)

    def expired(self) -> list[str]:
        """Names of the processes that have lost their registration for good, because it expired.

        A registration is a file that its owner touches every 3 s and that any other process deletes at an age of 10 s.
        A machine that stalls for that long is enough, and so are two busy cores.
        """
        return [name for name, member in self.members.items() if EXPIRED in member.log.read_text(errors="replace")]

    def wait(self, bound_s: float = READY_BOUND_S, max_tokens: int = 2) -> None:
        """Wait for the first answer: frontend and workers have found each other then. Raises: ServerError."""
        end = time.monotonic() + bound_s
        while not self._answers(max_tokens):
            for member in self.members.values():
                if member.ended:
                    raise ServerError(f"{member.name} ended with {member.process.returncode}.\n{member.tail()}")
            if lost := self.expired():
                raise ServerError(f"Dynamo dropped {' and '.join(lost)}: the machine was too busy. Start it again.")
            if time.monotonic() > end:
                tails = "\n\n".join(member.tail() for member in self.members.values())
                raise ServerError(f"Dynamo did not answer within {bound_s:.0f} s.\n{tails}")
            time.sleep(POLL_S)

    def stop(self, bound_s: float = 20.0) -> None:
        """End the workers and then the frontend. Can be called twice."""
        atexit.unregister(self.stop)
        workers = [member for name, member in self.members.items() if name != "frontend"]
        for member in workers:
            if not member.ended:
                member.process.terminate()
        for member in (*workers, *(m for m in self.members.values() if m not in workers)):
            member.stop(bound_s)
        self.members.clear()
        self._kv.cleanup()

    def _start(self, name: str, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> Member:
        command = [self.environment.python, *arguments]
        self.members[name] = Member(name, command, self._environment(variables or {}), self.folder / f"{name}.log")
        return self.members[name]

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        values = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
        values |= ENVIRONMENT | {
            "COSTTRACE_HOME": str(self.home),
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": self._kv.name,
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_EVENT_PLANE": "zmq",
            "DYN_HTTP_HOST": HOST,
            "DYN_LOGGING_JSONL": "true",  # without this or tracing, Dynamo passes no trace context to its workers
        }
        for key, value in {**variables, **self._variables}.items():
            values.pop(key, None)
            if value is not None:
                values[key] = value
        return values

    def _answers(self, max_tokens: int) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        body = {"model": MODEL_NAME, "prompt": "Are you there?", "max_tokens": max_tokens}
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
