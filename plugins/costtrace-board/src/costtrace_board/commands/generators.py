"""Load generators of `costtrace bench`: ``vllm bench serve`` and AIPerf, each a program of an environment of its own.

A generator yields its own result and a way to tell its requests in the ledger: by a prefix of their ids, or by the ids
that it wrote down.
"""

import json
import re
import secrets
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from costtrace.core.errors import CosttraceError
from costtrace_board.figures import Figure
from costtrace_board.load_tests import Served, aiperf, aiperf_latencies, vllm_bench
from costtrace_board.reading import load_json

MAX_RUN_S = 3_600
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class Load(NamedTuple):
    """What is asked of a load generator."""

    command: str
    url: str
    model: str
    tokenizer: str
    input_len: int
    output_len: int
    requests: int
    """For each user; at least."""
    seed: int


class Ran(NamedTuple):
    """One run of a generator."""

    completed: int
    mine: Callable[[str], bool]
    """Whether a request id of the ledger is of this run."""
    latencies: Mapping[str, object]
    """In milliseconds, by the names of vllm bench serve: ``median_tpot_ms``, ..."""
    figure: Callable[[Served], Figure]


def run_vllm(load: Load, users: int, folder: Path) -> Ran:
    """``vllm bench serve`` with so many users at once. Raises: CosttraceError."""
    prefix = f"ctbench-{secrets.token_hex(4)}-c{users}-"
    name = f"vllm_bench_c{users}.json"
    words = [
        *(load.command, "bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions"),
        *("--base-url", load.url, "--model", load.model, "--tokenizer", load.tokenizer, "--dataset-name", "random"),
        *("--random-input-len", str(load.input_len), "--random-output-len", str(load.output_len)),
        *("--num-prompts", str(load.requests * users), "--max-concurrency", str(users), "--ignore-eos"),
        *("--request-id-prefix", prefix, "--seed", str(load.seed), "--disable-tqdm"),
        *("--save-result", "--result-dir", str(folder), "--result-filename", name),
    ]
    _run("vllm bench serve", words, folder / name)
    run = _result(folder / name)
    completed = int(str(run.get("completed", 0)))
    return Ran(completed, lambda known: prefix in known, run, lambda served: vllm_bench(run, name, str(users), served))


def run_aiperf(load: Load, users: int, folder: Path) -> Ran:
    """AIPerf with so many users at once. Raises: CosttraceError.

    Tokens are counted as the server says, which is what the ledger has.
    """
    results = folder / f"aiperf_c{users}"
    if results.exists():
        raise CosttraceError(f"{results} is there already: give --out a folder without results of AIPerf")
    words = [
        *(load.command, "profile", "--endpoint-type", "completions", "--streaming", "--use-server-token-count"),
        *("--url", load.url, "--model", load.model, "--tokenizer", load.tokenizer),
        *("--prompt-input-tokens-mean", str(load.input_len), "--prompt-input-tokens-stddev", "0"),
        *("--prompt-output-tokens-mean", str(load.output_len), "--prompt-output-tokens-stddev", "0"),
        *("--extra-inputs", "ignore_eos:true", "--request-count", str(load.requests * users)),
        *("--concurrency", str(users), "--random-seed", str(load.seed), "--output-artifact-dir", str(results)),
        *("--ui", "none", "--export-level", "records", "--no-gpu-telemetry", "--no-server-metrics"),
    ]
    name = "profile_export_aiperf.json"
    _run("aiperf profile", words, results / name)
    run = _result(results / name)
    ids = aiperf_ids((results / "profile_export.jsonl").read_text(encoding="utf-8"))
    return Ran(
        len(ids),
        lambda known: any(found in ids for found in UUID.findall(known)),
        aiperf_latencies(run),
        lambda served: aiperf(run, f"{results.name}/{name}", str(users), served),
    )


GENERATORS: Mapping[str, Callable[[Load, int, Path], Ran]] = {"vllm": run_vllm, "aiperf": run_aiperf}


def aiperf_ids(lines: str) -> frozenset[str]:
    """X-Request-ID of the measured requests in a ``profile_export.jsonl``. Raises: CosttraceError."""
    found = []
    for number, line in enumerate(lines.splitlines(), start=1):
        try:
            record = json.loads(line)["metadata"]
            if record.get("benchmark_phase", "profiling") == "profiling" and not record.get("was_cancelled"):
                found.append(str(record["x_request_id"]))
        except (ValueError, TypeError, KeyError) as error:
            raise CosttraceError(f"line {number} of AIPerf's profile_export.jsonl is no request: {error!r}") from error
    return frozenset(found)


def _run(name: str, words: Sequence[str], result: Path) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=MAX_RUN_S)  # noqa: S603 - a list, no shell
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CosttraceError(f"{name} did not finish: {error}") from error
    if done.returncode != 0 or not result.exists():
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise CosttraceError(f"{name} failed with status {done.returncode}:\n{tail}")


def _result(path: Path) -> Mapping[str, object]:
    found = load_json(path.read_text(encoding="utf-8"), path.name)
    if not isinstance(found, dict):
        raise CosttraceError(f"{path} is no result of a load generator")
    return found
