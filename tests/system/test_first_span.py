"""A new user's way: a fresh clone, vLLM already there, and nothing but what docs/quickstart.md says, as it stands.

What is put in for the reader's own: the model (a tiny one, with what a CPU needs), the ports, and the prices.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from costtrace_lab.demo.processes import wait_until
from costtrace_lab.demo.server import CPU_ARGUMENTS, CPU_ENVIRONMENT, ENVIRONMENT, NOT_INHERITED, free_port
from otlp_receiver import Receiver, attributes, listening
from served_vllm import PRICES

from costtrace.capture.node_files.agent_lock import running

pytestmark = [pytest.mark.vllm, pytest.mark.heavy, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
BOUND_S = 300
"""What a new user is promised."""
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def blocks():
    """The shell blocks of the quickstart's section on vLLM: install and serve, ask, look."""
    text = (ROOT / "docs" / "quickstart.md").read_text()
    section = re.search(r"^## vLLM\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)[1]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert [word in block for word, block in zip(("vllm serve", "curl", "costtrace verify"), blocks, strict=True)]
    return blocks


@pytest.fixture
def environment(vllm_environment, tmp_path):
    """Variables of a shell in an environment that has vLLM and, of its own, nothing: what is installed goes into it."""
    there = vllm_environment / "venv"
    made = tmp_path / "env"
    subprocess.run([there / "bin" / "python", "-m", "venv", made], check=True)
    (packages,) = there.glob("lib/python3*/site-packages")
    (target,) = made.glob("lib/python3*/site-packages")
    (target / "vllm.pth").write_text(f"{packages}\n")
    program = (there / "bin" / "vllm").read_text().splitlines(keepends=True)
    (made / "bin" / "vllm").write_text("".join([f"#!{made}/bin/python\n", *program[1:]]))
    (made / "bin" / "vllm").chmod(0o755)
    left_out = ("OTEL_", "COSTTRACE_", *NOT_INHERITED)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    path = f"{made}/bin:{os.environ['PATH']}"
    more = {"PATH": path, "HOME": str(tmp_path), "VIRTUAL_ENV": str(made), "COSTTRACE_AGENT_IDLE_EXIT_S": "1"}
    return plain | ENVIRONMENT | CPU_ENVIRONMENT | more | {"VLLM_RPC_BASE_PATH": str(tmp_path)}


@contextmanager
def shell(script, folder, environment, log):
    """A shell at work on *script*; it and all that it started are ended afterwards."""
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-euc", script], cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def typed(script, folder, environment):
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_from_a_fresh_clone_to_ones_own_cost_span_in_under_five_minutes(environment, tiny_model, tmp_path):
    if not shutil.which("curl"):
        pytest.skip("curl is not there")
    receiver, port, log = Receiver(), free_port(), tmp_path / "first.log"
    with listening(receiver) as backend:
        own = {
            "vllm serve Qwen/Qwen3-8B": f"vllm serve Qwen/Qwen3-8B --port {port} {' '.join(CPU_ARGUMENTS)}",
            "Qwen/Qwen3-8B": str(tiny_model),
            "127.0.0.1:8000": f"127.0.0.1:{port}",
            "http://127.0.0.1:4317": backend.url,
        }

        def with_own(block):
            for theirs, mine in own.items():
                block = block.replace(theirs, mine)
            return block

        install, ask, look = map(with_own, blocks())
        began_s = time.monotonic()
        typed(f"git clone --quiet {ROOT} clone", tmp_path, environment)
        (tmp_path / "clone" / "prices.yaml").write_text(PRICES)
        # Its doctor may find that this machine has no GPU, which ends nobody's session.
        install = install.replace("costtrace doctor\n", "costtrace doctor || true\n")
        with shell(install, tmp_path / "clone", environment, log) as serving:

            def answers():
                assert serving.poll() is None, log.read_text()[-4_000:]
                up = subprocess.run(
                    ["curl", "-sf", f"http://127.0.0.1:{port}/health"], capture_output=True, check=False
                )
                return up.returncode == 0

            assert wait_until(answers, BOUND_S), log.read_text()[-4_000:]
            typed(ask, tmp_path / "clone", environment)
            assert receiver.wait(lambda: receiver.roots)
            took_s = time.monotonic() - began_s
            seen = typed(look, tmp_path / "clone", environment)
        assert wait_until(lambda: not running(tmp_path / "costtrace"), 30)
    span = receiver.roots[0]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CALLER)
    values = attributes(span)
    assert values["tenant.id"] == "acme"
    assert values["costtrace.cost.amount"] > 0
    assert values["costtrace.gpu.time"] > 0
    assert "acme" in seen
    assert "in balance" in seen
    sys.stdout.write(f"from a fresh clone to the first own cost span: {took_s:.0f} s\n")
    assert took_s < BOUND_S
