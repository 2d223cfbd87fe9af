"""The tenant's way through Dynamo's real handler for TensorRT-LLM, from its wheel, to rank 0. The engine is a stub."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "plugins" / "costtrace-tensorrt-llm" / "src", ROOT / "src"]
BUILD = ROOT / "build"
FOUND = [*sorted(BUILD.glob("dynamo-*/venv/bin/python")), *BUILD.glob("dynamo/vllm/venv/bin/python")]
PYTHON = os.environ.get("COSTTRACE_TEST_DYNAMO_PYTHON") or (str(FOUND[-1]) if FOUND else "")


@pytest.mark.heavy
@pytest.mark.skipif(not PYTHON, reason="no environment with ai-dynamo: name its Python, COSTTRACE_TEST_DYNAMO_PYTHON")
def test_what_dynamo_says_of_a_request_reaches_rank_0_and_two_that_take_turns_are_not_mixed_up(tmp_path):
    env = {name: value for name, value in os.environ.items() if "COSTTRACE" not in name}
    env |= {"PYTHONPATH": ":".join(map(str, SOURCES)), "COSTTRACE_HOME": str(tmp_path), "TRTLLM_COSTTRACE_ENABLED": "1"}
    done = subprocess.run(
        [PYTHON, str(ROOT / "tests" / "support" / "dynamo_handler.py")],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["handler"] == "dynamo.trtllm.request_handlers.handler_base", "the wheel's own"
    assert answer["answers"] == [2, 2, 2]
    assert answer["keys"] == ["dynamo:uuid-1", "dynamo:uuid-2", "dynamo:uuid-3"], "by which parts are joined"
    assert answer["same"], "by the client's id and by the executor's"
    assert answer["claims"] == [
        ["acme", "header", f"00-{'1' * 32}-{'1' * 16}-01"],
        ["default", "default", f"00-{'3' * 32}-{'3' * 16}-01"],
        ["globex", "header", f"00-{'2' * 32}-{'2' * 16}-01"],
    ]
