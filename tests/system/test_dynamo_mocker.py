"""A real Dynamo frontend over Dynamo's simulated workers, in seconds: what of a bill is there without an engine.

The workers' times are made up; that what is split of them adds up, and who each request's worker was, is not.
"""

import json
import subprocess
import sys

import pytest
from costtrace_dynamo.passes.forward_passes import METHOD
from costtrace_dynamo.passes.trace_files import read_passes, read_served
from costtrace_lab.demo.dynamo import Dynamo
from costtrace_lab.demo.processes import wait_until
from http_client import COMPLETIONS, Ask, ask_all, body
from vllm_server import BUILD

DYNAMO = BUILD / "dynamo"
VERSIONS = {"1.6.1": None, "1.4.2": DYNAMO / "1.4.2" / "packages"}
PROMPT = "What does a request cost? " * 20
TOKENS = 8
ASKED = 6

pytestmark = pytest.mark.timeout(400)


def packages(version):
    """Where a version is, for PYTHONPATH; None for the one that is installed. Skips where it is not there."""
    folder = VERSIONS[version]
    there = (DYNAMO / "env.json").is_file() and (BUILD / "tiny-model").is_dir()
    if not there or (folder is not None and not list((folder / "dynamo").glob("_core*"))):
        pytest.skip(f"Dynamo {version} is not there: `make setup-dynamo model` fetches it")
    return folder


@pytest.mark.parametrize("how", ["aggregated", "disaggregated"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_passes_of_simulated_workers_are_handed_out_to_the_requests_that_were_on_them(version, how, tmp_path):
    older = packages(version)
    variables = {
        "PYTHONPATH": None if older is None else str(older),
        "DYN_FPM_TRACE": "1",
        "DYN_FPM_MODE": "full",
        "DYN_FPM_OUTPUT_PATH": str(tmp_path / "fpm"),
        "DYN_REQUEST_TRACE": "1",
        "DYN_REQUEST_TRACE_SINKS": "file",
        "DYN_REQUEST_TRACE_FILE_FORMAT": "jsonl",
        "DYN_REQUEST_TRACE_FILE_PATH": str(tmp_path / "requests"),
    }
    modes = ("agg",) if how == "aggregated" else ("prefill", "decode")
    frontend = ("--router-mode", "kv", *(("--enforce-disagg",) if how == "disaggregated" else ()))
    with Dynamo(DYNAMO, BUILD / "tiny-model", tmp_path, tmp_path / "home", frontend=frontend, variables=variables) as d:
        for mode in modes:
            d.mocker(mode, mode, "--block-size", "16")
        d.wait(120)
        asks = [Ask(COMPLETIONS, {**body(TOKENS), "prompt": f"{PROMPT} {number}"}, []) for number in range(ASKED)]
        replies = ask_all(d.url, asks[:1]) + ask_all(d.url, asks[1:])
        traces = tmp_path / "requests"
        ids = [reply.id.removeprefix("cmpl-") for reply in replies]
        assert wait_until(lambda: traces.exists() and all(one in traces.read_text() for one in ids), 60, 0.1)
    files = sorted(tmp_path.glob("fpm*.jsonl.gz"))
    assert len(files) == len(modes), "a file for each worker"
    passes, served = read_passes(files), read_served([traces])
    assert (passes.damaged, served.damaged) == (0, 0)
    words = [word for file in files for word in ("--passes", str(file))]
    done = subprocess.run(
        [sys.executable, "-m", "costtrace", "dynamo", "estimate", *words, "--requests", str(traces),
         "--per-hour", "2", "--format", "json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    estimate = json.loads(done.stdout)
    rows = {row["request_id"]: row for row in estimate["estimates"]}
    assert {row["method"] for row in rows.values()} == {METHOD}
    assert sum(row["busy_ns"] for row in rows.values()) == sum(one.wall_ns for one in passes.records) > 0
    workers = {one.worker for one in passes.records}
    assert len(workers) == len(modes)
    for name, reply in zip(ids, replies, strict=True):
        row = rows[name]
        assert (row["input_tokens"], row["output_tokens"]) == reply.tokens == (reply.tokens[0], TOKENS)
        assert row["prefill_ns"] > 0
        assert row["decode_ns"] > 0
        if version == "1.6.1":  # the older one's frontend does not record them
            assert {row["prefill_worker"], row["decode_worker"]} == workers
    if version == "1.6.1":
        assert all(rows[name]["cached_tokens"] > 0 for name in ids[1:]), "the router's prefix hits"
