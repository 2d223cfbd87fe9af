"""The load generators that `costtrace bench` runs: ``vllm bench serve`` and AIPerf, each in an environment of its own.

A run yields the generator's result and a way to recognise its requests in the ledger: by a prefix of their ids, or by
the ids that the generator wrote to a file.
"""

import json
import re
import secrets
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from costtrace.core.errors import CosttraceError
from costtrace_board.figures import Figure
from costtrace_board.load_tests import ServerHardware, aiperf, aiperf_latencies, vllm_bench
from costtrace_board.record_fields import count, load_json

MAX_RUN_S = 3_600
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class Load(NamedTuple):
    """The load that a generator is to make."""

    command: str
    url: str
    model: str
    tokenizer: str
    input_len: int
    output_len: int
    requests: int
    """For each concurrent user."""
    seed: int


class LoadRun(NamedTuple):
    """One run of a generator, finished."""

    completed: int
    is_own: Callable[[str], bool]
    """Whether a request id in the ledger belongs to this run."""
    latencies: Mapping[str, object]
    """In ms, under the names of vllm bench serve: ``median_tpot_ms``, ..."""
    figure: Callable[[ServerHardware], Figure]


def run_vllm(load: Load, users: int, folder: Path) -> LoadRun:
    """Run ``vllm bench serve`` with *users* concurrent users. Raises: CosttraceError."""
    prefix = f"ctbench-{secrets.token_hex(4)}-c{users}-"
    name = f"vllm_bench_c{users}.json"
    arguments = [
        *(load.command, "bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions"),
        *("--base-url", load.url, "--model", load.model, "--tokenizer", load.tokenizer, "--dataset-name", "random"),
        *("--random-input-len", str(load.input_len), "--random-output-len", str(load.output_len)),
        *("--num-prompts", str(load.requests * users), "--max-concurrency", str(users), "--ignore-eos"),
        *("--request-id-prefix", prefix, "--seed", str(load.seed), "--disable-tqdm"),
        *("--save-result", "--result-dir", str(folder), "--result-filename", name),
    ]
    _run("vllm bench serve", arguments, folder / name)
    run = _result(folder / name)
    return LoadRun(
        count(run, "completed") or 0,
        lambda request_id: prefix in request_id,
        run,
        lambda server: vllm_bench(run, name, str(users), server),
    )


def run_aiperf(load: Load, users: int, folder: Path) -> LoadRun:
    """Run AIPerf with *users* concurrent users. Raises: CosttraceError.

    It takes the server's token counts, which are those of the ledger.
    """
    results = folder / f"aiperf_c{users}"
    if results.exists():
        raise CosttraceError(f"{results} is there already: give --out a folder without results of AIPerf")
    arguments = [
        *(load.command, "profile", "--endpoint-type", "completions", "--streaming", "--use-server-token-count"),
        *("--url", load.url, "--model", load.model, "--tokenizer", load.tokenizer),
        *("--prompt-input-tokens-mean", str(load.input_len), "--prompt-input-tokens-stddev", "0"),
        *("--prompt-output-tokens-mean", str(load.output_len), "--prompt-output-tokens-stddev", "0"),
        *("--extra-inputs", "ignore_eos:true", "--request-count", str(load.requests * users)),
        *("--concurrency", str(users), "--random-seed", str(load.seed), "--output-artifact-dir", str(results)),
        *("--ui", "none", "--export-level", "records", "--no-gpu-telemetry", "--no-server-metrics"),
    ]
    name = "profile_export_aiperf.json"
    _run("aiperf profile", arguments, results / name)
    run = _result(results / name)
    ids = aiperf_ids((results / "profile_export.jsonl").read_text(encoding="utf-8"))
    return LoadRun(
        len(ids),
        lambda request_id: any(uuid in ids for uuid in UUID.findall(request_id)),
        aiperf_latencies(run),
        lambda server: aiperf(run, f"{results.name}/{name}", str(users), server),
    )


GENERATORS: Mapping[str, Callable[[Load, int, Path], LoadRun]] = {"vllm": run_vllm, "aiperf": run_aiperf}


def aiperf_ids(lines: str) -> frozenset[str]:
    """``X-Request-ID`` of each measured request in a ``profile_export.jsonl``. Raises: CosttraceError."""
    ids = []
    for number, line in enumerate(lines.splitlines(), start=1):
        try:
            own = _measured_id(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CosttraceError(f"line {number} of AIPerf's profile_export.jsonl is no request: {error!r}") from error
        if own is not None:
            ids.append(own)
    return frozenset(ids)


def _measured_id(record: Any) -> str | None:
    """None of a request that was not measured, or failed. Raises: TypeError, KeyError, AttributeError."""
    about = record["metadata"]
    if about.get("benchmark_phase", "profiling") != "profiling" or about.get("was_cancelled") or record.get("error"):
        return None
    own = about["x_request_id"]
    if not (isinstance(own, str) and own):
        raise TypeError("it has no x_request_id")
    return own


def _run(name: str, arguments: Sequence[str], result: Path) -> None:
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=MAX_RUN_S)  # noqa: S603 - a list, no shell
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CosttraceError(f"{name} did not finish: {error}") from error
    if done.returncode != 0 or not result.exists():
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise CosttraceError(f"{name} failed with status {done.returncode}:\n{tail}")


def _result(path: Path) -> Mapping[str, object]:
    parsed = load_json(path.read_text(encoding="utf-8"), path.name)
    if not isinstance(parsed, dict):
        raise CosttraceError(f"{path} is no result of a load generator")
    return parsed
